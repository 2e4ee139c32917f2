"""People and what they log in with."""

from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from typing import ClassVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import INET
from sqlmodel import Field

from db.base import (
    BOOKKEEPING,
    MAX_NAME,
    UNAUDITED,
    Base,
    Choice,
    Owned,
    Timestamped,
    Versioned,
    json_column,
    keyset,
    owned_key,
)


class ApiKeyScope(Choice):
    """What an API key may do."""

    READ = "read", "Read and watch conversations, documents, projects, workers and tasks."
    WRITE = "write", "Change them as well; who may write may read."
    ACCOUNT = (
        "account",
        "See and change the account's log-ins and keys, see its audit events, change the account.",
    )


class UserFields(Base):
    """What a person says about themselves."""

    username: str = Field(
        min_length=3,
        max_length=64,
        schema_extra={"pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]*$"},
        description="The name to log in with: letters, digits, dots, underscores and hyphens.",
    )
    email: str = Field(
        min_length=3,
        max_length=254,
        schema_extra={"pattern": r"^[^@\s]+@[^@\s]+$"},
        description="The address to log in with; unique whatever its case.",
    )
    display_name: str | None = Field(
        default=None, min_length=1, max_length=MAX_NAME, description="The name to show to people."
    )
    settings: dict[str, object] = json_column(
        max_bytes=65_536, description="Preferences of the front end, kept as they are."
    )


class User(UserFields, Versioned, table=True):
    """A person with an account. Everything else belongs to one."""

    __tablename__ = "users"
    __indexes__: ClassVar = (
        sa.Index("uq_users_email", sa.text("lower(email)"), unique=True),
        sa.Index("uq_users_username", sa.text("lower(username)"), unique=True),
    )

    id: UUID = Field(
        primary_key=True,
        sa_column_kwargs={"server_default": sa.text("uuidv7()")},
        description="Unique, and ordered by the time of creation.",
    )
    password_hash: str = Field(
        max_length=255, sa_column_kwargs=UNAUDITED, description="The argon2id hash of the password."
    )
    is_active: bool = Field(default=True, description="Whether the account may log in.")


class LoginSession(Owned, Timestamped, table=True):
    """One log-in on one device, until it expires or is revoked."""

    __tablename__ = "login_sessions"
    __indexes__: ClassVar = (
        sa.UniqueConstraint("owner_id", "token_hash"),
        keyset("login_sessions", "-created_at", live=False),
    )

    token_hash: bytes = Field(
        min_length=32,
        max_length=32,
        sa_column_kwargs=UNAUDITED,
        description="The SHA-256 of the token's secret.",
    )
    device_name: str | None = Field(
        default=None, min_length=1, max_length=MAX_NAME, description="What the device calls itself."
    )
    user_agent: str | None = Field(
        default=None, max_length=500, description="The program that logged in."
    )
    ip: IPv4Address | IPv6Address | None = Field(
        default=None, sa_type=INET, description="The network address it logged in from."
    )
    last_seen_at: datetime = Field(
        sa_column_kwargs={"server_default": sa.text("now()"), **BOOKKEEPING},
        description="When it was last used, to the minute.",
    )
    expires_at: datetime = Field(description="When it stops working by itself.")
    revoked_at: datetime | None = Field(default=None, description="When it was ended by hand.")


class ApiKeyFields(Base):
    """What a person chooses about an API key."""

    name: str = Field(min_length=1, max_length=MAX_NAME, description="What the key is for.")
    scopes: list[ApiKeyScope] = Field(
        min_length=1, max_length=3, description="What the key may do."
    )
    expires_at: datetime | None = Field(
        default=None, description="When it stops working by itself; null is never."
    )


class ApiKey(ApiKeyFields, Owned, Timestamped, table=True):
    """A key for an agent or a script, shown once when it is made."""

    __tablename__ = "api_keys"
    __indexes__: ClassVar = (
        sa.UniqueConstraint("owner_id", "key_hash"),
        keyset("api_keys", "-created_at", live=False),
    )

    prefix: str = Field(
        min_length=1, max_length=64, description="The first characters of the key, to know it by."
    )
    key_hash: bytes = Field(
        min_length=32,
        max_length=32,
        sa_column_kwargs=UNAUDITED,
        description="The SHA-256 of the key's secret.",
    )
    key_salt: bytes = Field(
        min_length=32,
        max_length=32,
        sa_column_kwargs=UNAUDITED,
        description="What the key's secret was made from, with the secret of who made it.",
    )
    last_used_at: datetime | None = Field(
        default=None,
        sa_column_kwargs=BOOKKEEPING,
        description="When it was last used, to the minute.",
    )
    revoked_at: datetime | None = Field(default=None, description="When it was ended by hand.")


class ExportStatus(Choice):
    """How far an export is."""

    PENDING = "pending", "Waiting for a process to write it."
    RUNNING = "running", "Being written."
    COMPLETE = "complete", "Ready to be downloaded, until it expires."
    FAILED = "failed", "Given up after several attempts."


class AccountExport(Owned, Timestamped, table=True):
    """Everything that its owner has, as they had it at one moment, to be downloaded."""

    __tablename__ = "account_exports"
    __left_out__ = "It is about the file itself, and would change while that is written."
    __indexes__: ClassVar = (
        keyset("account_exports", "-created_at", live=False),
        sa.Index(
            "uq_account_exports_unfinished",
            "owner_id",
            unique=True,
            postgresql_where=sa.text("status IN ('pending', 'running')"),
        ),
        # By which processes find work, whoever's it is.
        sa.Index(
            "ix_account_exports_due",
            "lease_expires_at",
            postgresql_where=sa.text("status IN ('pending', 'running')"),
        ),
    )

    status: ExportStatus = Field(default=ExportStatus.PENDING, description="How far it is.")
    attempts: int = Field(
        default=0, ge=0, description="How often it was begun; each time anew, of another moment."
    )
    rows: int = Field(
        default=0,
        ge=0,
        sa_type=sa.BigInteger,
        sa_column_kwargs=BOOKKEEPING,
        description="How many rows it holds, so far.",
    )
    bytes: int = Field(
        default=0,
        ge=0,
        sa_type=sa.BigInteger,
        sa_column_kwargs=BOOKKEEPING,
        description="The size of its file, so far.",
    )
    lease_expires_at: datetime = Field(
        sa_column_kwargs={"server_default": sa.text("now()"), **BOOKKEEPING},
        description="When another process may begin it anew, unless it is finished.",
    )
    taken_at: datetime | None = Field(
        default=None, description="The moment of which it is; null until it is complete."
    )
    expires_at: datetime | None = Field(
        default=None, description="When it will be removed; null until it is finished."
    )


class AccountExportPart(Owned, table=True):
    """A stretch of the file of an export."""

    __tablename__ = "account_export_parts"
    __audited__ = False
    __left_out__ = "It is the file itself."
    __indexes__: ClassVar = (sa.UniqueConstraint("owner_id", "export_id", "position"),)

    export_id: UUID = owned_key(
        "account_exports", ondelete="CASCADE", order="position", description="The export."
    )
    position: int = Field(ge=0, description="Its place in the file, from 0.")
    start: int = Field(ge=0, sa_type=sa.BigInteger, description="The first byte it holds, from 0.")
    size: int = Field(ge=1, description="How many bytes it holds.")
    content: bytes = Field(
        min_length=1, max_length=64_000_000, description="The bytes: a whole member of a gzip file."
    )
