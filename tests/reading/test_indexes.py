"""Every connection pages by an index: no statement reads or sorts an owner's whole slice."""

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from db.connection import OpenTransaction
from db.embedded import EmbeddedServer
from db.engine import create_engine
from db.models import metadata
from db.prepared import Parameters, PreparedSelect
from db.repositories.journal import (
    Position,
    events_page,
    is_position,
    latest_position,
    next_events,
)
from db.session import Session
from schema import ids
from schema.mirror import Mirror, OrderTerm
from schema.pages import encode_cursor
from tests.conftest import TEMPLATE
from tests.connections import Path, connections, paths
from tests.factories import Factory, Row
from tests.filters import complete, order_argument
from tests.people import Person
from tests.reading.asking import Question, parent_of
from tests.reading.conftest import services
from tests.reading.large import SIZE, factories, fill
from tests.reading.oracle import is_live
from tests.references import signature
from tests.ways import Way

PAGE = "{ nodes { id } pageInfo { hasNextPage endCursor } }"
DATABASE = "engram_large"
PARENTS = 20
MAX_READ = 2_000
"""Rows that a statement may read for a page of twenty of each of twenty parents."""
DELETED = SIZE // 4
"""More than are deleted. An index finds them; as they should be few, none holds their orders."""
EXCEPTIONS = {
    # Picked from the open tasks, which an index holds in the order of claims.
    "Query.readyTasks": SIZE // 2,
    # A message's variants are few, but for these copies.
    "Message.siblings": 2 * SIZE,
}
"""Rows that other connections may read or sort."""


@dataclass
class Explained:
    """Plans of the statements of an application session, as they ran."""

    person: Person
    rows: dict[str, list[Row]]
    admin: AsyncEngine
    plans: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    """The kind of plan, the statement, the plan."""

    async def cursor(self, table: sa.Table, order: Sequence[OrderTerm], share: float) -> str:
        """The cursor of a row after that share of the person's rows."""
        keys = [
            table.c[term.column].desc() if term.descending else table.c[term.column]
            for term in order
        ]
        mine = table.c.owner_id == self.person.owner_id
        count = sa.select(sa.func.count() * share).where(mine).scalar_subquery()
        row = sa.select(table).where(mine).order_by(*keys).offset(count).limit(1)
        async with self.admin.connect() as connection:
            (found,) = (await connection.execute(row)).mappings()
        return encode_cursor(tuple(order), [found[term.column] for term in order])


def faults(node: dict[str, Any], most: float) -> Iterator[str]:
    """What a plan must not do."""
    loops = node["Actual Loops"]
    kind = node["Node Type"]
    if kind == "Seq Scan" and node["Relation Name"] in metadata.tables:
        yield f"sequential scan of {node['Relation Name']}"
    if "Relation Name" in node:
        dropped = node.get("Rows Removed by Filter", 0) + node.get(
            "Rows Removed by Index Recheck", 0
        )
        read = (node["Actual Rows"] + dropped) * loops
        if read > most:
            yield f"{read:.0f} rows read of {node['Relation Name']} by {kind}"
    for child in node.get("Plans", []):
        if kind in ("Sort", "Incremental Sort"):
            sorted_ = child["Actual Rows"] * child["Actual Loops"]
            if sorted_ > most:
                yield f"{sorted_:.0f} rows sorted by {node['Sort Key']}"
        yield from faults(child, most)


def quoted(value: Any) -> str:
    """A value as a literal of SQL."""
    if value is None:
        return "NULL"
    if isinstance(value, list | tuple):
        value = "{" + ",".join(map(str, value)) + "}"
    text = value.isoformat() if isinstance(value, datetime) else str(value)
    return "'" + text.replace("'", "''") + "'"


async def prepare(server: EmbeddedServer, owners: list[Factory]) -> None:
    """Make the large database, unless another process of this run has made it.

    It goes with the server, at the end of the run.
    """
    only_one = create_engine(server.admin_url(), pool_size=1)
    async with only_one.connect() as lock:
        await lock.execute(sa.text("SELECT pg_advisory_lock(hashtext('engram_large'))"))
        there = sa.text("SELECT 1 FROM pg_database WHERE datname = :name")
        if (await lock.execute(there, {"name": DATABASE})).first() is None:
            server.create_database(f"{DATABASE}_new", template=TEMPLATE)
            admin = create_engine(server.admin_url(f"{DATABASE}_new"), pool_size=1)
            await fill(admin, owners)
            await admin.dispose()
            server.sql(f"ALTER DATABASE {DATABASE}_new RENAME TO {DATABASE}")
    await only_one.dispose()


