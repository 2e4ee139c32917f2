"""Filters agree with the same predicate evaluated in Python over all rows."""

from collections import Counter
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from schema import build_schema, ids
from schema.mirror import Mirror
from tests.connections import Path, connections
from tests.factories import Row
from tests.filters import FilterWriter
from tests.reading.asking import Question, parent_of
from tests.reading.conftest import Population
from tests.reading.oracle import Oracle, is_live
from tests.ways import Way

FILTERED = sorted(connections(), key=str)


@st.composite
def filters(draw: Any) -> tuple[Path, dict[str, Any]]:
    """A connection, and a filter of its rows."""
    path = draw(st.sampled_from(FILTERED))
    type_: Any = build_schema()._schema.type_map[f"{path.target.name}Filter"]
    writer = FilterWriter(draw, foreign=False)
    return path, writer.filter(type_, path.target, draw(st.integers(0, 3)))


def global_ids(mirror: Mirror, rows: list[Row]) -> list[str]:
    """The ids of rows, sorted."""
    return sorted(ids.encode(mirror.key, row["id"]) for row in rows)


@given(asked=filters(), deleted=st.booleans(), number=st.integers(0, 99))
async def test_filters_mean_what_python_means(
    population: Population,
    tally: Counter[str],
    asked: tuple[Path, dict[str, Any]],
    deleted: bool,
    number: int,
) -> None:
    path, written = asked
    rows = population.world.rows
    oracle = Oracle(rows)
    target = path.target
    filter_ = population.world.value(written)
    question = Question(path, "{ nodes { id } totalCount }")
    question.given("first", "Int", 1000)

    parents: list[Row] = []
    if path.is_root:
        if "deleted_at" in target.table.c and not path.relation.only_live:
            question.given("deleted", "Boolean", deleted)
            universes = [[one for one in rows[target.table.name] if is_live(one) != deleted]]
        else:
            universes = [[one for one in rows[target.table.name] if is_live(one)]]
        if path.relation.only_live:
            (page,) = await question.ask(population.person, parents, Way.CORE)
            known = {node["id"] for node in page["nodes"]}
            universes = [[one for one in universes[0] if global_ids(target, [one])[0] in known]]
    else:
        parents = [one for one in rows[parent_of(path).table.name] if is_live(one)]
        argument: UUID | None = None
        if path.relation.argument is not None:
            messages = rows["messages"]
            argument = messages[number % len(messages)]["id"]
            question.given("leafId", "ID!", ids.encode("message", argument))
        universes = [oracle.related(path.parent, path.name, one, argument) for one in parents]

    question.given("filter", f"{target.name}Filter", filter_)
    way = Way.CORE if number % 2 else Way.PLANNED
    pages = await question.ask(population.person, parents, way)
    for page, universe in zip(pages, universes, strict=True):
        kept = [one for one in universe if oracle.matches(target, filter_, one)]
        assert sorted(node["id"] for node in page["nodes"]) == global_ids(target, kept)
        assert page["totalCount"] == len(kept)
        tally["pages with some of the rows"] += 0 < len(kept) < len(universe)
        tally["pages with all of the rows"] += 0 < len(kept) == len(universe)
    tally["filters"] += 1
