"""Replies of a model: how they are written, and what they cite."""

from datetime import datetime
from typing import ClassVar
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Field

from db.base import (
    BOOKKEEPING,
    MAX_NAME,
    Base,
    Choice,
    Owned,
    Restorable,
    Timestamped,
    Versioned,
    deletions,
    json_column,
    owned_key,
)
from db.models.conversations import MAX_CONTENT, MessageStatus


class DeltaKind(Choice):
    """Where a piece of a reply belongs."""

    TEXT = "text", "The text of the message."
    REASONING = "reasoning", "What the model thought before it answered."


class ReplyFields(Base):
    """What a client may ask of a reply."""

    model: str = Field(min_length=1, max_length=MAX_NAME, description="The model that is asked.")
    instructions: str | None = Field(
        default=None,
        min_length=1,
        max_length=100_000,
        description="What the model is told before the messages of the branch, for this reply.",
    )
    temperature: float | None = Field(
        default=None,
        ge=0.0,
        le=2.0,
        description="How freely the model chooses words; null leaves it to the provider.",
    )
    max_output_tokens: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="The most tokens the model may write; null leaves it to the provider.",
    )
    tools: dict[str, object] = json_column(
        max_bytes=131_072,
        description=(
            "The tools the model may call: by name, each an object with a `description` and, as"
            " JSON Schema, `parameters`."
        ),
    )


class Generation(ReplyFields, Owned, Versioned, Restorable, table=True):
    """One run of a model that writes one message.

    Whoever runs it holds a lease and an epoch; a write with an older epoch is refused.
    """

    __tablename__ = "generations"
    __notify__ = "id"
    __indexes__: ClassVar = (
        sa.UniqueConstraint("owner_id", "assistant_message_id"),
        # What may have been abandoned: not by time, as heartbeats would rewrite the index.
        sa.Index(
            "ix_generations_running",
            "owner_id",
            "id",
            postgresql_where=sa.text("status IN ('pending', 'streaming')"),
        ),
        deletions("generations"),
    )

    conversation_id: UUID = owned_key(
        "conversations",
        ondelete="CASCADE",
        order="-created_at",
        description="The conversation it is part of.",
    )
    user_message_id: UUID = owned_key(
        "messages",
        ondelete="CASCADE",
        within=("conversation_id", "conversation_id"),
        order="created_at",
        description="The message that it answers.",
    )
    assistant_message_id: UUID = owned_key(
        "messages",
        ondelete="CASCADE",
        within=("conversation_id", "conversation_id"),
        order="created_at",
        description="The message that it writes.",
    )
    status: MessageStatus = Field(
        default=MessageStatus.PENDING, description="How far it has come, as its message."
    )
    finish_reason: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Why the model ended, in the provider's word: `stop`, `length`, `tool_calls`.",
    )
    input_tokens: int | None = Field(default=None, ge=0, description="Tokens the model read.")
    output_tokens: int | None = Field(default=None, ge=0, description="Tokens the model wrote.")
    last_seq: int = Field(
        default=0,
        ge=0,
        description="The number of the last delta it was streamed in, once it has ended.",
    )
    context: dict[str, object] | None = json_column(
        max_bytes=262_144,
        nullable=True,
        description="What the model was sent: each message and passage with its SHA-256.",
    )
    error: dict[str, object] | None = json_column(
        max_bytes=8_192,
        nullable=True,
        description="Why it failed or was interrupted: a `code` and a `message`.",
    )
    first_delta_at: datetime | None = Field(
        default=None, description="When the first of it was stored."
    )
    finished_at: datetime | None = Field(default=None, description="When it ended.")
    stop_requested_at: datetime | None = Field(
        default=None, description="When somebody asked for it to be stopped."
    )
    runner_id: UUID | None = Field(
        default=None, sa_column_kwargs=BOOKKEEPING, description="The process that runs it."
    )
    epoch: int = Field(
        default=1,
        ge=1,
        sa_column_kwargs=BOOKKEEPING,
        description="Raised with every new runner; a write with an older one is refused.",
    )
    lease_expires_at: datetime | None = Field(
        default=None,
        sa_column_kwargs=BOOKKEEPING,
        description="When its runner is taken for dead.",
    )


class GenerationDelta(Base, table=True):
    """A piece of a reply that is still being written; gone when the message is whole."""

    __tablename__ = "generation_deltas"
    __left_out__ = "It is a piece of a reply under way; the message holds it once that is whole."
    __audited__ = False  # hundreds of rows for one message, whose own event says the same

    owner_id: UUID = Field(primary_key=True, description="The user who owns this row.")
    generation_id: UUID = owned_key(
        "generations",
        ondelete="CASCADE",
        order=None,
        primary_key=True,
        description="The generation it is part of.",
    )
    seq: int = Field(primary_key=True, ge=1, description="Its place in the reply, from 1.")
    kind: DeltaKind = Field(default=DeltaKind.TEXT, description="Where it belongs.")
    text: str = Field(min_length=1, max_length=MAX_CONTENT, description="What was written.")


class Citation(Owned, Timestamped, Restorable, table=True):
    """A passage that was put before the model, as it was then."""

    __tablename__ = "citations"
    __indexes__: ClassVar = (
        sa.UniqueConstraint("owner_id", "message_id", "position"),
        sa.CheckConstraint('"end" >= start', name="span"),
        deletions("citations"),
    )

    message_id: UUID = owned_key(
        "messages", ondelete="CASCADE", order="position", description="The message that cites it."
    )
    document_id: UUID | None = owned_key(
        "documents",
        ondelete="NO ACTION",
        nullable=True,
        order="-created_at",
        description="The document it is from; null once that is gone.",
    )
    chunk_id: UUID | None = owned_key(
        "chunks",
        ondelete="NO ACTION",
        nullable=True,
        order="-created_at",
        description="The chunk it is from; null once the document was cut anew.",
    )
    position: int = Field(ge=0, description="Its number among the message's citations, from 0.")
    quote: str = Field(min_length=1, max_length=100_000, description="The passage.")
    start: int = Field(ge=0, description="The first character of it in the document, from 0.")
    end: int = Field(ge=0, description="The character after its last.")
    score: float = Field(description="How well it matched what was asked.")
