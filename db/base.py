"""What every table has in common: one declaration per column.

A column is one annotated pydantic field. Its type, null-ness, default, length, bounds and
enum become the column and its CHECK constraints here; the GraphQL mirror reads the same field.
"""

import re
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Self
from uuid import UUID

import sqlalchemy as sa
from pydantic import AfterValidator, StringConstraints
from pydantic.fields import FieldInfo
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import declared_attr, registry
from sqlalchemy.schema import SchemaItem
from sqlmodel import Field, SQLModel

from db.derivation import (
    JsonBound,
    OnDelete,
    OwnedKey,
    checks,
    column_rank,
    ordered,
    owned_keys,
    with_column,
)
from db.json_bounds import check_json

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

BOOKKEEPING: dict[str, object] = {"info": {"audited": False, "bookkeeping": True}}
"""The same of a column that is written all the time: by itself no event and no new version."""

MAX_DESCRIPTION = 10_000
MAX_NAME = 200

Label = Annotated[str, StringConstraints(min_length=1, max_length=100)]
"""One tag or capability."""


class Choice(StrEnum):
    """One of a few texts, each with a description: `PENDING = "pending", "Not started yet."`."""

    description: str

    def __new__(cls, value: str, description: str) -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.description = description
        return member


class Base(SQLModel, registry=registry(metadata=sa.MetaData(naming_convention=NAMES))):
    """A class with `__tablename__` is a table; without it, a set of columns to share."""

    __table__: ClassVar[sa.Table]
    __indexes__: ClassVar[tuple[SchemaItem, ...]] = ()
    """Indexes and constraints beyond those that follow from the columns."""
    __notify__: ClassVar[str | None] = None
    """The column whose value names the scope that hears about changes."""
    __audited__: ClassVar[bool] = True
    """Whether its changes are written to the audit log."""
    __append_only__: ClassVar[bool] = False
    """Whether the application may neither change nor remove its rows."""
    __shared__: ClassVar[bool] = False
    """Whether nobody owns its rows: everybody reads them, the application writes none."""
    __left_out__: ClassVar[str | None] = None
    """Why an export of an account does not hold its rows; None where it does."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: object) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if "__tablename__" in vars(cls):
            fields = sorted(cls.model_fields.items(), key=column_rank)
            cls.__pydantic_fields__ = {name: with_column(name, field) for name, field in fields}

    @declared_attr.directive
    @classmethod
    def __table_args__(cls) -> tuple[object, ...]:
        fields = cls.model_fields
        derived = [*owned_keys(str(cls.__tablename__), fields), *checks(fields)]
        entity = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
        facts = {
            "entity": entity,
            "notify": cls.__notify__,
            "audited": cls.__audited__,
            "append_only": cls.__append_only__,
            "shared": cls.__shared__,
            "left_out": cls.__left_out__,
        }
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
    order: str | None,
    nullable: bool = False,
    within: tuple[str, str] | None = None,
    deferred: bool = False,
    primary_key: bool = False,
) -> Any:
    """Declare a foreign key to a row of the same owner.

    `order` lists the columns the owning side pages by (`-name` for descending); the key's index
    ends in them and the id; None is no index of its own. `within` names a column here and its equal
    there: the row pointed to is then in the same conversation or project. `CASCADE` makes the key
    an ownership edge. `deferred` keys are checked at the end of the transaction.
    """
    default: dict[str, Any] = {"default": None} if nullable else {}
    field = Field(description=description, primary_key=primary_key, **default)
    columns = None if order is None else tuple(order.split())
    field.metadata.append(OwnedKey(table, ondelete, within, columns, deferred))
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
    """Declare the full-text form of a column's first 100,000 characters; more could overflow."""
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
    """The index a list of all of an owner's rows pages by: its order, then the id.

    A `?` after a name marks a moment that can be null.
    """
    names = [name.strip("-?") for name in order.split()]
    only: dict[str, Any] = {"postgresql_where": sa.text("deleted_at IS NULL")} if live else {}
    name = f"ix_{table}_by_{'_'.join(names)}"
    return sa.Index(name, "owner_id", *ordered(order.split()), **only)


def gin(table: str, column: str) -> sa.Index:
    """An index for containment in jsonb."""
    return sa.Index(
        f"ix_{table}_{column}",
        column,
        postgresql_using="gin",
        postgresql_ops={column: "jsonb_path_ops"},
    )


def words(table: str) -> sa.Index:
    """An index for full-text search: the owner is one more word of each text.

    So a search reads the postings of its owner alone, however many others use the same words.
    """
    # Spelled as PostgreSQL prints it back, so that `alembic check` finds no difference.
    expression = sa.text("(search || array_to_tsvector(ARRAY[owner_id::text]))")
    return sa.Index(
        f"ix_{table}_words",
        expression,
        postgresql_using="gin",
        postgresql_where=sa.text("deleted_at IS NULL"),
    )


def deletions(table: str) -> sa.Index:
    """The index by which a restore finds what one delete took, and a list what is deleted."""
    return sa.Index(
        f"ix_{table}_deletion",
        "owner_id",
        "deletion_id",
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )


def is_shareable(column: sa.Column[Any]) -> bool:
    """Whether its value may leave the database: secrets and search vectors never do."""
    return bool(column.info.get("audited", True) or column.info.get("bookkeeping"))


def column_fields(model: type[Base]) -> dict[str, FieldInfo]:
    """The fields of a model by column name (`metadata` is a reserved attribute: its field is
    `metadata_` with the alias `metadata`)."""
    return {field.alias or name: field for name, field in model.model_fields.items()}
