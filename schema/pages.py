"""Pages of rows: connections as Relay specifies them, by keyset, forward and backward.

A page is asked for by a `PageRequest`, read by `schema.loaders`, and answered as a `Page`. The
order of a connection always ends with the id, so it is total; a cursor holds the values of the
order's columns in one row, and the order itself, so that it is refused under another one.
"""

import base64
import binascii
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

import orjson
import strawberry
from sqlalchemy import (
    ColumnElement,
    DateTime,
    FromClause,
    UnaryExpression,
    and_,
    bindparam,
    case,
    literal_column,
    or_,
    tuple_,
)

from db.derivation import NEVER
from schema.errors import ErrorCode, RequestError, bad_input
from schema.filters import Clause, Condition
from schema.mirror import Mirror, OrderTerm
from schema.rows import Row
from schema.scalars import clean_text, in_utc

DEFAULT_PAGE = 20
MAX_PAGE = 1_000
MAX_ORDER_TERMS = 5
MAX_CURSOR_CHARS = 4_000

_NEVER: ColumnElement[datetime] = literal_column(NEVER, DateTime(timezone=True))

T = TypeVar("T")

Order = tuple[OrderTerm, ...]


class Connection(Generic[T]):
    """In a mirrored class: the annotation of a relation to many rows."""


@strawberry.type(description="Where a page stands in its connection.")
class PageInfo:
    """Relay's PageInfo."""

    has_next_page: bool = strawberry.field(description="Whether rows follow this page.")
    has_previous_page: bool = strawberry.field(description="Whether rows precede this page.")
    start_cursor: str | None = strawberry.field(description="The cursor of the first edge.")
    end_cursor: str | None = strawberry.field(description="The cursor of the last edge.")


@dataclass(frozen=True)
class PageShape:
    """What decides the text of a page's statement; its values travel as parameters."""

    order: Order
    backward: bool = False
    after: bool = False
    before: bool = False
    filter: Hashable = None
    deleted: bool = False
    clause: Clause | None = field(default=None, compare=False)
    """What the filter's shape stands for."""
    large: bool = False
    """Whether the filter is too long for its statement to be kept."""


@dataclass(frozen=True)
class PageRequest:
    """What a connection field was asked for."""

    shape: PageShape
    limit: int = DEFAULT_PAGE
    after: tuple[Any, ...] = ()
    before: tuple[Any, ...] = ()
    operands: tuple[Any, ...] = ()
    argument: UUID | None = None
    """The row that the field's own argument names, where it has one."""

    @property
    def key(self) -> Hashable:
        """Equal for requests that have the same answer."""
        return (self.shape, self.limit, self.after, self.before, repr(self.operands), self.argument)

    @property
    def filter_parameters(self) -> dict[str, Any]:
        """The values of the filter, by the names that a binder gives, and the field's argument."""
        values = {f"v{i}": value for i, value in enumerate(self.operands)}
        return values if self.argument is None else {**values, "argument": self.argument}

    @property
    def parameters(self) -> dict[str, Any]:
        """The values of the page's statement."""
        return {
            "limit": self.limit + 1,
            **{f"a{i}": value for i, value in enumerate(self.after)},
            **{f"b{i}": value for i, value in enumerate(self.before)},
            **self.filter_parameters,
        }


@dataclass(frozen=True)
class Edge:
    """One row of a page."""

    node: Row
    order: Order

    @property
    def cursor(self) -> str:
        return encode_cursor(self.order, [self.node.values[term.column] for term in self.order])


class Page:
    """The answer to a request, for one parent."""

    def __init__(
        self,
        request: PageRequest,
        rows: Sequence[Row],
        count: Callable[[], Any],
    ) -> None:
        """`rows` may hold one row more than asked for, which says that others follow."""
        more = len(rows) > request.limit
        kept = list(rows[: request.limit])
        shape = request.shape
        if shape.backward:
            kept.reverse()
        self.order = shape.order
        self.nodes = kept
        self._count = count
        self._has_next = more if not shape.backward else shape.before
        self._has_previous = more if shape.backward else shape.after

    @property
    def edges(self) -> list[Edge]:
        return [Edge(row, self.order) for row in self.nodes]

    @property
    def total_count(self) -> Any:
        """An awaitable: counting costs a statement, so only who asks for it pays."""
        return self._count()

    @property
    def page_info(self) -> PageInfo:
        edges = self.edges
        return PageInfo(
            has_next_page=self._has_next,
            has_previous_page=self._has_previous,
            start_cursor=edges[0].cursor if edges else None,
            end_cursor=edges[-1].cursor if edges else None,
        )


def request_page(mirror: Mirror, default_order: Order, arguments: Mapping[str, Any]) -> PageRequest:
    """Check a connection's arguments.

    Raises:
        RequestError: BAD_USER_INPUT for sizes and orders, BAD_CURSOR for cursors.
    """
    first, last = arguments.get("first"), arguments.get("last")
    if first is not None and last is not None:
        raise bad_input("Ask for `first` or for `last`, not for both.")
    for name, size in (("first", first), ("last", last)):
        if size is not None and not 0 <= size <= MAX_PAGE:
            raise bad_input(f"`{name}` must be between 0 and {MAX_PAGE}.")
    size = first if first is not None else last
    order = _complete(mirror, arguments.get("order_by") or (), default_order)
    after = _cursor(mirror, order, "after", arguments)
    before = _cursor(mirror, order, "before", arguments)
    condition: Condition | None = arguments.get("filter")
    shape = PageShape(
        order=order,
        backward=last is not None,
        after=after is not None,
        before=before is not None,
        filter=condition.shape if condition else None,
        deleted=bool(arguments.get("deleted")),
        clause=condition.clause if condition else None,
        large=condition is not None and condition.is_large,
    )
    return PageRequest(
        shape=shape,
        limit=DEFAULT_PAGE if size is None else size,
        after=after or (),
        before=before or (),
        operands=condition.values if condition else (),
    )


