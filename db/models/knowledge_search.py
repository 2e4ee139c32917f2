"""What documents and messages are found by: embeddings, and how far they have come."""

from datetime import datetime
from typing import ClassVar
from uuid import UUID

import sqlalchemy as sa
from pgvector.sqlalchemy import HALFVEC
from sqlmodel import Field

from db.base import MAX_NAME, Base, Choice, Owned, Timestamped, owned_key

MAX_DIMENSIONS = 4_000
"""The most that an HNSW index of half-precision vectors takes."""


class EmbeddingModelStatus(Choice):
    """What an embedding model is used for."""

    BUILDING = "building", "Texts are being embedded by it; searches use another one."
    ACTIVE = "active", "Searches use it, unless their owner chose another one."
    RETIRED = "retired", "Nothing is embedded by it any more."


class EmbeddingStatus(Choice):
    """How far the embedding of a text has come."""

    PENDING = "pending", "Under way, or waiting for its turn or for the provider."
    READY = "ready", "All of it is embedded."
    FAILED = "failed", "The provider refuses some of it; `error` says why."


class EmbeddingModel(Timestamped, table=True):
    """A model that embeds texts. Two can live side by side while one replaces the other."""

    __tablename__ = "embedding_models"
    __audited__ = False
    __shared__ = True
    __indexes__: ClassVar = (
        sa.UniqueConstraint("id", "dimensions"),
        sa.Index(
            "uq_embedding_models_active",
            "status",
            unique=True,
            postgresql_where=sa.text("status = 'active'"),
        ),
    )

    id: str = Field(
        primary_key=True, min_length=1, max_length=MAX_NAME, description="The provider's name."
    )
    dimensions: int = Field(
        ge=1, le=MAX_DIMENSIONS, description="How many numbers an embedding has."
    )
    status: EmbeddingModelStatus = Field(
        default=EmbeddingModelStatus.BUILDING, description="What it is used for."
    )


class EmbeddingChoice(Owned, Timestamped, table=True):
    """The embedding model that an owner's searches use in the place of the active one."""

    __tablename__ = "embedding_choices"
    __left_out__ = "It names a model of this server, which another one need not have."
    __indexes__: ClassVar = (
        sa.UniqueConstraint("owner_id"),
        sa.ForeignKeyConstraint(
            ["model_id"],
            ["embedding_models.id"],
            name="fk_embedding_choices_model_id",
            ondelete="CASCADE",
        ),
    )

    model_id: str = Field(max_length=MAX_NAME, description="The model.")


class EmbeddingJob(Owned, Timestamped, table=True):
    """How far the embedding of a document or of a message by one model has come."""

    __tablename__ = "embedding_jobs"
    __left_out__ = "It is about work of this server."
    __audited__ = False  # bookkeeping of what follows from documents and messages
    __indexes__: ClassVar = (
        sa.UniqueConstraint("owner_id", "model_id", "document_id"),
        sa.UniqueConstraint("owner_id", "model_id", "message_id"),
        sa.CheckConstraint("num_nonnulls(document_id, message_id) = 1", name="one_text"),
        sa.ForeignKeyConstraint(
            ["model_id"],
            ["embedding_models.id"],
            name="fk_embedding_jobs_model_id",
            ondelete="CASCADE",
        ),
        # How embedders go round: the next owner with something to do.
        sa.Index(
            "ix_embedding_jobs_pending",
            "model_id",
            "owner_id",
            "run_after",
            postgresql_where=sa.text("status = 'pending'"),
        ),
    )

    model_id: str = Field(max_length=MAX_NAME, description="The model that embeds.")
    document_id: UUID | None = owned_key(
        "documents",
        ondelete="CASCADE",
        nullable=True,
        order="created_at",
        description="The document whose chunks are embedded.",
    )
    message_id: UUID | None = owned_key(
        "messages",
        ondelete="CASCADE",
        nullable=True,
        order="created_at",
        description="The message that is embedded; gone once it is.",
    )
    status: EmbeddingStatus = Field(
        default=EmbeddingStatus.PENDING, description="How far it has come."
    )
    chunk_count: int = Field(
        default=0, ge=0, description="How many chunks there were when it was last looked at."
    )
    embedded_count: int = Field(default=0, ge=0, description="How many of them are embedded.")
    attempts: int = Field(default=0, ge=0, description="How often the provider failed at it.")
    run_after: datetime = Field(
        sa_column_kwargs={"server_default": sa.text("now()")},
        description="Not to be tried before.",
    )
    claimed_until: datetime | None = Field(
        default=None, description="When whoever is at it is taken for dead."
    )
    epoch: int = Field(
        default=0, ge=0, description="Raised by every claim and every change of the text."
    )
    error: str | None = Field(
        default=None, max_length=1_000, description="What the provider last said against it."
    )
    updated_at: datetime = Field(
        sa_column_kwargs={"server_default": sa.text("now()")}, description="When it last changed."
    )


