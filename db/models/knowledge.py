"""Documents and the chunks they are searched by."""

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
    keyset,
    owned_key,
    search_column,
    words,
)


class DocumentKind(Choice):
    """Where a document comes from."""

    FILE = "file", "A file that somebody added."
    NOTE = "note", "Written here."
    POST = "post", "Written here to be published, as in a blog."
    WEB = "web", "A page of the web."


class DocumentStatus(Choice):
    """Whether a document's chunks are those of its revision."""

    PENDING = "pending", "Not cut into chunks yet, or changed since."
    READY = "ready", "Its chunks are those of its revision."
    FAILED = "failed", "It could not be cut into chunks."


class DocumentFields(Base):
    """What a client may say about a document."""

    title: str = Field(min_length=1, max_length=500, description="The title.")
    kind: DocumentKind = Field(default=DocumentKind.NOTE, description="Where it comes from.")
    content: str = Field(default="", max_length=5_000_000, description="The whole text.")
    source_uri: str | None = Field(
        default=None, min_length=1, max_length=2048, description="Where the original is."
    )
    mime_type: str | None = Field(
        default=None, min_length=1, max_length=255, description="The media type of the original."
    )
    author: str | None = Field(
        default=None, min_length=1, max_length=MAX_NAME, description="Who wrote it."
    )
    metadata_: dict[str, object] = json_column(
        name="metadata", max_bytes=65_536, description="Data of the client, kept as it is."
    )


class Document(DocumentFields, Owned, Versioned, Restorable, table=True):
    """A text to keep and to search: a file, a note, a post or a web page."""

    __tablename__ = "documents"
    __indexes__: ClassVar = (
        keyset("documents", "-updated_at"),
        words("documents"),
        deletions("documents"),
        # What is still to be cut into chunks, of all owners.
        sa.Index(
            "ix_documents_pending",
            "updated_at",
            postgresql_where=sa.text("status = 'pending' AND deleted_at IS NULL"),
        ),
    )

    content_sha256: bytes = Field(
        min_length=32, max_length=32, description="The SHA-256 of the content in UTF-8."
    )
    status: DocumentStatus = Field(
        default=DocumentStatus.PENDING,
        sa_column_kwargs=BOOKKEEPING,
        description="Whether its chunks are up to date.",
    )
    revision: int = Field(default=1, ge=1, description="Raised when the content changes.")
    search: str | None = search_column("title")


class Chunk(Owned, Timestamped, Restorable, table=True):
    """A stretch of one revision of a document, short enough to embed."""

    __tablename__ = "chunks"
    __audited__ = False  # follows from the document, whose event says that it changed
    __indexes__: ClassVar = (
        sa.UniqueConstraint("owner_id", "document_id", "revision", "position"),
        sa.CheckConstraint('"end" >= start', name="span"),
        words("chunks"),
        sa.Index("ix_chunks_content_sha256", "owner_id", "content_sha256"),
        deletions("chunks"),
    )

    document_id: UUID = owned_key(
        "documents", ondelete="CASCADE", order="position", description="The document it is from."
    )
    revision: int = Field(ge=1, description="The document's revision it was cut from.")
    position: int = Field(ge=0, description="Its place in the document, from 0.")
    start: int = Field(ge=0, description="The first character it holds, from 0.")
    end: int = Field(ge=0, description="The character after its last.")
    token_count: int = Field(ge=0, description="How many tokens it has.")
    content: str = Field(min_length=1, max_length=100_000, description="The text.")
    content_sha256: bytes = Field(
        min_length=32, max_length=32, description="The SHA-256 of the content in UTF-8."
    )
    search: str | None = search_column("content")
