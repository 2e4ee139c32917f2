"""What happened, and what was already answered."""

from datetime import datetime
from typing import ClassVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.types import UserDefinedType
from sqlmodel import Field

from db.base import MAX_NAME, Choice, Owned, Timestamped, keyset


class Xid8(UserDefinedType[int]):
    """PostgreSQL's 64-bit transaction id."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """Its name in DDL."""
        return "XID8"


# SQLAlchemy does not know the type; reflection, and with it `alembic check`, would warn.
ischema_names["xid8"] = Xid8


class ActorKind(Choice):
    """Who made a change."""

    USER = "user", "The person, at one of their log-ins."
    KEY = "key", "A program, with an API key."
    WORKER = "worker", "A worker that did a task."


class AuditEvent(Owned, Timestamped, table=True):
    """One change of one row, written with the change itself and never altered."""

    __tablename__ = "audit_events"
    __audited__ = False
    __append_only__ = True
    __indexes__: ClassVar = (
        keyset("audit_events", "-created_at", live=False),
        sa.Index(
            "ix_audit_events_entity",
            "owner_id",
            "entity_type",
            "entity_id",
            sa.text("created_at DESC"),
            sa.text("id DESC"),
        ),
        sa.Index("ix_audit_events_feed", "owner_id", "xid", "id"),
    )

    xid: int = Field(
        sa_type=Xid8,
        sa_column_kwargs={"server_default": sa.text("engram_feed_position()")},
        description=(
            "Its position in the change feed, which shows it when all transactions up to this one"
            " have ended: its own, or a later one that had ended when it was written."
        ),
    )
    actor_kind: ActorKind = Field(description="Who made the change.")
    actor_id: UUID = Field(description="The user, API key or worker that made it.")
    action: str = Field(min_length=1, max_length=64, description="What was done.")
    entity_type: str = Field(min_length=1, max_length=64, description="The type of what changed.")
    entity_id: UUID = Field(description="The id of what changed.")
    before: dict[str, object] | None = Field(
        default=None,
        sa_type=JSONB(none_as_null=True),
        description="The changed values as they were.",
    )
    after: dict[str, object] | None = Field(
        default=None,
        sa_type=JSONB(none_as_null=True),
        description="The changed values as they became.",
    )
    request_id: str = Field(
        min_length=1, max_length=MAX_NAME, description="The request that made the change."
    )


class IdempotencyKey(Owned, Timestamped, table=True):
    """A write that was asked for under a key, and its answer."""

    __tablename__ = "idempotency_keys"
    __audited__ = False
    __left_out__ = (
        "It repeats for a day what a write stored elsewhere, for a client that asks again."
    )
    __indexes__: ClassVar = (
        sa.UniqueConstraint("owner_id", "operation", "key"),
        sa.Index("ix_idempotency_keys_by_expires_at", "owner_id", "expires_at"),
    )

    operation: str = Field(min_length=1, max_length=MAX_NAME, description="The mutation.")
    key: str = Field(min_length=1, max_length=MAX_NAME, description="The key the client chose.")
    request_sha256: bytes = Field(
        min_length=32, max_length=32, description="The SHA-256 of what was asked."
    )
    response: dict[str, object] | None = Field(
        default=None,
        sa_type=JSONB(none_as_null=True),
        description="The answer; null until the write is done.",
    )
    secrets_hash: str | None = Field(
        default=None,
        max_length=255,
        description="The argon2id hash of what else was asked, if that must not be hashed plainly.",
    )
    expires_at: datetime = Field(description="When the key may be used anew.")


class SweptEvents(Owned, table=True):
    """The last audit event of an owner that was swept; the change feed begins after it."""

    __tablename__ = "swept_events"
    __audited__ = False
    __left_out__ = "It is about events that are gone."
    __indexes__: ClassVar = (sa.UniqueConstraint("owner_id"),)

    xid: int = Field(sa_type=Xid8, description="Where in the feed it stood.")
    event_id: UUID = Field(description="Its id.")
