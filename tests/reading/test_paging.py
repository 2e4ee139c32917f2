"""Pages visit every row exactly once, in one order, whatever happens between them."""

import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest_asyncio
import sqlalchemy as sa
from hypothesis import assume, given
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

from db.models import metadata
from schema import ids
from schema.mirror import OrderTerm
from tests.connections import Path, connections
from tests.factories import Factory, Row, store
from tests.filters import an_order, chance, complete, order_argument
from tests.people import Person
from tests.reading.asking import Question, parent_of
from tests.reading.conftest import an_owner, services
from tests.reading.oracle import REFERRING, Oracle, is_live
from tests.ways import Way

PAGED = sorted(connections(), key=str)
COUNTS = {"users": 1, "conversations": 4, "documents": 4, "projects": 4, "workers": 6}
MANY = 40
PAGE = (
    "{ edges { cursor node { id } }"
    " pageInfo { startCursor endCursor hasNextPage hasPreviousPage } }"
)
PAGES_WITH_INSERTS = 5
"""After that nothing is inserted any more, so that a walk ends."""


@dataclass
class Reader:
    """Somebody whose rows are read page by page while others are added."""

    factory: Factory
    person: Person
    admin: AsyncEngine

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        printer.text("reader")

    @asynccontextmanager
    async def adding(self, table: sa.Table) -> AsyncIterator[Any]:
        """A function that adds rows and takes away those that it added before."""
        before = len(self.factory.rows[table.name])

        async def add(count: int, fixed: Row) -> None:
            await remove()
            rows = self.factory.add(table, count, **fixed)
            await store(self.admin, {table.name: rows})

        async def remove() -> None:
            added = [row["id"] for row in self.factory.rows[table.name][before:]]
            del self.factory.rows[table.name][before:]
            if added:
                async with self.admin.connect() as connection:
                    await connection.execute(sa.delete(table).where(table.c.id.in_(added)))

        try:
            yield add
        finally:
            await remove()


@pytest_asyncio.fixture(scope="session")
async def reader(engine: AsyncEngine, admin_engine: AsyncEngine) -> Reader:
    """The reader, with many rows below few parents."""
    factory = Factory(an_owner(random.Random(5)), 6)
    rows = factory.fill({name: COUNTS.get(name, MANY) for name in metadata.tables})
    await store(admin_engine, rows)
    person = Person(factory.owner_id, rows["workers"][0]["id"], services(engine))
    return Reader(factory, person, admin_engine)


@dataclass(frozen=True)
class Walk:
    """A way through a connection."""

    path: Path
    order: tuple[OrderTerm, ...]
    """Empty for the default."""
    size: int
    backward: bool
    deleted: bool
    parent: int
    inserts: tuple[int, ...]
    way: Way


@st.composite
def walks(draw: Any) -> Walk:
    """Any way through any connection."""
    path = draw(st.sampled_from(PAGED))
    ordered = path.target.order_by and chance(draw, 70)
    return Walk(
        path=path,
        order=tuple(an_order(draw, path.target.order_by)) if ordered else (),
        size=draw(st.integers(1, 9)),
        backward=draw(st.booleans()),
        deleted=path.is_root and chance(draw, 25),
        parent=draw(st.integers(0, 3)),
        inserts=tuple(draw(st.lists(st.integers(0, 2), max_size=PAGES_WITH_INSERTS))),
        way=draw(st.sampled_from([Way.CORE, Way.PLANNED])),
    )


def in_order(rows: Sequence[Row], order: Sequence[OrderTerm]) -> list[Row]:
    """Rows in an order; null is greater than everything."""
    ordered = list(rows)
    for term in reversed(order):

        def key(row: Row, name: str = term.column) -> tuple[bool, Any]:
            return (row[name] is None, 0 if row[name] is None else row[name])

        ordered.sort(key=key, reverse=term.descending)
    return ordered


