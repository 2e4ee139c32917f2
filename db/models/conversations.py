"""Conversations: trees of messages."""

from datetime import datetime
from typing import ClassVar
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Field

from db.base import (
    MAX_NAME,
    Base,
    Choice,
    Label,
    Owned,
    Restorable,
    Timestamped,
    Versioned,
    deletions,
    gin,
    json_column,
    keyset,
    labels,
    owned_key,
    search_column,
    words,
)

MAX_CONTENT = 1_000_000


class MessageRole(Choice):
    """Who speaks."""

    SYSTEM = "system", "Whoever set the conversation up: instructions to the model."
    USER = "user", "The person, or a program in their name."
    ASSISTANT = "assistant", "The model."
    TOOL = "tool", "A tool that the model called: its result."


class MessageStatus(Choice):
    """How far a message has come."""

    PENDING = "pending", "Asked for; nothing of it is there yet."
    STREAMING = "streaming", "Being written; more of it will come."
    COMPLETE = "complete", "Whole."
    STOPPED = "stopped", "Ended early because somebody asked for it."
    FAILED = "failed", "Ended by an error of the model."
    INTERRUPTED = "interrupted", "Ended because the server that wrote it went away."


class PartType(Choice):
    """What a part of a message holds."""

    TEXT = "text", "Text."
    IMAGE = "image", "A picture, or where it is."
    FILE = "file", "A file, or where it is."
    TOOL_CALL = "tool_call", "The model asks for a tool to be run."
    TOOL_RESULT = "tool_result", "What a tool answered."
    REASONING = "reasoning", "What the model thought before it answered."


class ConversationFields(Base):
    """What a client may say about a conversation."""

    title: str | None = Field(
        default=None, min_length=1, max_length=255, description="The title; null until it has one."
    )
    metadata_: dict[str, object] = json_column(
        name="metadata", max_bytes=65_536, description="Data of the client, kept as it is."
    )
    tags: list[Label] = labels(description="Words to file it under.")


class Conversation(ConversationFields, Owned, Versioned, Restorable, table=True):
    """A tree of messages, of which one branch is active."""

    __tablename__ = "conversations"
    __indexes__: ClassVar = (
        keyset("conversations", "-last_message_at"),
        gin("conversations", "tags"),
        deletions("conversations"),
    )

    pinned_at: datetime | None = Field(default=None, description="When it was pinned.")
    archived_at: datetime | None = Field(default=None, description="When it was archived.")
    last_message_at: datetime = Field(
        sa_column_kwargs={"server_default": sa.text("now()")},
        description="When its newest message was added; when it was created, without messages.",
    )
    active_leaf_id: UUID | None = owned_key(
        "messages",
        ondelete="NO ACTION",
        within=("id", "conversation_id"),
        nullable=True,
        deferred=True,
        order="",
        description="The last message of the active branch.",
    )


class MessageFields(Base):
    """What a client may say in a message."""

    role: MessageRole = Field(description="Who speaks.")
    content: str = Field(default="", max_length=MAX_CONTENT, description="The text.")
    metadata_: dict[str, object] = json_column(
        name="metadata", max_bytes=65_536, description="Data of the client, kept as it is."
    )
    model: str | None = Field(
        default=None, min_length=1, max_length=MAX_NAME, description="The model that wrote it."
    )
    input_tokens: int | None = Field(
        default=None, ge=0, description="Tokens the model read to write it."
    )
    output_tokens: int | None = Field(default=None, ge=0, description="Tokens the model wrote.")


class Message(MessageFields, Owned, Versioned, Restorable, table=True):
    """One message. Editing or regenerating one adds a sibling; nothing is overwritten."""

    __tablename__ = "messages"
    __notify__ = "conversation_id"
    __indexes__: ClassVar = (
        sa.UniqueConstraint("owner_id", "conversation_id", "id"),
        sa.CheckConstraint("(parent_id IS NULL) = (depth = 0)", name="root"),
        words("messages"),
        deletions("messages"),
    )

    conversation_id: UUID = owned_key(
        "conversations",
        ondelete="CASCADE",
        order="depth",
        description="The conversation it is part of.",
    )
    parent_id: UUID | None = owned_key(
        "messages",
        ondelete="NO ACTION",
        within=("conversation_id", "conversation_id"),
        nullable=True,
        order="created_at",
        description="The message it follows; null for the first.",
    )
    depth: int = Field(ge=0, description="How many messages come before it on its branch.")
    status: MessageStatus = Field(
        default=MessageStatus.COMPLETE, description="How far it has come."
    )
    search: str | None = search_column("content")


class MessagePart(Owned, Timestamped, Restorable, table=True):
    """A piece of a message that is more than its text."""

    __tablename__ = "message_parts"
    __indexes__: ClassVar = (
        sa.UniqueConstraint("owner_id", "message_id", "position"),
        deletions("message_parts"),
    )

    message_id: UUID = owned_key(
        "messages", ondelete="CASCADE", order="position", description="The message it is part of."
    )
    position: int = Field(ge=0, description="Its place in the message, from 0.")
    type: PartType = Field(description="What it holds.")
    text: str | None = Field(default=None, max_length=MAX_CONTENT, description="Its text.")
    data: dict[str, object] | None = json_column(
        max_bytes=262_144, nullable=True, description="Its data, such as a tool's arguments."
    )
    tool_call_id: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_NAME,
        description="What ties a tool's result to its call.",
    )
