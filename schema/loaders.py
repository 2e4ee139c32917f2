"""The two batch questions: a row per key, and a page per key.

Every relation of every type is read through one of them, by an aiodataloader whose key is a whole
level of rows (see `schema.rows`). A loader lives for one operation; mutations renew them all, as a
cache that outlives a write would serve what was.
"""

from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, ParamSpec
from uuid import UUID

from aiodataloader import DataLoader
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Executable,
    FromClause,
    Integer,
    Select,
    Text,
    Uuid,
    bindparam,
    cast,
    column,
    func,
    select,
    true,
)

from db import scope
from db.session import Session
from schema.filters import Binder
from schema.mirror import Mirror, Scope
from schema.pages import Page, PageRequest, PageShape, bounds, order_by
from schema.rows import Keys, Level, Row

if TYPE_CHECKING:
    from schema.planned import Child, RowsPlan, Run
    from schema.projection import Lookup
    from schema.relation_fields import Relation

ROOT = Keys(())
"""The key of a relation that starts from nothing: the roots of a query."""

Rows = Mapping[UUID, Row]
Pages = Mapping[UUID | None, Page]
Counts = Mapping[UUID | None, int]

Names = frozenset[str] | None
"""Every field name in the operation's document, None for no limit on the columns to read."""


class Loaders:
    """The loaders of one operation."""

    def __init__(self, session: Session, require: Callable[[Scope], object]) -> None:
        """`require` raises for a scope that the caller does not have."""
        self._session = session
        self._require = require
        self._loaders: dict[Hashable, DataLoader[Keys, Any]] = {}
        self._single: dict[UUID, Keys] = {}
        self.names: Names = None

    @property
    def owner_id(self) -> UUID:
        """Whose rows are read."""
        assert self._session.owner_id is not None
        return self._session.owner_id

    def permit(self, mirror: Mirror) -> None:
        """Nothing, when the caller may see such rows. Raises RequestError (FORBIDDEN)."""
        self._require(mirror.access)

    def renew(self) -> None:
        """Forget everything read so far."""
        self._loaders.clear()
        self._single.clear()

    def keys(self, value: UUID) -> Keys:
        """One key on its own: the same object whenever it is asked for."""
        return self._single.setdefault(value, Keys((value,)))

    def empty_page(self, relation: "Relation", request: PageRequest) -> Page:
        """The page of a row that has no key."""
        return self._page(relation, request, Keys(()), None, [])

    def rows(self, mirror: Mirror, keys: Keys, *, deleted: bool | None) -> Awaitable[Rows]:
        """The rows with these ids; `deleted` as in `db.scope.predicate`."""
        self.permit(mirror)

        async def load(values: Sequence[UUID]) -> Rows:
            statement = rows_select(mirror, tuple(mirror.loaded(self.names)), deleted)
            level = await self.level(mirror, statement, {"keys": list(values)})
            return {row.values["id"]: row for row in level.rows}

        return self._load(("rows", mirror, deleted), keys, load)

    def pages(self, relation: "Relation", request: PageRequest, keys: Keys) -> Awaitable[Pages]:
        """A page per key; for a root relation the one page, under None."""
        self.permit(relation.target)

        async def load(values: Sequence[UUID]) -> Pages:
            columns = page_columns(relation, request.shape, self.names)
            parameters = request.parameters
            if relation.root:
                statement = page_select(relation, request.shape, columns)
                level = await self.level(relation.target, statement, parameters)
                groups: dict[UUID | None, list[Row]] = {None: level.rows}
            else:
                statement = pages_select(relation, request.shape, columns)
                parameters["keys"] = list(values)
                level = await self.level(relation.target, statement, parameters)
                groups = {value: [] for value in values}
                for row in level.rows:
                    groups[row.values[KEY]].append(row)
            return {
                key: self._page(relation, request, keys, key, rows) for key, rows in groups.items()
            }

        return self._load(("pages", relation, request.key), keys, load)

    def counts(self, relation: "Relation", request: PageRequest, keys: Keys) -> Awaitable[Counts]:
        """How many rows there are per key, on all pages."""

        async def load(values: Sequence[UUID]) -> Counts:
            shape, parameters = request.shape, request.filter_parameters
            if relation.root:
                return {None: await self._session.scalar(count_select(relation, shape), parameters)}
            parameters["keys"] = list(values)
            rows = await self._session.execute(counts_select(relation, shape), parameters)
            return dict.fromkeys(values, 0) | {row[0]: row[1] for row in rows}

        shape = request.shape
        counted = (shape.filter, shape.deleted, repr(request.operands), request.argument)
        return self._load(("counts", relation, counted), keys, load)

    async def level(
        self, mirror: Mirror, statement: Executable, parameters: Mapping[str, object] | None = None
    ) -> Level:
        """Run a select of a mirror's columns: its rows are one level."""
        self.permit(mirror)
        rows = await self._session.execute(statement, parameters)
        return Level(mirror, (dict(row._mapping) for row in rows))

    def planned(self, child: "Child", keys: Keys, run: "Run") -> "Awaitable[Sequence[Lookup]]":
        """What a plan's relation field brings for a whole level."""
        return self._load(
            ("planned", child), keys, lambda values: child.load(run, values), batch=False
        )

    def projected(
        self, plan: "RowsPlan", level: Level, run: "Run"
    ) -> "Awaitable[list[dict[str, Any]]]":
        """What a plan makes of the rows of a level that is already read; once for all its rows."""

        async def project(_: Sequence[UUID]) -> list[dict[str, Any]]:
            return (await plan.emit(run, level.records(plan.columns)))[0]

        return self._load(("projected", plan, level), ROOT, project, batch=False)

    def _page(
        self,
        relation: "Relation",
        request: PageRequest,
        keys: Keys,
        key: UUID | None,
        rows: Sequence[Row],
    ) -> Page:
        async def count() -> int:
            if key is None and not relation.root:
                return 0
            return (await self.counts(relation, request, keys))[key]

        return Page(request, rows, count)

    def _load(
        self,
        name: Hashable,
        keys: Keys,
        load: Callable[[Sequence[UUID]], Awaitable[Any]],
        *,
        batch: bool = True,
    ) -> Awaitable[Any]:
        """`batch` False does not wait for other keys: a plan hands over all there are."""
        loader = self._loaders.get(name)
        if loader is None:

            async def load_all(batched: list[Keys]) -> list[Any]:
                values = list(dict.fromkeys(value for item in batched for value in item.values))
                found = await load(values)
                return [found for _ in batched]

            loader = self._loaders[name] = DataLoader(load_all, batch=batch)
        return loader.load(keys)


