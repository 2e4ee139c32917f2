"""Table → GraphQL type. A class names what it shows; everything else comes from the table.

    @mirror(work.Task, private={"deletion_id"}, order_by=("created_at", "priority"))
    class Task(Node):
        title: auto
        project: "Project" = one(work.Task.project_id)

`auto` takes type, null-ness and description from the column. A column that is neither shown, nor
the foreign key of a shown relation, nor listed as private fails a test, so nothing is forgotten
and nothing leaks by default. Types are finished together, by `finish()`, once all are declared:
they refer to each other in circles.
"""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal, TypeVar, Union, get_args, get_origin
from uuid import UUID

import strawberry
from sqlalchemy import BigInteger, Column, Table
from sqlalchemy.dialects.postgresql import INET
from strawberry.types.auto import StrawberryAuto
from strawberry.utils.str_converters import to_camel_case

from db.base import Base, column_fields, is_shareable
from schema.derived import DerivedField
from schema.rows import Row
from schema.scalars import JSON, BigInt

T = TypeVar("T", bound=type)
E = TypeVar("E", bound=StrEnum)

Scope = Literal["read", "write", "account"]
"""What an API key may be allowed to do."""

CONVENTION = frozenset({"owner_id", "deletion_id"})
"""Columns that no type shows: the owner is always the caller, the batch of a deletion is ours."""


@dataclass(frozen=True)
class OrderTerm:
    """One key of an order. Nulls are PostgreSQL's: last ascending, first descending."""

    column: str
    descending: bool = False


@dataclass(eq=False)
class Mirror:
    """How one table is served."""

    model: type[Base]
    cls: type
    private: frozenset[str]
    order_by: tuple[str, ...]
    default_order: tuple[OrderTerm, ...]
    access: Scope = "read"
    """What an API key needs to see these rows."""
    needed: frozenset[str] = frozenset()
    """The columns that derived fields are made from, read whatever the document asks for."""
    columns: tuple[str, ...] = ()
    """The shown columns, `id` included."""
    relations: dict[str, Any] = field(default_factory=dict)
    """Relation fields by Python name: `schema.relations.Relation`."""

    @property
    def name(self) -> str:
        """The GraphQL type's name."""
        return self.cls.__name__

    @property
    def key(self) -> str:
        """The prefix of this type's global ids, and its entity type in audit events."""
        return str(self.table.info["entity"])

    @property
    def table(self) -> Table:
        return self.model.__table__

    @property
    def audited(self) -> bool:
        """Whether changes of its rows are recorded, and told by the change feed."""
        return bool(self.table.info["audited"])

    @cached_property
    def json_columns(self) -> frozenset[str]:
        """The columns that are shown as JSON."""
        fields = column_fields(self.model)
        return frozenset(name for name in self.columns if _is_json(bare(fields[name].annotation)))

    def loaded(self, names: Collection[str] | None) -> list[str]:
        """The columns to read: keys always, shown ones when `names` (of fields) has them."""
        shown = set(self.columns)
        return [
            column.name
            for column in self.table.columns
            if is_shareable(column)
            and (
                names is None
                or column.name not in shown
                or column.name in self.needed
                or _is_key(column)
                or to_camel_case(column.name) in names
            )
        ]


MIRRORS: dict[type[Base], Mirror] = {}
"""Every mirrored table, in the order of declaration."""
_BY_KEY: dict[str, Mirror] = {}
_BY_TABLE: dict[Table, Mirror] = {}


def by_key() -> Mapping[str, Mirror]:
    """The mirrors by the prefix of their ids."""
    return _BY_KEY


def referred(model: type[Base], name: str) -> Mirror:
    """The mirror of the rows that a foreign key names.

    A column may be part of several keys, which it then keeps within one project or conversation;
    its own is the one that it ends.
    """
    keys = model.__table__.foreign_key_constraints
    return by_table(next(key.referred_table for key in keys if key.column_keys[-1] == name))


def by_table(table: Table) -> Mirror:
    """The mirror of a table.

    Raises:
        LookupError: the table is not served.
    """
    try:
        return _BY_TABLE[table]
    except KeyError:
        raise LookupError(f"No GraphQL type mirrors the table {table.name}.") from None


