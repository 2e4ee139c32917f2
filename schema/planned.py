"""Running a plan: a statement per level, rows straight from the driver, objects by comprehension.

A plan is made once and run many times at once: running changes nothing in it. A level is handed
over whole to an aiodataloader, as everywhere (see `schema.loaders`).
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from graphql.execution.values import VariableValues

from db.prepared import PreparedSelect
from db.session import Session
from schema.loaders import (
    Loaders,
    count_select,
    counts_select,
    page_select,
    pages_select,
    rows_select,
)
from schema.mirror import Mirror
from schema.node import MAX_NODES, decode_any
from schema.pages import PageRequest, PageShape, encode_cursor
from schema.projection import Lookup, Objects, Project, Projection, Record
from schema.relations import Relation, RelationField
from schema.rows import Keys

KEPT_STATEMENTS = 64
"""Statements that one relation field of a plan keeps, by the shapes of its arguments."""


class CannotPlan(Exception):
    """A plan met what only graphql-core can answer; the operation is executed again by it."""


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a plan."""

    session: Session
    loaders: Loaders
    variables: VariableValues


class PlannedArguments:
    """The arguments of a relation field: worked out once when no variable is in them."""

    def __init__(
        self,
        field: RelationField,
        identity: str,
        values: Callable[[VariableValues], dict[str, Any]],
        fixed: dict[str, Any] | None,
    ) -> None:
        self._field = field
        self.identity = identity
        self._values = values
        self._fixed: PageRequest | UUID | None = None
        if fixed is not None:
            self._fixed = self._resolve(fixed)

    def _resolve(self, values: dict[str, Any]) -> Any:
        return self._field.row_id(values) if self._field.single else self._field.request(values)

    def resolve(self, variables: VariableValues) -> Any:
        """A page request, or the id of a single row. Raises what the field's resolver raises."""
        if self._fixed is not None:
            return self._fixed
        return self._resolve(self._values(variables))


class Child(Protocol):
    """A relation field below rows."""

    position: int
    rows: "RowsPlan"

    async def load(self, run: Run, keys: Sequence[UUID]) -> Sequence[Lookup]:
        """For each selection, what there is for each key."""
        ...

    def finish(self) -> None:
        """Called once, when the plan is complete."""
        ...