STATEMENTS = 256
"""How many statements of each kind are kept; one with a filter of many conditions never is."""

KEY = "engram_key"
"""The name under which a page's rows carry the key they were asked for by."""


def _keys_parameter() -> ColumnElement[Any]:
    return bindparam("keys", type_=ARRAY(Uuid))


def page_columns(relation: "Relation", shape: PageShape, names: Names) -> tuple[str, ...]:
    """The columns to read for a page: those asked for, and those of its order for the cursors."""
    order = (term.column for term in shape.order)
    return tuple(dict.fromkeys([*relation.target.loaded(names), *order]))


def _narrowed(
    relation: "Relation",
    shape: PageShape,
    source: FromClause,
    key: ColumnElement[Any],
    *columns: ColumnElement[Any],
    page: bool = False,
) -> Select[*tuple[Any, ...]]:
    """The rows of a relation that the filter keeps, on all pages or at least on its own."""
    statement = scope.readable(source, *columns, deleted=shape.deleted)
    statement = statement.where(relation.matching(source, key, shape, page=page))
    if shape.clause is not None:
        statement = statement.where(shape.clause(source, Binder()))
    return statement


P = ParamSpec("P")
Build = Callable[P, Select[*tuple[Any, ...]]]


def _kept(build: Build[P]) -> Build[P]:
    """Keep what was built: building a statement costs more than running a small one."""
    keep: Build[P] = lru_cache(STATEMENTS)(build)

    @wraps(build)
    def select(*args: P.args, **named: P.kwargs) -> Select[*tuple[Any, ...]]:
        if any(isinstance(one, PageShape) and one.large for one in args):
            return build(*args, **named)
        return keep(*args, **named)

    return select


@_kept
def rows_select(
    mirror: Mirror, columns: tuple[str, ...], deleted: bool | None
) -> Select[*tuple[Any, ...]]:
    """The rows with certain ids."""
    table = mirror.table
    shown = [_column(mirror, table, name) for name in columns]
    statement = scope.readable(table, *shown, deleted=deleted)
    return statement.where(table.c.id == func.any(_keys_parameter()))


def _column(mirror: Mirror, source: FromClause, name: str) -> ColumnElement[Any]:
    """A column to read: JSON as its text, which goes into the response unparsed."""
    column = source.c[name]
    return cast(column, Text).label(name) if name in mirror.json_columns else column


@_kept
def page_select(
    relation: "Relation", shape: PageShape, columns: tuple[str, ...]
) -> Select[*tuple[Any, ...]]:
    """The one page of a root relation, and one row more to see whether others follow."""
    return _page(relation, shape, columns, true())


def _page(
    relation: "Relation", shape: PageShape, columns: tuple[str, ...], key: ColumnElement[Any]
) -> Select[*tuple[Any, ...]]:
    source = relation.target.table.alias()
    shown = [_column(relation.target, source, name) for name in columns]
    return (
        _narrowed(relation, shape, source, key, *shown, page=True)
        .where(*bounds(source, shape))
        .order_by(*order_by(source, shape))
        .limit(bindparam("limit", type_=Integer))
    )


@_kept
def pages_select(
    relation: "Relation", shape: PageShape, columns: tuple[str, ...]
) -> Select[*tuple[Any, ...]]:
    """A page per key, in one statement: a lateral join walks the index once per key."""
    keys = _unnested_keys()
    page = _page(relation, shape, columns, keys.c.key).correlate(keys).lateral("page")
    return select(*page.c, keys.c.key.label(KEY)).select_from(keys.join(page, true()))


@_kept
def count_select(relation: "Relation", shape: PageShape) -> Select[*tuple[Any, ...]]:
    """The number of rows of a root relation."""
    source = relation.target.table.alias()
    return _narrowed(relation, shape, source, true(), func.count())


@_kept
def counts_select(relation: "Relation", shape: PageShape) -> Select[*tuple[Any, ...]]:
    """The number of rows per key."""
    keys = _unnested_keys()
    source = relation.target.table.alias()
    counted = _narrowed(relation, shape, source, keys.c.key, func.count().label("count"))
    count = counted.correlate(keys).lateral("counted")
    return select(keys.c.key, count.c.count).select_from(keys.join(count, true()))


def _unnested_keys() -> FromClause:
    unnested = func.unnest(_keys_parameter())
    return unnested.table_valued(column("key", Uuid), name="keys").render_derived()
