"""Who may read which rows: every select starts here.

A statement names its owner through one bind parameter. Its value is the owner of the session that
runs the statement, taken at execution: no caller can pass another, and forgetting it is impossible.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BinaryExpression,
    BindParameter,
    ColumnElement,
    Executable,
    FromClause,
    Select,
    Table,
    Uuid,
    and_,
    bindparam,
    select,
    true,
)
from sqlalchemy.sql import visitors
from sqlalchemy.sql.selectable import AliasedReturnsRows

# Set by the session around each execution; None is a session without a person.
current_owner: ContextVar[UUID | None] = ContextVar("current_owner")
_disabled: ContextVar[bool] = ContextVar("scope_disabled", default=False)

OWNER: BindParameter[UUID] = bindparam("owner_id", callable_=current_owner.get, type_=Uuid())
"""The owner of the session that runs the statement."""


def owner_column(table: FromClause) -> ColumnElement[UUID]:
    """The column that names a row's owner: `owner_id`, or the id of a user. Aliases work too.

    Raises LookupError for a table that nobody owns.
    """
    column: ColumnElement[UUID] | None = table.c.get("owner_id")
    if column is not None:
        return column
    source: Any = table
    while isinstance(source, AliasedReturnsRows):
        source = source.element
    if getattr(source, "name", None) == "users":
        return table.c["id"]
    raise LookupError(f"Rows of {getattr(source, 'name', 'this selectable')} have no owner.")


def is_owned(table: Table) -> bool:
    """Whether the rows of a table belong to people."""
    return "owner_id" in table.c or table.name == "users"


def predicate(table: FromClause, *, deleted: bool | None = False) -> ColumnElement[bool]:
    """The rows of `table` (or of an alias) that the session's owner may read.

    `deleted`: False for live rows, True for deleted ones, None for both.
    """
    owned = owner_column(table) == OWNER
    mark = table.c.get("deleted_at")
    if deleted is None or (mark is None and not deleted):
        return owned
    if mark is None:
        raise LookupError(f"Rows of {getattr(table, 'name', 'this selectable')} are never deleted.")
    return and_(owned, mark.is_not(None) if deleted else mark.is_(None))


def readable(
    table: FromClause, *columns: ColumnElement[Any], deleted: bool | None = False
) -> Select[*tuple[Any, ...]]:
    """Start a select over the rows of `table` that the owner may read; all columns unless named."""
    # The table is named although the predicate implies it: `scope_disabled` takes that away.
    return (
        select(*(columns or (table,))).select_from(table).where(predicate(table, deleted=deleted))
    )


@contextmanager
def scope_disabled() -> Iterator[None]:
    """Tests only: leave the owner predicate out, to prove that row-level security holds alone."""
    token = _disabled.set(True)
    try:
        yield
    finally:
        _disabled.reset(token)


def scope_is_disabled() -> bool:
    """Whether this runs inside `scope_disabled`."""
    return _disabled.get()


def effective(statement: Executable) -> Executable:
    """What the session runs: the statement itself, or inside `scope_disabled` one without owner.

    The rewritten statement is another expression, so the two never share a compiled form.
    """
    if not _disabled.get():
        return statement

    def without_owner(element: Any, **_: Any) -> Any:
        if isinstance(element, BinaryExpression) and (
            _is_owner(element.left) or _is_owner(element.right)
        ):
            return true()
        return None

    element: Any = statement
    rewritten: Executable = visitors.replacement_traverse(element, {}, without_owner)
    return rewritten


def _is_owner(element: object) -> bool:
    """Whether this is OWNER or a copy of it, as aliasing makes them."""
    return isinstance(element, BindParameter) and element.callable is OWNER.callable