class Walker:
    """Asks for the pages of one connection."""

    def __init__(self, reader: Reader, walk: Walk) -> None:
        self.reader = reader
        self.walk = walk
        self.rows = reader.factory.rows
        self.oracle = Oracle(self.rows)
        # Those that there are now: what is added on the way makes no branch longer.
        self.known = list(self.rows["messages"])
        path = walk.path
        self.parents: list[Row] = []
        if not path.is_root:
            live = [one for one in self.rows[parent_of(path).table.name] if is_live(one)]
            live.sort(key=lambda one: -len(self.related(one)))
            self.parents = [live[walk.parent % len(live)]]
        self.deletable = (
            path.is_root and "deleted_at" in path.target.table.c and not path.relation.only_live
        )

    def leaf(self, parent: Row) -> UUID | None:
        """The last message of the longest branch, for the field that is asked with one."""
        if self.walk.path.relation.argument is None:
            return None
        longest: dict[UUID, int] = {
            message["id"]: len(self.oracle.related("Conversation", "branch", parent, message["id"]))
            for message in self.known
        }
        return max(longest, key=lambda leaf: longest[leaf])

    def related(self, parent: Row) -> list[Row]:
        """The rows of a parent's connection."""
        path = self.walk.path
        return self.oracle.related(path.parent, path.name, parent, self.leaf(parent))

    def universe(self) -> list[Row]:
        """The rows of the connection, in its order."""
        path = self.walk.path
        if path.is_root:
            deleted = self.walk.deleted and self.deletable
            found = [one for one in self.rows[path.target.table.name] if is_live(one) != deleted]
        else:
            found = self.related(self.parents[0])
        return in_order(found, complete(self.walk.order or path.relation.default_order))

    async def page(self, **arguments: Any) -> Any:
        """One page."""
        (page,) = await self.pages(**arguments)
        return page

    async def pages(self, **arguments: Any) -> list[Any]:
        """The page of each parent."""
        walk = self.walk
        question = Question(walk.path, PAGE)
        if walk.order:
            type_ = f"[{walk.path.target.name}Order!]"
            question.given("orderBy", type_, order_argument(list(walk.order)))
        if self.deletable:
            question.given("deleted", "Boolean", walk.deleted)
        if walk.path.relation.argument is not None:
            leaf = self.leaf(self.parents[0])
            assert leaf is not None
            question.given("leafId", "ID!", ids.encode("message", leaf))
        for name, value in arguments.items():
            question.given(name, "Int" if name in ("first", "last") else "String", value)
        return await question.ask(self.reader.person, self.parents, walk.way)

    async def all_pages(self, add: Any) -> AsyncIterator[Any]:
        """The pages from one end to the other, rows being added between them."""
        size, cursor = ("last", "before") if self.walk.backward else ("first", "after")
        end, more = (
            ("startCursor", "hasPreviousPage")
            if self.walk.backward
            else ("endCursor", "hasNextPage")
        )
        inserts = list(self.walk.inserts)
        page = await self.page(**{size: self.walk.size})
        yield page
        while page["pageInfo"][more]:
            if inserts:
                await add(inserts.pop(), self.keys_of_new_rows())
            page = await self.page(**{size: self.walk.size, cursor: page["pageInfo"][end]})
            yield page

    def keys_of_new_rows(self) -> Row:
        """The keys that make new rows part of the connection."""
        path = self.walk.path
        if path.is_root:
            return {}
        (parent,) = self.parents
        if str(path) in REFERRING:
            keys = {REFERRING[str(path)][1]: parent["id"]}
            shared = {"Message.children": "conversation_id", "Task.subtasks": "project_id"}
            return keys | {name: parent[name] for name in [shared.get(str(path))] if name}
        if path.parent == "Message":
            return {name: parent[name] for name in ("conversation_id", "parent_id")}
        return {"conversation_id": parent["id"]}


def ids_of(page: Any) -> list[str]:
    """The ids on a page."""
    return [edge["node"]["id"] for edge in page["edges"]]


@given(walk=walks())
async def test_a_walk_visits_each_row_once_and_in_order(
    reader: Reader, tally: Counter[str], walk: Walk
) -> None:
    walker = Walker(reader, walk)
    key = walk.path.target.key
    expected = [ids.encode(key, row["id"]) for row in walker.universe()]
    big = await walker.page(first=1000)
    if walk.path.relation.only_live:
        expected = [one for one in expected if one in set(ids_of(big))]
    assert ids_of(big) == expected

    visited: list[str] = []
    async with reader.adding(walk.path.target.table) as add:
        async for page in walker.all_pages(add):
            assert len(page["edges"]) <= walk.size
            cursors = [edge["cursor"] for edge in page["edges"]]
            ends = [page["pageInfo"][name] for name in ("startCursor", "endCursor")]
            assert ends == (cursors[:1] + cursors[-1:] if cursors else [None, None])
            visited = ids_of(page) + visited if walk.backward else visited + ids_of(page)
            tally["pages"] += 1
    assert len(set(visited)) == len(visited)
    known = set(expected)
    assert [one for one in visited if one in known] == expected
    tally["walks"] += 1
    tally["rows met that were added on the way"] += len(visited) - len(expected)
    tally["rows"] += len(expected)


@given(walk=walks(), ends=st.tuples(st.integers(-1, MANY), st.integers(-1, MANY)))
async def test_a_page_is_the_nearest_part_between_its_cursors(
    reader: Reader, tally: Counter[str], walk: Walk, ends: tuple[int, int]
) -> None:
    walker = Walker(reader, walk)
    big = await walker.page(first=1000)
    cursors = [edge["cursor"] for edge in big["edges"]]
    after, before = (end if 0 <= end < len(cursors) else None for end in ends)
    given_cursors = {"after": after, "before": before}
    arguments = {name: cursors[end] for name, end in given_cursors.items() if end is not None}
    between = ids_of(big)[0 if after is None else after + 1 : before]
    page = await walker.page(**{"last" if walk.backward else "first": walk.size}, **arguments)
    assert ids_of(page) == (between[-walk.size :] if walk.backward else between[: walk.size])
    more = len(between) > walk.size
    assert page["pageInfo"]["hasPreviousPage" if walk.backward else "hasNextPage"] == more
    tally["pages"] += 1
    tally["between two cursors"] += len(arguments) == 2


@given(walk=walks())
async def test_one_query_pages_every_parent_by_itself(
    reader: Reader, tally: Counter[str], walk: Walk
) -> None:
    assume(not walk.path.is_root and walk.path.relation.argument is None)
    walker = Walker(reader, walk)
    parents = [row for row in walker.rows[parent_of(walk.path).table.name] if is_live(row)]
    walker.parents = parents
    pages = await walker.pages(**{"last" if walk.backward else "first": walk.size})
    key = walk.path.target.key
    for parent, page in zip(parents, pages, strict=True):
        walker.parents = [parent]
        every = [ids.encode(key, row["id"]) for row in walker.universe()]
        kept = every[-walk.size :] if walk.backward else every[: walk.size]
        assert ids_of(page) == kept
        tally["pages"] += 1
        tally["pages that are not all"] += len(kept) < len(every)
    tally["queries"] += 1
