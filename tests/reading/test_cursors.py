"""Cursors and ids: they come back as they were, and nothing else is taken for one."""

import base64
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import orjson
import pytest
import sqlalchemy as sa
from hypothesis import assume, given
from hypothesis import strategies as st

from schema import ids
from schema.errors import RequestError
from schema.mirror import MIRRORS, Mirror, OrderTerm
from schema.pages import MAX_CURSOR_CHARS, decode_cursor, encode_cursor, request_page
from tests.connections import Path, connections
from tests.filters import complete
from tests.reading.conftest import Population
from tests.ways import Way, answer

Order = tuple[OrderTerm, ...]


def orders(path: Path) -> Iterator[Order]:
    """The default order of a connection, one of each field, and one of several."""
    fields = path.target.order_by
    yield complete(path.relation.default_order)
    for name in fields:
        yield complete([OrderTerm(name)])
    if len(fields) > 1:
        yield complete([OrderTerm(name, True) for name in fields])


ORDERED = [(path.target, order) for path in connections() for order in orders(path)]
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200)
VALUES: dict[type, st.SearchStrategy[Any]] = {
    UUID: st.uuids(),
    str: TEXT,
    int: st.integers(-(2**31), 2**31 - 1),
    datetime: st.datetimes(
        min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC)
    ),
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def value_of(column: sa.Column[Any]) -> st.SearchStrategy[Any]:
    """Any value of a column."""
    values = VALUES[column.type.python_type]
    return st.none() | values if column.nullable else values


@st.composite
def places(draw: Any) -> tuple[Mirror, Order, list[Any]]:
    """A type, an order of it, and the values of a row."""
    mirror, order = draw(st.sampled_from(ORDERED))
    return mirror, order, [draw(value_of(mirror.table.c[term.column])) for term in order]


def cursor_of(content: object) -> str:
    """A cursor with any content."""
    text = orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS)
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


@given(place=places())
def test_a_cursor_comes_back_as_it_was(
    place: tuple[Mirror, Order, list[Any]],
) -> None:
    mirror, order, values = place
    text = encode_cursor(order, values)
    assert len(text) <= MAX_CURSOR_CHARS
    assert decode_cursor(mirror, order, text) == tuple(values)


@given(place=places(), other=st.sampled_from(ORDERED))
def test_a_cursor_is_refused_under_another_order(
    place: tuple[Mirror, Order, list[Any]],
    other: tuple[Mirror, Order],
) -> None:
    _, order, values = place
    mirror, another = other
    assume(order != another)
    arguments = {"after": encode_cursor(order, values), "order_by": another[:-1]}
    with pytest.raises(RequestError) as refused:
        request_page(mirror, (), arguments)
    assert refused.value.extensions == {"code": "BAD_CURSOR"}


@given(
    place=places(),
    made=st.lists(JSON, max_size=4) | JSON,
    position=st.integers(0, 3),
    text=st.none() | st.text(max_size=60),
)
def test_nothing_else_is_a_cursor(
    place: tuple[Mirror, Order, list[Any]],
    made: Any,
    position: int,
    text: str | None,
) -> None:
    """Any text, any content, and any value in the place of a right one: refused, or of the type."""
    mirror, order, values = place
    signature = ",".join(f"{'-' * term.descending}{term.column}" for term in order)
    if isinstance(made, list) and made:
        values = [*values[:position], made[0], *values[position + 1 :]]
        made = [signature, *values]
    arguments = {"before": text if text is not None else cursor_of(made)}
    try:
        request = request_page(mirror, order, arguments | {"order_by": order[:-1]})
    except RequestError as refused:
        code = refused.extensions
    else:
        code = {"code": "BAD_CURSOR"}
        for term, value in zip(order, request.before, strict=True):
            column = mirror.table.c[term.column]
            assert value is None or isinstance(value, column.type.python_type)
    assert code == {"code": "BAD_CURSOR"}


