"""The chunks of documents: cut when the content is written, kept where the text is the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from db.changes import Record, insert, remove, update_each, update_one
from db.models.conversations_generations import Citation
from db.models.knowledge import Chunk, Document, DocumentStatus
from db.scope import predicate, readable
from db.session import Session
from db.splitting import Span, split

DOCUMENTS = Document.__table__
CHUNKS = Chunk.__table__
CITATIONS = Citation.__table__

MAX_INLINE_CHARS = 200_000
"""What one mutation cuts itself, within half a second in any script. The rest is left pending, for
the librarian in the background."""

_READY = {"status": DocumentStatus.READY.value}


def digest(text: str) -> bytes:
    """The SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).digest()


async def cut_inline(texts: Sequence[str]) -> list[list[Span] | None]:
    """The pieces of each text; None for those that are too much for now."""
    left = MAX_INLINE_CHARS
    found: list[list[Span] | None] = []
    for text in texts:
        left -= len(text)
        found.append(await split(text) if left >= 0 else None)
    return found


async def store_chunks(
    session: Session, cut: Sequence[tuple[Record, Sequence[Span]]]
) -> list[Record]:
    """Store chunks of documents, in one statement for all. Raises IntegrityError."""
    rows = [
        {
            "document_id": document.id,
            "revision": document.revision,
            **_place(position, span),
            "content": document.content[span.start : span.end],
            "content_sha256": digest(document.content[span.start : span.end]),
        }
        for document, spans in cut
        for position, span in enumerate(spans)
    ]
    return await insert(session, CHUNKS, rows)


async def replace_chunks(session: Session, document: Record, spans: Sequence[Span]) -> None:
    """Give a document the chunks of its revision in the place of those of an earlier one.

    A chunk with the same text as before is the same chunk: it keeps its id and its embeddings.
    """
    free: dict[bytes, list[UUID]] = {}
    for row in await session.execute(_existing(), {"document": document.id}):
        free.setdefault(row.content_sha256, []).append(row.id)
    for ids in free.values():
        ids.reverse()
    kept: list[tuple[UUID, int | None, Mapping[str, object]]] = []
    new: list[dict[str, object]] = []
    for position, span in enumerate(spans):
        content = document.content[span.start : span.end]
        sha256 = digest(content)
        place = {"revision": document.revision, **_place(position, span)}
        same = free.get(sha256)
        if same:
            kept.append((same.pop(), None, place))
        else:
            text = {"content": content, "content_sha256": sha256}
            new.append({"document_id": document.id, **place, **text})
    await _remove(session, [id for ids in free.values() for id in ids])
    await update_each(session, CHUNKS, kept)
    await insert(session, CHUNKS, new)


async def drop_chunks(session: Session, document_id: UUID) -> None:
    """Remove all chunks of a document, with their embeddings."""
    rows = await session.execute(_existing(), {"document": document_id})
    await _remove(session, [row.id for row in rows])


async def cut_pending(session: Session, document_id: UUID) -> bool:
    """Cut one document that was left pending; False when somebody else did, or it is gone.

    The text is cut while no connection is held, and stored if it is still the same.
    """
    pending = DOCUMENTS.c.status == DocumentStatus.PENDING.value
    named = DOCUMENTS.c.id == sa.bindparam("document", type_=sa.Uuid())
    statement = readable(DOCUMENTS).where(named, pending)
    rows = await session.execute(statement, {"document": document_id})
    await session.end_snapshot()
    if not rows:
        return False
    spans = await split(rows[0].content)
    async with session.transaction():
        again = statement.where(DOCUMENTS.c.revision == rows[0].revision)
        locked = await session.execute(
            again.with_for_update(skip_locked=True), {"document": document_id}
        )
        if not locked:
            return False
        await replace_chunks(session, locked[0], spans)
        await update_one(session, DOCUMENTS, document_id, _READY)
    return True


def _place(position: int, span: Span) -> dict[str, object]:
    return {
        "position": position,
        "start": span.start,
        "end": span.end,
        "token_count": span.token_count,
    }


def _existing() -> sa.Select[*tuple[Any, ...]]:
    return (
        readable(CHUNKS, CHUNKS.c.id, CHUNKS.c.content_sha256)
        .where(CHUNKS.c.document_id == sa.bindparam("document", type_=sa.Uuid()))
        .order_by(CHUNKS.c.position)
    )


async def _remove(session: Session, ids: Sequence[UUID]) -> None:
    """Remove chunks with their embeddings; citations of them keep their quotes and places."""
    if not ids:
        return
    # Part of the document's own change, whose event there is.
    uncite = sa.update(CITATIONS).where(
        predicate(CITATIONS, deleted=None),
        CITATIONS.c.chunk_id == sa.any_(sa.bindparam("chunks", type_=ARRAY(sa.Uuid()))),
    )
    await session.execute(uncite.values(chunk_id=None), {"chunks": list(ids)})
    await remove(session, CHUNKS, ids)