class RowsPlan:
    """The rows of one level: which columns to read, and what each selection makes of them."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
        self._columns: dict[str, int] = {}
        self._projections: list[Projection] = []
        self._children: dict[Hashable, Any] = {}
        self._projects: list[Project] = []

    @property
    def columns(self) -> tuple[str, ...]:
        """What to read, in the order of the records."""
        return tuple(self._columns)

    def position(self, name: str) -> int:
        """Where a column stands in the records; reading it from now on."""
        return self._columns.setdefault(name, len(self._columns))

    def projection(self) -> tuple[int, Projection]:
        """A new selection of these rows."""
        self._projections.append(Projection(self.mirror))
        return len(self._projections) - 1, self._projections[-1]

    def child(self, key: Hashable, make: Callable[[], Any]) -> tuple[Any, int]:
        """The child plan of a relation with certain arguments, shared by all selections."""
        if key not in self._children:
            self._children[key] = make()
        return self._children[key], list(self._children).index(key)

    def finish(self) -> None:
        """Compile, when all selections are known."""
        self._projects = [projection.finish() for projection in self._projections]
        for child in self._children.values():
            child.finish()

    async def emit(self, run: Run, records: Sequence[Record]) -> list[Objects]:
        """The objects of each selection, in the order of the records."""
        found = []
        for child in self._children.values():
            position = child.position
            keys = dict.fromkeys([record[position] for record in records])
            keys.pop(None, None)
            found.append(await run.loaders.planned(child, Keys(keys), run))
        return [project(records, found) for project in self._projects]


class OneChild:
    """A relation to one row."""

    def __init__(self, rows: RowsPlan) -> None:
        self.rows = rows
        self.position = -1
        self._id = rows.position("id")
        self._statement: PreparedSelect | None = None

    def finish(self) -> None:
        self.rows.finish()
        self._statement = PreparedSelect(rows_select(self.rows.mirror, self.rows.columns, None))

    async def load(self, run: Run, keys: Sequence[UUID]) -> Sequence[Lookup]:
        assert self._statement is not None
        records = await run.session.fetch(self._statement, {"keys": keys}) if keys else ()
        ids = [record[self._id] for record in records]
        return [
            dict(zip(ids, objects, strict=True)) for objects in await self.rows.emit(run, records)
        ]


class Slice:
    """One page among the rows of a level."""

    __slots__ = ("count", "end", "more", "objects", "records", "request", "start")

    def __init__(
        self,
        request: PageRequest,
        records: Sequence[Record],
        objects: list[Objects],
        start: int,
        *,
        more: bool,
        count: int | None,
    ) -> None:
        self.request = request
        self.records = records
        self.objects = objects
        self.start = start
        self.end = start + len(records)
        self.more = more
        self.count = count


Part = Callable[[Slice], Any]


class ConnectionShape:
    """One selection of a connection."""

    def __init__(self, page: "PagesChild") -> None:
        self._page = page
        self._parts: list[tuple[str, Part]] = []

    def emit(self, page: Slice) -> dict[str, Any]:
        """The connection as a response object."""
        return {key: part(page) for key, part in self._parts}

    def constant(self, response_key: str, value: str) -> None:
        """A type name."""
        self._parts.append((response_key, lambda _page: value))

    def nodes(self, response_key: str, row: int) -> None:
        """`nodes`."""
        self._page.reads_rows = True
        self._parts.append((response_key, lambda page: page.objects[row][page.start : page.end]))

    def total_count(self, response_key: str) -> None:
        """`totalCount`."""
        self._page.counts = True
        self._parts.append((response_key, lambda page: page.count))

    def page_info(self, response_key: str, selected: Mapping[str, str]) -> None:
        """`pageInfo`: response keys and the fields they stand for."""
        self._page.reads_rows = True
        names = set(selected.values())
        if names & {"hasNextPage", "hasPreviousPage"}:
            self._page.looks_further = True
        if names & {"startCursor", "endCursor"}:
            self._page.reads_cursors = True

        def part(page: Slice) -> dict[str, Any]:
            return {key: self._info(page, name) for key, name in selected.items()}

        self._parts.append((response_key, part))

    def _info(self, page: Slice, name: str) -> Any:
        shape = page.request.shape
        match name:
            case "hasNextPage":
                return shape.before is not None if shape.backward else page.more
            case "hasPreviousPage":
                return page.more if shape.backward else shape.after is not None
            case "startCursor":
                return self._page.cursor(page, page.records[0]) if page.records else None
            case "endCursor":
                return self._page.cursor(page, page.records[-1]) if page.records else None
        return "PageInfo"

    def edges(self, response_key: str, items: Iterable[tuple[str, str, int]], type_: str) -> None:
        """`edges`: response keys, the fields they stand for, and the selection of a node."""
        self._page.reads_rows = True
        fields = list(items)
        if any(name == "cursor" for _, name, _ in fields):
            self._page.reads_cursors = True

        def part(page: Slice) -> list[dict[str, Any]]:
            columns: list[Iterable[Any]] = []
            for _, name, row in fields:
                if name == "cursor":
                    columns.append([self._page.cursor(page, one) for one in page.records])
                elif name == "node":
                    columns.append(page.objects[row][page.start : page.end])
                else:
                    columns.append([type_] * len(page.records))
            keys = [key for key, _, _ in fields]
            return [dict(zip(keys, one, strict=True)) for one in zip(*columns, strict=True)]

        self._parts.append((response_key, part))


class PagesChild:
    """A relation to many rows: a page for each key; of a root relation one page, under None."""

    def __init__(self, relation: Relation, arguments: PlannedArguments, rows: RowsPlan) -> None:
        self.relation = relation
        self.rows = rows
        self.position = -1
        self.reads_rows = False
        self.reads_cursors = False
        self.looks_further = False
        self.counts = False
        self._arguments = arguments
        self._shapes: list[ConnectionShape] = []
        self._statements: dict[tuple[PageShape, bool], PreparedSelect] = {}
        self._columns: tuple[str, ...] = ()

    def shape(self) -> tuple[int, ConnectionShape]:
        """A new selection of this connection."""
        self._shapes.append(ConnectionShape(self))
        return len(self._shapes) - 1, self._shapes[-1]

    def finish(self) -> None:
        self.rows.finish()
        self._columns = self.rows.columns

    async def load(self, run: Run, keys: Sequence[UUID | None]) -> Sequence[Lookup]:
        request: PageRequest = self._arguments.resolve(run.variables)
        groups: dict[UUID | None, list[Record]] = {key: [] for key in keys}
        counts: dict[UUID | None, int] = {}
        if keys:
            if self.reads_rows:
                await self._read(run, request, groups)
            if self.counts:
                counts = await self._count(run, request, keys)
        groups.setdefault(None, [])
        more = self._trim(request, groups)
        objects = await self.rows.emit(run, [one for group in groups.values() for one in group])
        found: list[dict[Any, Any]] = [{} for _ in self._shapes]
        start = 0
        for key, group in groups.items():
            count = counts.get(key, 0) if self.counts else None
            page = Slice(request, group, objects, start, more=key in more, count=count)
            for lookup, shape in zip(found, self._shapes, strict=True):
                lookup[key] = shape.emit(page)
            start = page.end
        return found

    def cursor(self, page: Slice, record: Record) -> str:
        """The cursor of a record."""
        order = page.request.shape.order
        columns = self._columns_of(page.request.shape)
        return encode_cursor(order, [record[columns.index(term.column)] for term in order])

    def _columns_of(self, shape: PageShape) -> tuple[str, ...]:
        if not self.reads_cursors:
            return self._columns
        return tuple(dict.fromkeys([*self._columns, *(term.column for term in shape.order)]))

    async def _read(
        self, run: Run, request: PageRequest, groups: dict[UUID | None, list[Record]]
    ) -> None:
        statement = self._statement(request.shape, counting=False)
        parameters = request.parameters
        parameters["limit"] = request.limit + self.looks_further
        if self.relation.root:
            groups[None] = list(await run.session.fetch(statement, parameters))
            return
        parameters["keys"] = list(groups)
        for record in await run.session.fetch(statement, parameters):
            groups[record[-1]].append(record)

    async def _count(
        self, run: Run, request: PageRequest, keys: Sequence[UUID | None]
    ) -> dict[UUID | None, int]:
        statement = self._statement(request.shape, counting=True)
        parameters = request.filter_parameters
        if self.relation.root:
            records = await run.session.fetch(statement, parameters)
            return {None: records[0][0]}
        parameters["keys"] = list(keys)
        return {record[0]: record[1] for record in await run.session.fetch(statement, parameters)}

    def _statement(self, shape: PageShape, *, counting: bool) -> PreparedSelect:
        key = (shape, counting)
        statement = self._statements.get(key)
        if statement is None:
            if counting:
                build = count_select if self.relation.root else counts_select
                statement = PreparedSelect(build(self.relation, shape))
            else:
                select = page_select if self.relation.root else pages_select
                statement = PreparedSelect(select(self.relation, shape, self._columns_of(shape)))
            if len(self._statements) >= KEPT_STATEMENTS:
                self._statements.clear()
            self._statements[key] = statement
        return statement

    def _trim(
        self, request: PageRequest, groups: Mapping[UUID | None, list[Record]]
    ) -> set[UUID | None]:
        """Drop the row that only says that others follow; the keys that had one."""
        more = set()
        for key, group in groups.items():
            if len(group) > request.limit:
                group.pop()
                more.add(key)
            if request.shape.backward:
                group.reverse()
        return more


class Root(Protocol):
    """A root field."""

    def finish(self) -> None:
        """Called once, when the plan is complete."""
        ...

    async def load(self, run: Run) -> Any:
        """Its value in the response."""
        ...


class RootPage:
    """A root connection."""

    def __init__(self, page: PagesChild, selection: int) -> None:
        self._page = page
        self._selection = selection

    def finish(self) -> None:
        self._page.finish()

    async def load(self, run: Run) -> Any:
        return (await self._page.load(run, (None,)))[self._selection][None]


class RootRow:
    """A root field that takes an id."""

    def __init__(self, arguments: PlannedArguments, rows: RowsPlan, selection: int) -> None:
        self._arguments = arguments
        self._rows = rows
        self._selection = selection
        self._statement: PreparedSelect | None = None

    def finish(self) -> None:
        self._rows.position("id")
        self._rows.finish()
        self._statement = PreparedSelect(rows_select(self._rows.mirror, self._rows.columns, False))

    async def load(self, run: Run) -> Any:
        assert self._statement is not None
        identifier: UUID = self._arguments.resolve(run.variables)
        records = await run.session.fetch(self._statement, {"keys": [identifier]})
        objects = (await self._rows.emit(run, records))[self._selection]
        return objects[0] if objects else None


class RootNodes:
    """`node` and `nodes`: rows of any type, a statement for each type that the ids name."""

    def __init__(
        self,
        ids: Callable[[VariableValues], Sequence[str]],
        make: Callable[[Mirror], tuple[RowsPlan, int]],
        *,
        several: bool,
    ) -> None:
        self._ids = ids
        self._make = make
        self._several = several
        self._plans: dict[Mirror, tuple[RowsPlan, int, int]] = {}

    def finish(self) -> None:
        """Nothing yet: a type's plan is made when an id first names it."""

    def _plan(self, mirror: Mirror) -> tuple[RowsPlan, int, int]:
        plan = self._plans.get(mirror)
        if plan is None:
            rows, selection = self._make(mirror)
            position = rows.position("id")
            rows.finish()
            plan = self._plans[mirror] = (rows, selection, position)
        return plan

    async def load(self, run: Run) -> Any:
        wanted = [decode_any(text) for text in self._ids(run.variables)]
        if len(wanted) > MAX_NODES:
            raise CannotPlan
        by_mirror: dict[Mirror, list[UUID]] = {}
        for mirror, value in wanted:
            by_mirror.setdefault(mirror, []).append(value)
        found: dict[tuple[Mirror, UUID], Any] = {}
        for mirror, values in by_mirror.items():
            rows, selection, position = self._plan(mirror)
            statement = PreparedSelect(rows_select(mirror, rows.columns, False))
            records = await run.session.fetch(statement, {"keys": list(dict.fromkeys(values))})
            objects = (await rows.emit(run, records))[selection]
            for record, one in zip(records, objects, strict=True):
                found[mirror, record[position]] = one
        answers = [found.get(one) for one in wanted]
        return answers if self._several else answers[0]


class PlannedQuery:
    """A whole query."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.constants: dict[str, str] = {}
        self.roots: list[tuple[str, Root]] = []

    def finish(self) -> None:
        """Called once, when the plan is complete."""
        for _, root in self.roots:
            root.finish()

    async def run(self, run: Run) -> dict[str, Any]:
        """The response's `data`. Whatever it raises, graphql-core has to say what was wrong."""
        data: dict[str, Any] = {}
        for key, root in self.roots:
            data[key] = await root.load(run)
        if self.constants:
            data |= self.constants
            return {key: data[key] for key in self.keys}
        return data