def mirror(
    model: type[Base],
    *,
    private: Collection[str] = (),
    order_by: Sequence[str] = (),
    default_order: Sequence[str] = ("created_at",),
    access: Scope = "read",
) -> Callable[[T], T]:
    """Declare the GraphQL type of a table. A `-` in `default_order` means descending."""

    def declare(cls: T) -> T:
        mirrored = Mirror(
            model=model,
            cls=cls,
            private=frozenset(private),
            order_by=tuple(order_by),
            default_order=tuple(
                OrderTerm(name.removeprefix("-"), name.startswith("-")) for name in default_order
            ),
            access=access,
        )
        MIRRORS[model] = _BY_KEY[mirrored.key] = _BY_TABLE[mirrored.table] = mirrored
        return cls

    return declare


def shown_columns(cls: type) -> Iterator[str]:
    """The names that the class body marks `auto`, those of its bases first."""
    for base in reversed(cls.__mro__):
        for name, annotation in inspect.get_annotations(base).items():
            if isinstance(annotation, StrawberryAuto) or annotation is strawberry.auto:
                yield name


def describe(model: type[Base], name: str) -> str | None:
    """The description of a column."""
    return column_fields(model)[name].description


def bare(annotation: Any) -> Any:
    """The annotation without `None`."""
    if get_origin(annotation) in (Union, type(int | None)):
        members = [member for member in get_args(annotation) if member is not type(None)]
        return members[0] if len(members) == 1 else annotation
    return annotation


def graphql_type(model: type[Base], name: str) -> Any:
    """The Python type that Strawberry turns into the column's GraphQL type, without null-ness."""
    column = model.__table__.columns[name]
    annotation = bare(column_fields(model)[name].annotation)
    if annotation is UUID:
        return strawberry.ID
    if get_origin(annotation) is list:
        item = get_args(annotation)[0]
        return list[enum_type(item)] if _is_enum(item) else list[str]  # type: ignore[misc]  # a class known at run time
    if _is_enum(annotation):
        return enum_type(annotation)
    if annotation is int:
        return BigInt if isinstance(column.type, BigInteger) else int
    if annotation in (str, bool, float, datetime):
        return annotation
    if isinstance(column.type, INET):
        return str
    return JSON


def enum_type(enum: type[E]) -> type[E]:
    """The enum, registered with Strawberry once; the members' descriptions come along."""
    if "__strawberry_definition__" not in enum.__dict__:
        strawberry.enum(enum, description=(enum.__doc__ or "").strip() or None)
        for value in enum.__strawberry_definition__.values:  # type: ignore[attr-defined]  # set by the line above
            value.description = getattr(enum(value.value), "description", None)
    return enum


def finish_columns(mirrored: Mirror) -> None:
    """Turn `auto` into annotations with the column's type, null-ness and description."""
    annotations: dict[str, Any] = {}
    table = mirrored.table
    for name in shown_columns(mirrored.cls):
        annotation = graphql_type(mirrored.model, name)
        annotations[name] = annotation | None if table.columns[name].nullable else annotation
        field_ = strawberry.field(description=describe(mirrored.model, name))
        setattr(mirrored.cls, name, field_)
    mirrored.columns = ("id", *annotations)
    mirrored.needed = frozenset(
        column
        for field in vars(mirrored.cls).values()
        if isinstance(field, DerivedField)
        for column in field.columns
    )
    own = inspect.get_annotations(mirrored.cls)
    mirrored.cls.__annotations__ = {**own, **annotations}


def forgotten_columns(mirrored: Mirror) -> set[str]:
    """Columns that are neither shown, nor the key of a relation, nor private: must be empty."""
    covered = {relation.foreign_key for relation in mirrored.relations.values()}
    return (
        set(mirrored.table.columns.keys())
        - set(mirrored.columns)
        - mirrored.private
        - CONVENTION
        - covered
    )


def type_check(mirrored: Mirror) -> Callable[[object, object], bool]:
    """`is_type_of` for GraphQL: a row belongs to the type of its level."""
    return lambda value, _info: isinstance(value, Row) and value.level.mirror is mirrored


def _is_json(annotation: Any) -> bool:
    return annotation is dict or get_origin(annotation) is dict


def _is_enum(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, StrEnum)


def _is_key(column: Column[Any]) -> bool:
    return column.primary_key or bool(column.foreign_keys) or column.name == "version"