@pytest.mark.parametrize(
    "values",
    [
        ["0001-01-01T00:00:00+14:00", str(UUID(int=1))],
        ["9999-12-31T23:59:59-14:00", str(UUID(int=1))],
        ["0001-01-01T00:00:00Z", str(UUID(int=1))],
        ["9999-12-31T23:59:59.999999Z", str(UUID(int=1))],
        ["2026-01-01", str(UUID(int=1))],
        ["2026-W01-1T00:00:00Z", str(UUID(int=1))],
        ["2026-01-01T00:00:00+00:00:00.5", str(UUID(int=1))],
        ["2026-01-01T00:00:00Z", 5],
        ["2026-01-01T00:00:00Z", None],
        ["2026-01-01T00:00:00Z", "{12345678123456781234567812345678}"],
        [5, str(UUID(int=1))],
        [None, str(UUID(int=1))],
        [["2026-01-01T00:00:00Z"], str(UUID(int=1))],
    ],
    ids=str,
)
async def test_a_forged_cursor_is_no_fault_of_the_server(
    population: Population, values: list[Any]
) -> None:
    cursor = cursor_of(["-created_at,-id", *values])
    text = "query ($after: String) { projects(after: $after) { nodes { id } } }"
    for way in Way:
        answered = await answer(population.person, text, {"after": cursor}, way)
        codes = [error.get("extensions") for error in answered.errors]
        assert codes in ([], [{"code": "BAD_CURSOR"}]), answered.errors


def test_what_can_be_ordered_by_compares() -> None:
    """Nulls count as the latest moment; for other types there is no such value."""
    for mirror, order in ORDERED:
        for term in order:
            column = mirror.table.c[term.column]
            assert not column.nullable or column.type.python_type is datetime


@given(mirror=st.sampled_from(list(MIRRORS.values())), value=st.uuids())
def test_an_id_comes_back_as_it_was(mirror: Mirror, value: UUID) -> None:
    text = ids.encode(mirror.key, value)
    assert ids.decode(text) == (mirror.key, value)
    assert ids.decode_as(mirror.key, text) == value


@given(
    text=st.text(max_size=80)
    | st.from_regex(r"[a-z_]{0,12}_?[0-9a-fA-F]{30,34}\n?", fullmatch=True)
    | st.from_regex(r"(task|project)_[0-9a-f]{32}", fullmatch=True)
)
def test_nothing_else_is_an_id(text: str) -> None:
    try:
        key, value = ids.decode(text)
    except ids.BadId:
        return
    assert ids.encode(key, value) == text


@given(mirror=st.sampled_from(list(MIRRORS.values())), value=st.uuids())
def test_an_id_of_another_type_is_refused(mirror: Mirror, value: UUID) -> None:
    with pytest.raises(ids.BadId):
        ids.decode_as("unknown", ids.encode(mirror.key, value))


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("query ($id: ID!) { node(id: $id) { id } }", {"id": "x"}),
        ("query ($id: ID!) { nodes(ids: [$id]) { id } }", {"id": f"nothing_{'0' * 32}"}),
        ("query ($id: ID!) { task(id: $id) { id } }", {"id": f"project_{'0' * 32}"}),
        ("query ($id: ID!) { tasks(filter: {id: {eq: $id}}) { totalCount } }", {"id": "task_1"}),
        (
            "query ($id: ID!) { tasks(filter: {projectId: {in: [$id]}}) { totalCount } }",
            {"id": f"task_{'0' * 32}"},
        ),
    ],
)
async def test_a_bad_id_is_an_error_with_a_code(
    population: Population, text: str, variables: dict[str, str]
) -> None:
    for way in Way:
        answered = await answer(population.person, text, variables, way)
        assert [error["extensions"] for error in answered.errors] == [{"code": "BAD_ID"}]


OFFSETS = st.timedeltas(min_value=timedelta(hours=-23), max_value=timedelta(hours=23)).map(
    lambda offset: timezone(timedelta(seconds=int(offset.total_seconds())))
)


@given(moment=st.datetimes(timezones=OFFSETS))
def test_a_moment_with_any_offset_is_one_of_utc(moment: datetime) -> None:
    """The driver turns moments into UTC, which has no year 0 and no year 10000."""
    mirror, order = next(one for one in ORDERED if one[1][0].column == "created_at")
    signature = ",".join(f"{'-' * term.descending}{term.column}" for term in order)
    cursor = cursor_of([signature, moment.isoformat(), str(UUID(int=1))])
    try:
        values = decode_cursor(mirror, order, cursor)
    except (ValueError, OverflowError):
        return
    assert values[0].astimezone(UTC) == moment