def _complete(mirror: Mirror, asked: Sequence[OrderTerm], default: Order) -> Order:
    if len(asked) > MAX_ORDER_TERMS:
        raise bad_input(f"`orderBy` takes at most {MAX_ORDER_TERMS} fields.")
    if len({term.column for term in asked}) < len(asked):
        raise bad_input("`orderBy` names a field twice.")
    order = tuple(asked) or default
    if any(term.column == "id" for term in order):
        # What follows a unique column orders nothing.
        return order[: [term.column for term in order].index("id") + 1]
    return (*order, OrderTerm("id", order[-1].descending if order else False))


def _signature(order: Order) -> str:
    return ",".join(f"{'-' if term.descending else ''}{term.column}" for term in order)


def encode_cursor(order: Order, values: Sequence[Any]) -> str:
    """The opaque text that stands for a place in an order."""
    content = orjson.dumps([_signature(order), *values], default=str)
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _cursor(
    mirror: Mirror, order: Order, name: str, arguments: Mapping[str, Any]
) -> tuple[Any, ...] | None:
    text = arguments.get(name)
    if text is None:
        return None
    try:
        return decode_cursor(mirror, order, text)
    except (ValueError, TypeError, OverflowError):
        message = f"`{name}` is not a cursor of this connection in this order."
        raise RequestError(message, ErrorCode.BAD_CURSOR) from None


def decode_cursor(mirror: Mirror, order: Order, text: str) -> tuple[Any, ...]:
    """The values in a cursor.

    Raises:
        ValueError: it is malformed, or of another order.
    """
    if len(text) > MAX_CURSOR_CHARS:
        raise ValueError("too long")
    try:
        content = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    signature, *values = orjson.loads(content)
    if signature != _signature(order) or len(values) != len(order):
        raise ValueError("another order")
    return tuple(
        _value(mirror, term.column, value) for term, value in zip(order, values, strict=True)
    )


def _value(mirror: Mirror, name: str, value: Any) -> Any:
    column = mirror.table.columns[name]
    if value is None:
        if not column.nullable:
            raise ValueError("null")
        return None
    python_type = column.type.python_type
    if python_type in (UUID, datetime) and not isinstance(value, str):
        raise ValueError("no text")
    if python_type is UUID:
        return UUID(value)
    if python_type is datetime:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError("no offset")
        return in_utc(moment)
    if type(value) is not python_type:
        raise ValueError("another type")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("too large")
    if python_type is int and not _is_big(column.type) and not -(2**31) <= value < 2**31:
        raise ValueError("too large")
    return clean_text(value) if isinstance(value, str) else value


def _is_big(column_type: Any) -> bool:
    return type(column_type).__name__ in ("BigInteger", "BIGINT")


def order_by(source: FromClause, shape: PageShape) -> list[UnaryExpression[Any]]:
    """The ORDER BY of a page; a backward page is read from its end."""
    return [
        order_key(source.c[term.column]).desc()
        if term.descending != shape.backward
        else order_key(source.c[term.column]).asc()
        for term in shape.order
    ]


def bounds(source: FromClause, shape: PageShape) -> list[ColumnElement[bool]]:
    """The rows strictly after `after` and strictly before `before`, in the order of the shape."""
    clauses = []
    if shape.after:
        clauses.append(_beyond(source, shape.order, "a", reverse=False))
    if shape.before:
        clauses.append(_beyond(source, shape.order, "b", reverse=True))
    return clauses


def _beyond(source: FromClause, order: Order, prefix: str, *, reverse: bool) -> ColumnElement[bool]:
    keys: list[ColumnElement[Any]] = [order_key(source.c[term.column]) for term in order]
    values: list[ColumnElement[Any]] = [
        order_key(
            source.c[term.column], bindparam(f"{prefix}{i}", type_=source.c[term.column].type)
        )
        for i, term in enumerate(order)
    ]
    falling = [term.descending != reverse for term in order]
    if len(set(falling)) == 1:
        # One row comparison: PostgreSQL turns it into one range of the index.
        bound, row = tuple_(*values), tuple_(*keys)
        return row < bound if falling[0] else row > bound
    alternatives = []
    for position, (key, value) in enumerate(zip(keys, values, strict=True)):
        same = [keys[i] == values[i] for i in range(position)]
        alternatives.append(and_(*same, key < value if falling[position] else key > value))
    # What the alternatives imply, said so that an index can start there.
    start = keys[0] <= values[0] if falling[0] else keys[0] >= values[0]
    return and_(start, or_(*alternatives))


def order_key(column: Any, value: ColumnElement[Any] | None = None) -> ColumnElement[Any]:
    """What an order compares of a column, or of a value of it.

    A moment that is null counts as later than all others: by a comparison with null PostgreSQL
    could not start in the middle of an index. Nor could it, under row-level security, with
    COALESCE, which it does not know to be leakproof.
    """
    compared: ColumnElement[Any] = column if value is None else value
    return case((compared.is_(None), _NEVER), else_=compared) if column.nullable else compared
