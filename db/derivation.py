"""From a field of a model to its column, its CHECK constraints and its keys."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin
from uuid import UUID

import annotated_types as bounds
import sqlalchemy as sa
from pydantic import StringConstraints
from pydantic.fields import FieldInfo
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.schema import SchemaItem
from sqlmodel.main import FieldInfoMetadata

from db.json_bounds import MAX_DEPTH

OnDelete = Literal["CASCADE", "NO ACTION"]

T = TypeVar("T")


@dataclass(frozen=True)
class OwnedKey:
    """A foreign key to a row of the same owner."""

    table: str
    ondelete: OnDelete
    within: tuple[str, str] | None
    order: tuple[str, ...] | None
    deferred: bool


@dataclass(frozen=True)
class JsonBound:
    """The largest text of a jsonb value, in bytes."""

    max_bytes: int


_FIRST = ("owner_id", "id")
_LAST = ("version", "created_at", "updated_at", "deleted_at", "deletion_id", "search")
_TYPES: dict[type, Callable[[], sa.types.TypeEngine[Any]]] = {
    UUID: sa.Uuid,
    bool: sa.Boolean,
    int: sa.Integer,
    float: sa.Double,
    datetime: lambda: sa.DateTime(timezone=True),
    bytes: sa.LargeBinary,
    # None is SQL's null in both; JSON's own null at the top is never stored.
    dict: lambda: JSONB(none_as_null=True),
    list: lambda: JSONB(none_as_null=True),
}


def column_rank(item: tuple[str, FieldInfo]) -> int:
    """Keys come first in a table, what mixins add comes last."""
    name = item[0]
    return -1 if name in _FIRST else _LAST.index(name) + 1 if name in _LAST else 0


def with_column(name: str, field: FieldInfo) -> FieldInfo:
    """A copy of the field that carries its finished column."""
    declared = _one(field, FieldInfoMetadata) or FieldInfoMetadata()
    kwargs = dict(_given(declared.sa_column_kwargs) or {})
    default = _server_default(field)
    if default is not None:
        kwargs.setdefault("server_default", default)
    column = sa.Column(
        field.alias or name,
        _given(declared.sa_type) or _column_type(field),
        *(_given(declared.sa_column_args) or ()),
        primary_key=declared.primary_key is True,
        nullable=_inner(field)[1],
        **kwargs,
    )
    # Several tables share the field, and must not share the column.
    own = copy(field)
    others = [item for item in field.metadata if not isinstance(item, FieldInfoMetadata)]
    own.metadata = [*others, replace(declared, sa_column=column)]
    return own


def _given(value: Any) -> Any:
    return None if type(value).__name__ == "PydanticUndefinedType" else value


def _inner(field: FieldInfo) -> tuple[Any, bool]:
    """The annotation without `None`, and whether `None` was in it."""
    if get_origin(field.annotation) not in (Union, UnionType):
        return field.annotation, False
    rest = [one for one in get_args(field.annotation) if one is not type(None)]
    return rest[0], True


def _one(field: FieldInfo, kind: type[T]) -> T | None:
    return next((item for item in field.metadata if isinstance(item, kind)), None)


def _column_type(field: FieldInfo) -> sa.types.TypeEngine[Any]:
    annotation, _ = _inner(field)
    kind = get_origin(annotation) or annotation
    if issubclass(kind, StrEnum):
        return sa.Text()
    if issubclass(kind, str):
        longest = _one(field, bounds.MaxLen)
        if longest is None:
            raise TypeError(f"a string needs max_length: {field.description}")
        return sa.String(longest.max_length)
    return _TYPES[kind]()


def _server_default(field: FieldInfo) -> sa.TextClause | None:
    default = field.get_default(call_default_factory=True, validated_data={})
    match default:
        case bool() | int():
            return sa.text(str(default).lower())
        case str():
            return sa.text(f"'{default}'")
        case list() | dict():
            return sa.text(f"'{'[]' if isinstance(default, list) else '{}'}'::jsonb")
    return None


def owned_keys(table: str, fields: Mapping[str, FieldInfo]) -> Iterator[SchemaItem]:
    """The foreign keys of a table and their indexes; one to the owner unless another implies it."""
    keys = [(name, _one(field, OwnedKey)) for name, field in fields.items()]
    rooted = "owner_id" in fields
    for column, key in keys:
        if key is None:
            continue
        if key.ondelete == "CASCADE" and not _inner(fields[column])[1]:
            rooted = False  # the row it belongs to vouches for the owner
        here, there = ([key.within[0]], [key.within[1]]) if key.within else ([], [])
        yield sa.ForeignKeyConstraint(
            ["owner_id", *here, column],
            [f"{key.table}.{name}" for name in ("owner_id", *there, "id")],
            name=f"fk_{table}_{column}",
            ondelete=None if key.ondelete == "NO ACTION" else key.ondelete,
            # Erasing an account removes both ends in one statement, in whatever order.
            deferrable=True if key.ondelete == "NO ACTION" else None,
            initially="DEFERRED" if key.deferred else None,
            use_alter=key.deferred,
        )
        if key.order is not None:
            yield sa.Index(f"ix_{table}_{column}", "owner_id", column, *ordered(key.order))
    if rooted:
        yield sa.ForeignKeyConstraint(
            ["owner_id"], ["users.id"], name=f"fk_{table}_owner_id", ondelete="CASCADE"
        )


NEVER = "'infinity'::timestamp with time zone"
"""What stands for a moment that is null where rows are ordered by it: later than all others."""


def ordered(order: Iterable[str]) -> Iterator[str | sa.TextClause]:
    """The columns of an index in their directions; the id goes the way of the last one.

    `-name` is descending; `name?` is a moment that can be null.
    """
    falling = False
    for key in order:
        falling = key.startswith("-")
        name = key.strip("-?")
        if key.endswith("?"):
            # Spelled as PostgreSQL prints it back, so that `alembic check` finds no difference.
            expression = f"(\nCASE\n    WHEN {name} IS NULL THEN {NEVER}\n    ELSE {name}\nEND)"
            yield sa.text(expression + " DESC" * falling)
        else:
            yield sa.text(f"{name} DESC") if falling else name
    yield sa.text("id DESC") if falling else "id"


def checks(fields: Mapping[str, FieldInfo]) -> Iterator[sa.CheckConstraint]:
    """One CHECK per column that has rules beyond its type, named after the column."""
    for attribute, field in fields.items():
        column = field.alias or attribute
        rules = [rule for rule in _rules(f'"{column}"', field) if rule]
        if rules:
            yield sa.CheckConstraint(" AND ".join(rules), name=column)


def _rules(column: str, field: FieldInfo) -> Iterator[str]:
    """What PostgreSQL must hold of a column, from the field's own constraints."""
    annotation, _ = _inner(field)
    kind = get_origin(annotation) or annotation
    if issubclass(kind, list) and get_args(annotation) != (float,):  # a vector is no jsonb
        yield _list_rule(column, field, get_args(annotation)[0])
        return
    if issubclass(kind, StrEnum):
        yield f"{column} IN ({', '.join(repr(one.value) for one in kind)})"
    json = _one(field, JsonBound)
    if json:
        yield f"jsonb_typeof({column}) = 'object'"
        yield f"octet_length({column}::text) <= {json.max_bytes}"
        yield f"NOT jsonb_path_exists({column}, '$.**{{{MAX_DEPTH + 1}}}')"
    size = "octet_length" if issubclass(kind, bytes) else "char_length"
    for item in field.metadata:
        match item:
            case bounds.Ge():
                yield f"{column} >= {item.ge}"
            case bounds.Le():
                yield f"{column} <= {item.le}"
            case bounds.MinLen():
                yield f"{size}({column}) >= {item.min_length}"
            case bounds.MaxLen() if kind is bytes:
                yield f"{size}({column}) <= {item.max_length}"
            case _ if getattr(item, "pattern", None):
                yield f"{column} ~ '{item.pattern}'"


def _list_rule(column: str, field: FieldInfo, element: Any) -> str:
    """A list is a jsonb array of bounded strings, or of the values of an enum."""
    shortest = _one(field, bounds.MinLen)
    longest = _one(field, bounds.MaxLen)
    if longest is None:
        raise TypeError(f"a list needs max_length: {field.description}")
    if isinstance(element, type) and issubclass(element, StrEnum):
        values = ", ".join(f'"{one.value}"' for one in element)
        elements = f"{column} <@ '[{values}]'::jsonb"
    else:
        text = next(item for item in get_args(element) if isinstance(item, StringConstraints))
        pattern = f"^.{{{text.min_length},{text.max_length}}}$"
        elements = (
            f'NOT jsonb_path_exists({column}, \'$[*] ? (@.type() != "string"'
            f' || !(@ like_regex "{pattern}" flag "s"))\')'
        )
    # jsonb_array_length fails on anything but an array, hence the CASE.
    return (
        f"CASE WHEN jsonb_typeof({column}) = 'array' THEN jsonb_array_length({column})"
        f" BETWEEN {shortest.min_length if shortest else 0} AND {longest.max_length}"
        f" AND {elements} ELSE false END"
    )
