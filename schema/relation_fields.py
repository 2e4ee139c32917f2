"""Relations and the fields that resolve them: a class for each way that leads to rows.

There is no lazy loading: a resolver asks its operation's loaders for its whole level at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import strawberry
from sqlalchemy import ColumnElement, FromClause, Table
from strawberry.annotation import StrawberryAnnotation
from strawberry.types.arguments import StrawberryArgument
from strawberry.types.field import StrawberryField
from strawberry.types.unset import UNSET

from db.base import Base
from schema import ids
from schema.errors import ErrorCode, RequestError
from schema.filter_types import FilterTypes, order_terms
from schema.loaders import ROOT, Loaders
from schema.mirror import MIRRORS, Mirror, OrderTerm, by_table
from schema.pages import MAX_PAGE, Order, Page, PageRequest, PageShape, request_page
from schema.rows import Row

Types = Mapping[Mirror, FilterTypes]
Connections = Mapping[Mirror, type]
Match = Callable[[FromClause, ColumnElement[Any]], ColumnElement[bool]]


@dataclass(frozen=True)
class RowArgument:
    """An argument that a relation field asks for: the id of a row of `model`."""

    name: str
    model: type[Base]
    description: str


class Relation:
    """How rows lead to rows of the target."""

    even = True
    """Whether one plan of its statement is good for all keys: an index leads to each alike."""

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
    """A field that a relation resolves. `schema.assembly` has it finished."""

    def __init__(self, relation: Relation, description: str | None = None) -> None:
        super().__init__(description=description)
        self.relation = relation
        self.init = False

    @property
    def is_basic_field(self) -> bool:
        return False

    def __copy__(self) -> "RelationField":
        copied = type(self)(self.relation, self.description)
        copied.__dict__.update(self.__dict__)
        for name in ("python_name", "graphql_name"):
            setattr(copied, name, getattr(self, name))
        copied._arguments = list(self._arguments or ())
        return copied

    def finish(
        self, types: Mapping[Mirror, FilterTypes], connections: Mapping[Mirror, type]
    ) -> Any:
        """Take type and arguments from the relation, and return the type."""
        raise NotImplementedError

    def _finished(self, annotation: Any, arguments: list[StrawberryArgument]) -> Any:
        self.type_annotation = StrawberryAnnotation(annotation)
        self._arguments = arguments
        return annotation

    def get_result(self, source: Any, info: Any, args: list[Any], kwargs: Any) -> Any:
        loaders: Loaders = info.context.loaders
        if loaders.names is None:
            loaders.names = info.context.field_names(info)
        return self.load(loaders, source, kwargs)

    def load(self, loaders: Loaders, source: Any, kwargs: Mapping[str, Any]) -> Any:
        """An awaitable for the field's value."""
        raise NotImplementedError


class OneField(RelationField):
    """The row that a foreign key names."""

    def finish(
        self, types: Mapping[Mirror, FilterTypes], connections: Mapping[Mirror, type]
    ) -> Any:
        cls: Any = self.relation.target.cls
        return self._finished(cls | None if self.relation.nullable else cls, [])

    async def load(self, loaders: Loaders, source: Row, kwargs: Mapping[str, Any]) -> Row | None:
        relation = self.relation
        value = source.values[relation.key]
        if value is None:
            return None
        # A row that is deleted softly is still what the key names, as the key's null-ness promises.
        rows = await loaders.rows(relation.target, source.level.keys(relation.key), deleted=None)
        return rows.get(value)