def _model_key(table: str) -> sa.ForeignKeyConstraint:
    """An embedding has exactly the dimensions of its model: never padded, never cut."""
    return sa.ForeignKeyConstraint(
        ["model_id", "dimensions"],
        ["embedding_models.id", "embedding_models.dimensions"],
        name=f"fk_{table}_model_id",
        ondelete="CASCADE",
    )


class EmbeddingFields(Base):
    """What every embedding has."""

    dimensions: int = Field(ge=1, description="How many numbers it has: those of its model.")
    embedding: list[float] = Field(
        sa_type=HALFVEC, description="Where the text stands, as the model gave it."
    )
    created_at: datetime = Field(
        sa_column_kwargs={"server_default": sa.text("now()")}, description="When it was stored."
    )


class Embedding(EmbeddingFields, table=True):
    """Where a chunk stands in the space of a model."""

    __tablename__ = "embeddings"
    __left_out__ = "It is computed from the chunk, and would be computed anew."
    __audited__ = False  # follows from the chunk
    __indexes__: ClassVar = (
        sa.CheckConstraint("vector_dims(embedding) = dimensions", name="embedding"),
        sa.Index("ix_embeddings_chunk_id", "owner_id", "chunk_id"),
        _model_key("embeddings"),
    )

    owner_id: UUID = Field(primary_key=True, description="The user who owns this row.")
    model_id: str = Field(primary_key=True, max_length=MAX_NAME, description="The model.")
    chunk_id: UUID = owned_key(
        "chunks", ondelete="CASCADE", order=None, primary_key=True, description="The chunk."
    )


class MessageEmbedding(EmbeddingFields, table=True):
    """Where a stretch of a message stands in the space of a model."""

    __tablename__ = "message_embeddings"
    __left_out__ = "It is computed from the message, and would be computed anew."
    __audited__ = False  # follows from the message
    __indexes__: ClassVar = (
        sa.CheckConstraint("vector_dims(embedding) = dimensions", name="embedding"),
        sa.CheckConstraint('"end" >= start', name="span"),
        sa.Index("ix_message_embeddings_message_id", "owner_id", "message_id"),
        sa.Index("ix_message_embeddings_content", "owner_id", "content_sha256"),
        _model_key("message_embeddings"),
    )

    owner_id: UUID = Field(primary_key=True, description="The user who owns this row.")
    model_id: str = Field(primary_key=True, max_length=MAX_NAME, description="The model.")
    message_id: UUID = owned_key(
        "messages", ondelete="CASCADE", order=None, primary_key=True, description="The message."
    )
    position: int = Field(primary_key=True, ge=0, description="Its place in the message, from 0.")
    start: int = Field(ge=0, description="The first character it holds, from 0.")
    end: int = Field(ge=0, description="The character after its last.")
    content_sha256: bytes = Field(
        min_length=32, max_length=32, description="The SHA-256 of the stretch in UTF-8."
    )
