"""What an export of an account holds: rows of every table, as lines of JSON.

Which tables and columns follows from the models. A table is in it unless its class says why not;
a column is in it unless it is a secret, or computed from others. Tables come in the order in which
they can be stored again: each after those that its keys name.
"""

from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Column, ColumnElement, Table
from sqlalchemy.dialects.postgresql import JSONB

from db.base import is_shareable
from db.models import metadata
from db.scope import is_owned, predicate, readable

FORMAT = 1
"""Raised when a reader of the lines would have to know of a change."""
PAGE_ROWS = 200
PAGE_BYTES = 2_000_000
"""How much of a table is read at once: a page ends with the row that passes this size."""

_LINE = sa.literal_column("row_to_json(line)::text", sa.Text())


@cache
def tables() -> tuple[Table, ...]:
    """The tables whose rows are exported, each after those that its keys name."""
    return tuple(
        table
        for table in metadata.sorted_tables
        if is_owned(table) and table.info["left_out"] is None
    )


def columns(table: Table) -> list[Column[Any]]:
    """The columns that are exported."""
    return [column for column in table.c if column.computed is None and is_shareable(column)]


def key(table: Table) -> list[Column[Any]]:
    """What tells rows of one owner apart, in the order in which they are exported."""
    others = [column for column in table.primary_key if column.name != "owner_id"]
    return others or list(table.primary_key)


def last_parameters(last: tuple[Any, ...] | None) -> dict[str, Any]:
    """The parameters of `page` after a row with this key."""
    return {f"last_{place}": value for place, value in enumerate(last or ())}


@cache
def page(table: Table, *, first: bool) -> sa.Select[*tuple[Any, ...]]:
    """The next rows of the owner: the key, then the line of each.

    Rows are counted and measured before any is read out, so that a page of long texts is as bounded
    as one of many rows. One row is always in it, however large it is.
    """
    keys = key(table)
    sized = readable(table, *keys, _size(table).label("size"), deleted=None)
    if not first:
        values = [sa.bindparam(f"last_{n}", type_=column.type) for n, column in enumerate(keys)]
        sized = sized.where(sa.tuple_(*keys) > sa.tuple_(*values))
    ahead = sized.order_by(*keys).limit(PAGE_ROWS).cte("ahead")
    ordered = [ahead.c[column.name] for column in keys]
    before = sa.func.sum(ahead.c.size).over(order_by=ordered) - ahead.c.size
    measured = sa.select(*ordered, before.label("before")).cte("measured")
    line = sa.select(*columns(table)).correlate(table).subquery("line")
    return (
        sa.select(*keys, sa.select(_LINE).select_from(line).scalar_subquery().label("line"))
        .select_from(table)
        .join(measured, sa.and_(*(measured.c[column.name] == column for column in keys)))
        .where(predicate(table, deleted=None), measured.c.before < PAGE_BYTES)
        .order_by(*keys)
    )


@cache
def count(table: Table) -> sa.Select[*tuple[Any, ...]]:
    """How many rows of a table the owner has."""
    return readable(table, sa.func.count().label("rows"), deleted=None)


def _size(table: Table) -> ColumnElement[int]:
    """About how long a row's line is. Found without reading long values, which lie elsewhere."""
    parts: list[ColumnElement[int]] = [
        sa.func.coalesce(
            sa.func.octet_length(column)
            if isinstance(column.type, sa.String)
            else sa.func.pg_column_size(column),
            0,
        )
        for column in columns(table)
        if isinstance(column.type, sa.String | JSONB)
    ]
    return sum(parts, sa.literal_column("100", sa.BigInteger()))
