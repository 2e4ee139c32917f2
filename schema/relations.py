"""Relation fields: the paths from rows to rows, declared once, on the GraphQL side.

one(work.Task.project_id)        the row that a foreign key names
many(work.Task.project_id)       the rows whose foreign key names this one, as a connection
related(work.Task, ...)          rows that another rule relates, as a connection
first(work.Task, ...)            the first of them alone
root(work.Task) / root_row(...)  where a query starts; owner(accounts.User) is the caller
"""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, ForeignKeyConstraint, FromClause, Table, true
from sqlalchemy.orm import InstrumentedAttribute

from db.base import Base, column_fields
from schema.relation_fields import (
    FirstField,
    Match,
    OneField,
    OwnerField,
    PageField,
    Relation,
    RootRowField,
)


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
    return OneField(relation, description or described)


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
    return PageField(relation, description)


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
    return PageField(relation, description)


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
    return FirstField(relation, description)


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
    return PageField(relation, description)


def root_row(model: type[Base], *, description: str) -> Any:
    """The row of `model` with the id in the argument."""
    relation = Relation(model, key="", match=lambda _target, _key: true(), root=True)
    return RootRowField(relation, description)


def owner(model: type[Base], *, description: str) -> Any:
    """The caller's own row of `model`, whose id is the owner's."""
    relation = Relation(model, key="", match=lambda _target, _key: true(), root=True)
    return OwnerField(relation, description)


def _column(attribute: object) -> Any:
    assert isinstance(attribute, InstrumentedAttribute), "a column of a table class is needed"
    return attribute.property.columns[0]


def _constraint(table: Table, name: str) -> ForeignKeyConstraint:
    """The foreign key that a column stands for: the one it shares with the fewest other columns."""
    found = [c for c in table.foreign_key_constraints if name in c.column_keys]
    return min(found, key=lambda constraint: len(constraint.column_keys))