@pytest_asyncio.fixture(scope="module")
async def explained(server: EmbeddedServer) -> AsyncIterator[Explained]:
    """The owner of large tables, whose statements are explained as they are sent."""
    owner, stranger = factories(UUID(int=1), UUID(int=2))
    await prepare(server, [owner, stranger])
    admin = create_engine(server.admin_url(DATABASE), pool_size=1)
    engine = create_engine(server.url(DATABASE), pool_size=1)
    person = Person(owner.owner_id, owner.rows["workers"][0]["id"], services(engine))
    found = Explained(person, owner.rows, admin)
    original = OpenTransaction.fetch
    alone = Session.fetch

    async def together(
        self: Session, statement: PreparedSelect, parameters: Parameters, **_: bool
    ) -> Sequence[Any]:
        # What explains a statement runs beside it, under the same settings.
        return await alone(self, statement, parameters)

    async def fetch(self: OpenTransaction, sql: str, arguments: Sequence[object]) -> Sequence[Any]:
        explain = "EXPLAIN (ANALYZE, FORMAT JSON) "
        ((custom,),) = await original(self, explain + sql, arguments)
        # After some runs of a prepared statement PostgreSQL may plan it for any arguments.
        await original(self, "SET LOCAL plan_cache_mode = force_generic_plan", ())
        await self._driver.execute(f"PREPARE explained AS {sql}")
        values = ", ".join(map(quoted, arguments))
        ((generic,),) = await original(self, f"{explain} EXECUTE explained({values})", ())
        await self._driver.execute("DEALLOCATE explained; RESET plan_cache_mode")
        for kind, plan in (("custom", custom), ("generic", generic)):
            found.plans.append((kind, sql, plan[0]["Plan"]))
        return await original(self, sql, arguments)

    OpenTransaction.fetch = fetch  # type: ignore[method-assign]  # put back below
    Session.fetch = together  # type: ignore[method-assign]  # likewise
    try:
        yield found
    finally:
        OpenTransaction.fetch = original  # type: ignore[method-assign]  # as it was
        Session.fetch = alone  # type: ignore[method-assign]  # likewise
        await engine.dispose()
        await admin.dispose()


def orders(path: Path) -> list[tuple[OrderTerm, ...]]:
    """The default order, and at a root each field in both directions."""
    fields = path.target.order_by if path.is_root else ()
    return [(), *((OrderTerm(name, way),) for name in fields for way in (False, True))]


def is_deletable(path: Path) -> bool:
    """Whether the connection can be asked for deleted rows."""
    return "deleted_at" in path.target.table.c and not path.relation.only_live


CASES = [
    pytest.param(path, order, deleted, id=f"{path}-{signature(order)}{'-deleted' * deleted}")
    for path in sorted(connections(), key=str)
    for order in orders(path)
    for deleted in ([False, True] if path.is_root and is_deletable(path) else [False])
]


@pytest.mark.parametrize(("path", "order", "deleted"), CASES)
async def test_a_page_is_read_by_an_index(
    explained: Explained, path: Path, order: tuple[OrderTerm, ...], deleted: bool
) -> None:
    wrong: list[str] = []
    parents = [] if path.is_root else live(explained, parent_of(path))[:PARENTS]
    terms = complete(order or path.relation.default_order)
    cursors = [await explained.cursor(path.target.table, terms, share) for share in (0.4, 0.95)]
    for backward in (False, True):
        for cursor in (None, *cursors):
            question = Question(path, PAGE)
            question.given("last" if backward else "first", "Int", 20)
            if order:
                name = f"[{path.target.name}Order!]"
                question.given("orderBy", name, order_argument(list(order)))
            if deleted:
                question.given("deleted", "Boolean", True)
            if cursor is not None:
                question.given("before" if backward else "after", "String", cursor)
            if path.relation.argument is not None:
                leaf = explained.rows["messages"][-1]["id"]
                question.given("leafId", "ID!", ids.encode("message", leaf))
            explained.plans.clear()
            await question.ask(explained.person, parents, Way.PLANNED)
            place = "from an end" if cursor is None else f"from {cursors.index(cursor)}"
            for kind, sql, plan in explained.plans:
                most = DELETED if deleted else EXCEPTIONS.get(str(path), MAX_READ)
                found = list(faults(plan, most))
                if found:
                    wrong.append(f"{place}{' backward' * backward}, {kind} plan: {found}")
                    print(sql, json.dumps(plan, indent=1))
    assert wrong == []


TO_ONE = sorted((path for path in paths().values() if path.relation.to_one), key=str)


@pytest.mark.parametrize("path", TO_ONE, ids=str)
async def test_the_rows_that_keys_name_are_read_by_an_index(
    explained: Explained, path: Path
) -> None:
    rows = live(explained, parent_of(path))[:PARENTS]
    explained.plans.clear()
    await Question(path, "{ id }").ask(explained.person, rows, Way.PLANNED)
    assert explained.plans
    assert [fault for _, _, plan in explained.plans for fault in faults(plan, MAX_READ)] == []


@pytest.mark.parametrize("share", [0.0, 0.4, 0.95])
async def test_the_change_feed_is_read_by_an_index(explained: Explained, share: float) -> None:
    events = metadata.tables["audit_events"]
    owner_id = explained.person.owner_id
    mine = sa.select(events.c.xid, events.c.id).where(events.c.owner_id == owner_id)
    place = mine.order_by(events.c.xid, events.c.id).offset(int(SIZE * share)).limit(1)
    async with explained.admin.connect() as connection:
        position = Position(*(await connection.execute(place)).one())
    explained.plans.clear()
    async with Session(explained.person.engine, owner_id) as session:
        assert await is_position(session, position)
        assert len((await next_events(session, position, 20)).settled) == 20
        await events_page(session, position, ["task", "user"], 20)
        await latest_position(session)
    assert len(explained.plans) == 8
    assert [fault for _, _, plan in explained.plans for fault in faults(plan, MAX_READ)] == []


def live(explained: Explained, mirror: Mirror) -> list[Row]:
    """Rows of a type that are not deleted."""
    return [row for row in explained.rows[mirror.table.name] if is_live(row)]
