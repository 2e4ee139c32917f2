"""Pages in a plan: a connection for each key, made from the rows of a whole level."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

from db.prepared import PreparedSelect
from schema.loaders import count_select, counts_select, page_select, pages_select
from schema.pages import PageRequest, PageShape, encode_cursor
from schema.planned import PlannedArguments, RowsPlan, Run
from schema.projection import Lookup, Objects, Record
from schema.relation_fields import Relation

KEPT_STATEMENTS = 8
"""Statements without a filter that one relation field of a plan keeps."""
FILTERED_STATEMENTS = 512
"""Statements with a filter that all plans together keep: there is no end to the shapes."""


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
Bounds = tuple[UUID | None, int, int]
"""A key, and where its rows begin and end among those of the level."""


class FirstShape:
    """One selection of the first row."""

    plain = False

    def __init__(self, page: "PagesChild", row: int) -> None:
        page.reads_rows = True
        self._row = row

    def emit(self, page: Slice) -> dict[str, Any] | None:
        """The row as a response object."""
        return page.objects[self._row][page.start] if page.records else None


class ConnectionShape:
    """One selection of a connection."""

    def __init__(self, page: "PagesChild") -> None:
        self._page = page
        self._parts: list[tuple[str, Part]] = []
        self._nodes: list[tuple[str, int]] = []

    @property
    def plain(self) -> bool:
        """Whether `nodes` is all that is selected."""
        return len(self._nodes) == len(self._parts)

    def emit_all(self, bounds: Sequence[Bounds], objects: Sequence[Objects]) -> Lookup:
        """All connections at once, of `nodes` alone."""
        if len(self._nodes) == 1:
            [(name, row)] = self._nodes
            rows = objects[row]
            return {key: {name: rows[start:end]} for key, start, end in bounds}
        nodes = [(name, objects[row]) for name, row in self._nodes]
        return {key: {name: rows[start:end] for name, rows in nodes} for key, start, end in bounds}

    def emit(self, page: Slice) -> dict[str, Any]:
        """The connection as a response object."""
        return {key: part(page) for key, part in self._parts}

    def constant(self, response_key: str, value: str) -> None:
        """A type name."""
        self._parts.append((response_key, lambda _page: value))

    def nodes(self, response_key: str, row: int) -> None:
        """`nodes`."""
        self._page.reads_rows = True
        self._nodes.append((response_key, row))
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
                return shape.before if shape.backward else page.more
            case "hasPreviousPage":
                return page.more if shape.backward else shape.after
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
            if not keys:
                return [{} for _ in page.records]
            return [dict(zip(keys, one, strict=True)) for one in zip(*columns, strict=True)]

        self._parts.append((response_key, part))


class PagesChild:
    """A relation to many rows: a page for each key; of a root relation one page, under None."""

    def __init__(
        self, relation: Relation, arguments: PlannedArguments[PageRequest], rows: RowsPlan
    ) -> None:
        self.relation = relation
        self.rows = rows
        self.position = -1
        self.reads_rows = False
        self.reads_cursors = False
        self.looks_further = False
        self.counts = False
        self._arguments = arguments
        self._shapes: list[ConnectionShape | FirstShape] = []
        self._statements: dict[tuple[PageShape, bool], PreparedSelect] = {}
        self._columns: tuple[str, ...] = ()

    @property
    def single(self) -> bool:
        """Whether one statement brings it all."""
        return self.reads_rows is not self.counts and not self.rows.reads_more

    def shape(self) -> tuple[int, ConnectionShape]:
        """A new selection of this connection."""
        shape = ConnectionShape(self)
        self._shapes.append(shape)
        return len(self._shapes) - 1, shape

    def first(self, row: int) -> int:
        """A new selection of the first row alone."""
        self._shapes.append(FirstShape(self, row))
        return len(self._shapes) - 1

    def finish(self) -> None:
        self.rows.finish()
        self._columns = self.rows.columns

    async def load(self, run: Run, keys: Sequence[UUID | None]) -> Sequence[Lookup]:
        run.loaders.permit(self.relation.target)
        request = self._arguments.resolve(run.variables)
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
        bounds: list[Bounds] = []
        start = 0
        for key, group in groups.items():
            end = start + len(group)
            bounds.append((key, start, end))
            start = end
        if all(shape.plain for shape in self._shapes):
            return [
                shape.emit_all(bounds, objects)
                for shape in self._shapes
                if isinstance(shape, ConnectionShape)
            ]
        found: list[dict[Any, Any]] = [{} for _ in self._shapes]
        for key, start, _ in bounds:
            count = counts.get(key, 0) if self.counts else None
            page = Slice(request, groups[key], objects, start, more=key in more, count=count)
            for lookup, shape in zip(found, self._shapes, strict=True):
                lookup[key] = shape.emit(page)
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
            records = await run.session.fetch(statement, parameters, alone=run.alone)
            groups[None] = list(records)
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
            records = await run.session.fetch(statement, parameters, alone=run.alone)
            return {None: records[0][0]}
        parameters["keys"] = list(keys)
        return {record[0]: record[1] for record in await run.session.fetch(statement, parameters)}

    def _statement(self, shape: PageShape, *, counting: bool) -> PreparedSelect:
        columns = None if counting else self._columns_of(shape)
        if shape.large:
            return _prepare(self.relation, shape, columns)
        if shape.filter is not None:
            return _prepare_filtered(self.relation, shape, columns)
        key = (shape, counting)
        statement = self._statements.get(key)
        if statement is None:
            statement = _prepare(self.relation, shape, columns)
            if len(self._statements) >= KEPT_STATEMENTS:
                self._statements.clear()
            self._statements[key] = statement
        return statement

    def _trim(
        self, request: PageRequest, groups: Mapping[UUID | None, list[Record]]
    ) -> set[UUID | None]:
        """Drop the row that only says that others follow; the keys that had one."""
        more: set[UUID | None] = set()
        if not self.looks_further and not request.shape.backward:
            return more
        for key, group in groups.items():
            if len(group) > request.limit:
                group.pop()
                more.add(key)
            if request.shape.backward:
                group.reverse()
        return more


def _prepare(
    relation: Relation, shape: PageShape, columns: tuple[str, ...] | None
) -> PreparedSelect:
    """The statement of a page with these columns, or of its count."""
    if columns is None:
        count = count_select if relation.root else counts_select
        return PreparedSelect(count(relation, shape))
    select = page_select if relation.root else pages_select
    return PreparedSelect(select(relation, shape, columns))


_prepare_filtered = lru_cache(FILTERED_STATEMENTS)(_prepare)
