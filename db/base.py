"""What every table has in common: one declaration per column.

A column is one annotated pydantic field. Its type, null-ness, default, length, bounds and
enum become the column and its CHECK constraints here; the GraphQL mirror reads the same field.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin
from uuid import UUID

import annotated_types as bounds
import sqlalchemy as sa
from pydantic import AfterValidator, StringConstraints
from pydantic.fields import FieldInfo
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR
from sqlalchemy.orm import declared_attr, registry
from sqlalchemy.schema import SchemaItem
from sqlmodel import Field, SQLModel
from sqlmodel.main import FieldInfoMetadata

from db.json_bounds import MAX_DEPTH, check_json

NAMES = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}
"""Every constraint and index has a name that a migration can say."""

UNAUDITED: dict[str, object] = {"info": {"audited": False}}
"""`sa_column_kwargs` of a column whose values never enter the audit log."""

MAX_DESCRIPTION = 10_000
MAX_NAME = 200

Label = Annotated[str, StringConstraints(min_length=1, max_length=100)]
"""One tag or capability."""

OnDelete = Literal["CASCADE", "NO ACTION"]

T = TypeVar("T")


@dataclass(frozen=True)
class OwnedKey:
    """A foreign key to a row of the same owner."""

    table: str
    ondelete: OnDelete
    within: tuple[str, str] | None
    order: tuple[str, ...]
    deferred: bool


@dataclass(frozen=True)
class JsonBound:
    """The largest text of a jsonb value, in bytes."""

    max_bytes: int


class Base(SQLModel, registry=registry(metadata=sa.MetaData(naming_convention=NAMES))):
    """A class with `__tablename__` is a table; without it, a set of columns to share."""

    __table__: ClassVar[sa.Table]
    __indexes__: ClassVar[tuple[SchemaItem, ...]] = ()
    """Indexes and constraints beyond those that follow from the columns."""
    __notify__: ClassVar[str | None] = None
    """The column whose value names the scope that hears about changes."""
    __audited__: ClassVar[bool] = True
    """Whether its changes are written to the audit log."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: object) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if "__tablename__" in vars(cls):
            fields = sorted(cls.model_fields.items(), key=_column_rank)
            cls.__pydantic_fields__ = {name: _with_column(name, field) for name, field in fields}

    @declared_attr.directive
    def __table_args__(cls) -> tuple[object, ...]:  # noqa: N805
        derived = [*_owned_keys(cls), *_checks(cls)]
        entity = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
        facts = {"entity": entity, "notify": cls.__notify__, "audited": cls.__audited__}
        return (*derived, *cls.__indexes__, {"info": facts})


metadata = Base.metadata


class Owned(Base):
    """A row of one owner: the owner leads every key."""

    owner_id: UUID = Field(primary_key=True, description="The user who owns this row.")
    id: UUID = Field(
        primary_key=True,
        sa_column_kwargs={"server_default": sa.text("uuidv7()")},
        description="Unique, and ordered by the time of creation.",
    )


class Timestamped(Base):
    """A row that knows when it was made."""

    created_at: datetime = Field(
        sa_column_kwargs={"server_default": sa.text("now()")}, description="When it was created."
    )


class Versioned(Timestamped):
    """A row that counts its changes, so that a writer can say which state it has seen."""

    version: int = Field(default=1, description="Raised by every change.")
    updated_at: datetime = Field(
        sa_column_kwargs={"server_default": sa.text("now()")}, description="When it last changed."
    )


class Restorable(Base):
    """A row that a delete marks and a restore brings back."""

    deleted_at: datetime | None = Field(
        default=None, description="When it was deleted; null while it is alive."
    )
    deletion_id: UUID | None = Field(
        default=None, description="The delete that took it, shared by all rows it took."
    )


def owned_key(
    table: str,
    *,
    ondelete: OnDelete,
    description: str,
    order: str,
    nullable: bool = False,
    within: tuple[str, str] | None = None,
    deferred: bool = False,
) -> Any:
    """Declare a foreign key to a row of the same owner.

    `order` lists the columns the owning side pages by (`-name` for descending); the key's index
    ends in them and the id. `within` names a column here and its equal there: the row pointed to is
    then in the same conversation or project. `CASCADE` makes the key an ownership edge. `deferred`
    keys are checked at the end of the transaction.
    """
    default: dict[str, Any] = {"default": None} if nullable else {}
    field = Field(description=description, **default)
    field.metadata.append(OwnedKey(table, ondelete, within, tuple(order.split()), deferred))
    return field


def json_column(
    *, max_bytes: int, description: str, nullable: bool = False, name: str | None = None
) -> Any:
    """Declare a JSON object of at most `max_bytes` bytes as PostgreSQL prints it.

    `name` is the column's, where the attribute cannot have it.
    """
    default: dict[str, Any] = {"default": None} if nullable else {"default_factory": dict}
    field = Field(description=description, alias=name, **default)
    field.metadata += [JsonBound(max_bytes), AfterValidator(check_json(max_bytes))]
    return field


