"""Relation fields: the paths from rows to rows, declared once, on the GraphQL side.

    one(work.Task.project_id)        the row that a foreign key names
    many(work.Task.project_id)       the rows whose foreign key names this one, as a connection
    related(work.Task, ...)          rows that another rule relates, as a connection
    first(work.Task, ...)            the first of them alone
    root(work.Task) / root_row(...)  where a query starts

There is no lazy loading: a resolver asks its operation's loaders for its whole level at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import strawberry
from sqlalchemy import ColumnElement, ForeignKeyConstraint, FromClause, Table, true
from sqlalchemy.orm import InstrumentedAttribute
from strawberry.annotation import StrawberryAnnotation
from strawberry.types.arguments import StrawberryArgument
from strawberry.types.field import StrawberryField
from strawberry.types.unset import UNSET

from db.base import Base, column_fields
from schema import ids
from schema.errors import ErrorCode, RequestError
from schema.filter_types import FilterTypes, order_terms
from schema.loaders import ROOT, Loaders
from schema.mirror import MIRRORS, Mirror, OrderTerm, by_table
from schema.pages import MAX_PAGE, Order, Page, PageRequest, PageShape, request_page
from schema.rows import Row

Match = Callable[[FromClause, ColumnElement[Any]], ColumnElement[bool]]


@dataclass(frozen=True)
class RowArgument:
    """An argument that a relation field asks for: the id of a row of `model`."""

    name: str
    model: type[Base]
    description: str


class Relation:
    """How rows lead to rows of the target."""

    def __init__(
        self,
        model: type[Base] | Table,
        *,
        key: str,
        match: Match,
        to_one: bool = False,
        root: bool = False,
        foreign_key: str | None = None,
        nullable: bool = False,
        default_order: Sequence[str] | None = None,
        first: bool = False,
        argument: RowArgument | None = None,
        only_live: bool = False,
    ) -> None:
        """`key` is the column of the source row whose value the loaders are asked with; `match`
        says which target rows belong to a key; `foreign_key` is the column it stands for."""
        self._model = model
        self.key = key
        self.match = match
        self.to_one = to_one
        self.root = root
        self.foreign_key = foreign_key
        self.nullable = nullable
        self.first = first
        self.argument = argument
        self.only_live = only_live
        self._default_order = default_order

    def matching(
        self, target: FromClause, key: ColumnElement[Any], shape: PageShape, *, page: bool
    ) -> ColumnElement[bool]:
        """Which rows belong to a key: all of them, or of a page at least those it may hold."""
        return self.match(target, key)

    @property
    def target(self) -> Mirror:
        """The mirror of the rows it leads to."""
        return by_table(self._model) if isinstance(self._model, Table) else MIRRORS[self._model]

    @property
    def default_order(self) -> Order:
        if self._default_order is None:
            return self.target.default_order
        return tuple(
            OrderTerm(name.removeprefix("-"), name.startswith("-")) for name in self._default_order
        )


class RelationField(StrawberryField):
    """A field that a relation resolves. `schema.assembly` gives it its type and arguments."""

    def __init__(
        self, relation: Relation, *, description: str | None = None, single: bool = False
    ) -> None:
        super().__init__(description=description)
        self.relation = relation
        self.single = single
        self.init = False
        self.filters: FilterTypes | None = None

    @property
    def is_basic_field(self) -> bool:
        return False

    def __copy__(self) -> "RelationField":
        copied = RelationField(self.relation, description=self.description, single=self.single)
        copied.python_name = self.python_name
        copied.graphql_name = self.graphql_name
        copied.type_annotation = self.type_annotation
        copied._arguments = list(self._arguments or ())
        copied.filters = self.filters
        return copied

    def get_result(self, source: Any, info: Any, args: list[Any], kwargs: Any) -> Any:
        loaders: Loaders = info.context.loaders
        if loaders.names is None:
            loaders.names = info.context.field_names(info)
        if self.single:
            return self._root_row(loaders, self.row_id(kwargs))
        if self.relation.to_one:
            return self._row(loaders, source)
        if self.relation.first:
            return self._first(loaders, source)
        return self._page(loaders, source, kwargs)

    async def _row(self, loaders: Loaders, source: Row) -> Row | None:
        value = source.values[self.relation.key]
        if value is None:
            return None
        # A row that is deleted softly is still what the key names, as the key's null-ness promises.
        rows = await loaders.rows(
            self.relation.target, source.level.keys(self.relation.key), deleted=None
        )
        return rows.get(value)

    async def _root_row(self, loaders: Loaders, value: UUID) -> Row | None:
        rows = await loaders.rows(self.relation.target, loaders.keys(value), deleted=False)
        return rows.get(value)

    async def _first(self, loaders: Loaders, source: Row) -> Row | None:
        page = await self._page(loaders, source, {"first": 1})
        return page.nodes[0] if page.nodes else None

    async def _page(self, loaders: Loaders, source: Row | None, kwargs: Mapping[str, Any]) -> Page:
        relation = self.relation
        request = self.request(kwargs)
        if relation.root:
            return (await loaders.pages(relation, request, ROOT))[None]
        assert source is not None
        keys = source.level.keys(relation.key)
        pages = await loaders.pages(relation, request, keys)
        value = source.values[relation.key]
        return pages[value] if value is not None else loaders.empty_page(relation, request)

    def row_id(self, kwargs: Mapping[str, Any]) -> UUID:
        """The id in the arguments of a single row. Raises RequestError (BAD_ID)."""
        return decoded(self.relation.target, kwargs["id"])

    def request(self, kwargs: Mapping[str, Any]) -> PageRequest:
        """What the arguments of a connection ask for. Raises RequestError."""
        relation = self.relation
        request = request_page(relation.target, relation.default_order, self._checked(kwargs))
        if relation.argument is None:
            return request
        argument = decoded(MIRRORS[relation.argument.model], kwargs[relation.argument.name])
        return replace(request, argument=argument)

    def _checked(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in kwargs.items() if value is not None}
        if "filter" in given:
            assert self.filters is not None
            given["filter"] = self.filters.compile(given["filter"])
        if "order_by" in given:
            given["order_by"] = order_terms(given["order_by"])
        return given


def decoded(target: Mirror, text: str) -> UUID:
    """The UUID in a global id of the target's type.

    Raises:
        RequestError: BAD_ID.
    """
    try:
        return ids.decode_as(target.key, text)
    except ids.BadId as error:
        raise RequestError(str(error), ErrorCode.BAD_ID) from None


def one(foreign_key: object, *, description: str | None = None) -> Any:
    """The row that a foreign key of this type's table names; null only where the key may be."""
    column = _column(foreign_key)
    referred = _constraint(column.table, column.name).referred_table
    relation = Relation(
        referred,
        key=column.name,
        match=lambda target, key: target.c.id == key,
        to_one=True,
        foreign_key=column.name,
        nullable=bool(column.nullable),
    )
    described = column_fields(foreign_key.class_)[column.name].description  # type: ignore[attr-defined]  # _column checked it
    return RelationField(relation, description=description or described)