class PageField(RelationField):
    """Rows that belong to a row, or to nothing but their owner, as a connection."""

    filters: FilterTypes

    def finish(
        self, types: Mapping[Mirror, FilterTypes], connections: Mapping[Mirror, type]
    ) -> Any:
        target = self.relation.target
        self.filters = types[target]
        if self.description is None:
            self.description = f"Its rows of type {target.name}, a page at a time."
        return self._finished(connections[target], page_arguments(self.relation, types[target]))

    async def load(self, loaders: Loaders, source: Row | None, kwargs: Mapping[str, Any]) -> Page:
        return await page_of(loaders, self.relation, source, self.request(kwargs))

    def request(self, kwargs: Mapping[str, Any]) -> PageRequest:
        """What the arguments ask for. Raises RequestError."""
        relation = self.relation
        given = {name: value for name, value in kwargs.items() if value is not None}
        if "filter" in given:
            given["filter"] = self.filters.compile(given["filter"])
        if "order_by" in given:
            given["order_by"] = order_terms(given["order_by"])
        request = request_page(relation.target, relation.default_order, given)
        if relation.argument is None:
            return request
        argument = decoded(MIRRORS[relation.argument.model], kwargs[relation.argument.name])
        return replace(request, argument=argument)


class FirstField(RelationField):
    """The first of the rows that belong to a row."""

    def finish(
        self, types: Mapping[Mirror, FilterTypes], connections: Mapping[Mirror, type]
    ) -> Any:
        cls: Any = self.relation.target.cls
        return self._finished(cls | None, [])

    async def load(self, loaders: Loaders, source: Row, kwargs: Mapping[str, Any]) -> Row | None:
        page = await page_of(loaders, self.relation, source, self.request({}))
        return page.nodes[0] if page.nodes else None

    def request(self, kwargs: Mapping[str, Any]) -> PageRequest:
        """A page of one row."""
        return request_page(self.relation.target, self.relation.default_order, {"first": 1})


class RootRowField(RelationField):
    """The row with the id in the argument."""

    def finish(
        self, types: Mapping[Mirror, FilterTypes], connections: Mapping[Mirror, type]
    ) -> Any:
        cls: Any = self.relation.target.cls
        return self._finished(
            cls | None, [_argument("id", strawberry.ID, "The id.", required=True)]
        )

    async def load(self, loaders: Loaders, source: None, kwargs: Mapping[str, Any]) -> Row | None:
        value = self.row_id(kwargs, loaders.owner_id)
        rows = await loaders.rows(self.relation.target, loaders.keys(value), deleted=False)
        return rows.get(value)

    def row_id(self, kwargs: Mapping[str, Any], owner_id: UUID) -> UUID:
        """Which row it is. Raises RequestError (BAD_ID)."""
        return decoded(self.relation.target, kwargs["id"])


class OwnerField(RootRowField):
    """The caller's own row."""

    def finish(
        self, types: Mapping[Mirror, FilterTypes], connections: Mapping[Mirror, type]
    ) -> Any:
        return self._finished(self.relation.target.cls, [])

    async def load(self, loaders: Loaders, source: None, kwargs: Mapping[str, Any]) -> Row:
        row = await super().load(loaders, source, kwargs)
        if row is None:
            raise RequestError("This account is gone.", ErrorCode.UNAUTHENTICATED)
        return row

    def row_id(self, kwargs: Mapping[str, Any], owner_id: UUID) -> UUID:
        return owner_id


async def page_of(
    loaders: Loaders, relation: Relation, source: Row | None, request: PageRequest
) -> Page:
    """The page of a row; of a root relation the one page."""
    if source is None:
        return (await loaders.pages(relation, request, ROOT))[None]
    pages = await loaders.pages(relation, request, source.level.keys(relation.key))
    value = source.values[relation.key]
    return pages[value] if value is not None else loaders.empty_page(relation, request)


def decoded(target: Mirror, text: str) -> UUID:
    """The UUID in a global id of the target's type.

    Raises:
        RequestError: BAD_ID.
    """
    try:
        return ids.decode_as(target.key, text)
    except ids.BadId as error:
        raise RequestError(str(error), ErrorCode.BAD_ID) from None


def page_arguments(relation: Relation, types: FilterTypes) -> list[StrawberryArgument]:
    """The arguments of a connection."""
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