def labels(*, description: str) -> Any:
    """Declare a list of at most 50 short strings."""
    return Field(default_factory=list, max_length=50, description=description)


def search_column(source: str) -> Any:
    """Declare the full-text form of a column: its first 100,000 characters, as more could overflow."""
    # Spelled as PostgreSQL prints it back, so that `alembic check` finds no difference.
    expression = f"to_tsvector('simple'::regconfig, \"left\"(({source})::text, 100000))"
    return Field(
        default=None,
        sa_type=TSVECTOR,
        sa_column_args=[sa.Computed(expression, persisted=True)],
        sa_column_kwargs=UNAUDITED,
        description="The words of the text, for full-text search.",
    )


def keyset(table: str, order: str, *, live: bool = True) -> sa.Index:
    """The index a list of all of an owner's rows pages by: its order, then the id."""
    names = [name.lstrip("-") for name in order.split()]
    return sa.Index(
        f"ix_{table}_by_{'_'.join(names)}",
        "owner_id",
        *_ordered(order.split()),
        postgresql_where=sa.text("deleted_at IS NULL") if live else None,
    )


def gin(table: str, column: str) -> sa.Index:
    """An index for containment in jsonb, or for full-text search."""
    operators = {} if column == "search" else {column: "jsonb_path_ops"}
    return sa.Index(
        f"ix_{table}_{column}", column, postgresql_using="gin", postgresql_ops=operators
    )


def deletions(table: str) -> sa.Index:
    """The index by which a restore finds what one delete took."""
    return sa.Index(
        f"ix_{table}_deletion",
        "owner_id",
        "deletion_id",
        postgresql_where=sa.text("deletion_id IS NOT NULL"),
    )


def column_fields(model: type[Base]) -> dict[str, FieldInfo]:
    """The fields of a model by column name (`metadata` is a reserved attribute: its field is
    `metadata_` with the alias `metadata`)."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


# From a field to its column, its CHECKs and its keys.

_FIRST = ("owner_id", "id")
_LAST = ("version", "created_at", "updated_at", "deleted_at", "deletion_id", "search")
_TYPES: dict[type, Callable[[], sa.types.TypeEngine[Any]]] = {
    UUID: sa.Uuid,
    bool: sa.Boolean,
    int: sa.Integer,
    datetime: lambda: sa.DateTime(timezone=True),
    bytes: sa.LargeBinary,
    dict: JSONB,
    list: JSONB,
}


def _column_rank(item: tuple[str, FieldInfo]) -> int:
    name = item[0]
    return -1 if name in _FIRST else _LAST.index(name) + 1 if name in _LAST else 0


def _with_column(name: str, field: FieldInfo) -> FieldInfo:
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
    # A copy: a field that several tables share must not carry one table's column.
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
    default = field.default_factory() if callable(field.default_factory) else field.default
    match default:
        case bool() | int():
            return sa.text(str(default).lower())
        case str():
            return sa.text(f"'{default}'")
        case list() | dict():
            return sa.text(f"'{'[]' if isinstance(default, list) else '{}'}'::jsonb")
    return None


def _owned_keys(model: type[Base]) -> Iterator[SchemaItem]:
    table = model.__tablename__
    keys = [(name, _one(field, OwnedKey)) for name, field in model.model_fields.items()]
    rooted = issubclass(model, Owned)
    for column, key in keys:
        if key is None:
            continue
        if key.ondelete == "CASCADE" and not _inner(model.model_fields[column])[1]:
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
        yield sa.Index(f"ix_{table}_{column}", "owner_id", column, *_ordered(key.order))
    if rooted:
        yield sa.ForeignKeyConstraint(
            ["owner_id"], ["users.id"], name=f"fk_{table}_owner_id", ondelete="CASCADE"
        )


def _ordered(order: Iterable[str]) -> Iterator[str | sa.TextClause]:
    """The columns of an index in their directions; the id goes the way of the last one."""
    last = ""
    for last in order:
        yield sa.text(f"{last[1:]} DESC") if last.startswith("-") else last
    yield sa.text("id DESC") if last.startswith("-") else "id"


def _checks(model: type[Base]) -> Iterator[sa.CheckConstraint]:
    for attribute, field in model.model_fields.items():
        column = field.alias or attribute
        rules = [rule for rule in _rules(f'"{column}"', field) if rule]
        if rules:
            yield sa.CheckConstraint(" AND ".join(rules), name=column)


def _rules(column: str, field: FieldInfo) -> Iterator[str]:
    """What PostgreSQL must hold of a column, from the field's own constraints."""
    annotation, _ = _inner(field)
    kind = get_origin(annotation) or annotation
    if issubclass(kind, list):
        yield _list_rule(column, field, get_args(annotation)[0])
        return
    if issubclass(kind, StrEnum):
        yield f"{column} IN ({', '.join(repr(one.value) for one in kind)})"
    json = _one(field, JsonBound)
    if json:
        yield f"jsonb_typeof({column}) = 'object' AND octet_length({column}::text) <= {json.max_bytes}"
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