def many(
    foreign_key: object,
    *,
    description: str | None = None,
    default_order: Sequence[str] | None = None,
) -> Any:
    """The rows whose foreign key names this one."""
    column = _column(foreign_key)
    relation = Relation(
        column.table,
        key="id",
        match=lambda target, key: target.c[column.name] == key,
        default_order=default_order,
    )
    return RelationField(relation, description=description)


def related(
    model: type[Base],
    *,
    key: str,
    match: Match,
    description: str,
    default_order: Sequence[str] | None = None,
) -> Any:
    """Rows of `model` that `match` relates to this row's column `key`."""
    relation = Relation(model, key=key, match=match, default_order=default_order)
    return RelationField(relation, description=description)


def first(
    model: type[Base],
    *,
    key: str,
    match: Match,
    description: str,
    default_order: Sequence[str] | None = None,
) -> Any:
    """The first of the rows of `model` that `match` relates to this row; null if there is none."""
    relation = Relation(model, key=key, match=match, default_order=default_order, first=True)
    return RelationField(relation, description=description)


def root(
    model: type[Base],
    *,
    description: str,
    where: Callable[[FromClause], ColumnElement[bool]] | None = None,
    default_order: Sequence[str] | None = None,
) -> Any:
    """All rows of `model` that the caller owns, or those live ones that `where` keeps."""
    relation = Relation(
        model,
        key="",
        match=lambda target, _key: where(target) if where else true(),
        root=True,
        default_order=default_order,
        only_live=where is not None,
    )
    return RelationField(relation, description=description)


def root_row(model: type[Base], *, description: str) -> Any:
    """The row of `model` with the id in the argument."""
    relation = Relation(model, key="", match=lambda _target, _key: true(), root=True)
    return RelationField(relation, description=description, single=True)


def _column(attribute: object) -> Any:
    assert isinstance(attribute, InstrumentedAttribute), "a column of a table class is needed"
    return attribute.property.columns[0]


def _constraint(table: Table, name: str) -> ForeignKeyConstraint:
    """The foreign key that a column stands for: the one it shares with the fewest other columns."""
    found = [c for c in table.foreign_key_constraints if name in c.column_keys]
    return min(found, key=lambda constraint: len(constraint.column_keys))


def finish_field(
    field: RelationField, types: Mapping[Mirror, FilterTypes], connections: Mapping[Mirror, type]
) -> Any:
    """Give a relation field its type and arguments, and return the type."""
    relation = field.relation
    target = relation.target
    if field.single:
        annotation: Any = target.cls | None
        arguments = [_argument("id", strawberry.ID, "The id.", required=True)]
    elif relation.to_one or relation.first:
        annotation = target.cls | None if relation.nullable or relation.first else target.cls
        arguments = []
    else:
        annotation = connections[target]
        arguments = _page_arguments(relation, types[target])
        field.filters = types[target]
    field.type_annotation = StrawberryAnnotation(annotation)
    field._arguments = arguments
    if field.description is None:
        field.description = _describe(relation)
    return annotation


def _describe(relation: Relation) -> str:
    return f"Its rows of type {relation.target.name}, a page at a time."


def _page_arguments(relation: Relation, types: FilterTypes) -> list[StrawberryArgument]:
    size = f"between 0 and {MAX_PAGE}; 20 when neither is given"
    arguments = [
        _argument("first", int, f"How many rows from the start, {size}."),
        _argument("after", str, "A cursor: only rows after it."),
        _argument("last", int, f"How many rows from the end, {size}."),
        _argument("before", str, "A cursor: only rows before it."),
        _argument("filter", types.filter, "Which rows."),
    ]
    if types.order is not None:
        arguments.append(
            _argument("order_by", list[types.order], "In which order; the id is the last key.")  # type: ignore[name-defined]  # a class made at run time
        )
    if relation.argument is not None:
        asked = relation.argument
        arguments.insert(0, _argument(asked.name, strawberry.ID, asked.description, required=True))
    if relation.root and not relation.only_live and "deleted_at" in relation.target.table.columns:
        arguments.append(_argument("deleted", bool, "Deleted rows instead of live ones."))
    return arguments


def _argument(
    name: str, annotation: Any, description: str, *, required: bool = False
) -> StrawberryArgument:
    return StrawberryArgument(
        python_name=name,
        graphql_name=None,
        type_annotation=StrawberryAnnotation(annotation if required else annotation | None),
        description=description,
        default=UNSET if required else None,
    )
