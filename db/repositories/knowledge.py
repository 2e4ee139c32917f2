"""Writes of documents."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import IntegrityError

from db.changes import Record, insert, update_one
from db.constraints import violated
from db.locking import change_one
from db.models.knowledge import Chunk, Document, DocumentStatus
from db.refusals import Invalid, Overtaken, Violation
from db.scope import readable
from db.session import Session
from db.trees import delete_tree, restore_tree

DOCUMENTS = Document.__table__
CHUNKS = Chunk.__table__

TAKEN = "Another document has this id."

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Span:
    """A stretch of a text, from its first character to the one after its last."""

    start: int
    end: int
    token_count: int


async def create_documents(
    session: Session, documents: Sequence[Values], paths: Sequence[tuple[str, ...]]
) -> list[Record]:
    """Store documents, all or none, in one statement; those with an `id` keep it.

    They are pending, as they have no chunks yet. `paths` say where each one's id stands in the
    input. Raises Invalid with each id that is taken, and Overtaken when one was taken just now.
    """
    await _refuse_taken_ids(session, documents, paths)
    rows = [
        {**values, "content_sha256": _digest(values.get("content", ""))} for values in documents
    ]
    try:
        return await insert(session, DOCUMENTS, rows)
    except IntegrityError as error:
        if violated(error) != f"pk_{DOCUMENTS.name}":
            raise
        raise Overtaken from None


async def update_document(
    session: Session, id: UUID, values: Values, expected_version: int | None
) -> Record:
    """Change a document. Raises Missing and Stale.

    Other content makes it another revision, which waits for chunks of its own.
    """
    changed = dict(values)
    if "content" in changed:
        digest = _digest(changed["content"])
        same = DOCUMENTS.c.content_sha256 == digest
        changed |= {
            "content_sha256": digest,
            "revision": DOCUMENTS.c.revision + sa.case((same, 0), else_=1),
            "status": sa.case((same, DOCUMENTS.c.status), else_=DocumentStatus.PENDING.value),
        }
    return await change_one(session, DOCUMENTS, id, changed, expected_version=expected_version)


async def store_chunks(session: Session, document: Record, spans: Sequence[Span]) -> Record:
    """Store the chunks of a document's revision, which has none, and mark it ready."""
    rows = [
        {
            "document_id": document.id,
            "revision": document.revision,
            "position": position,
            "start": span.start,
            "end": span.end,
            "token_count": span.token_count,
            "content": document.content[span.start : span.end],
            "content_sha256": _digest(document.content[span.start : span.end]),
        }
        for position, span in enumerate(spans)
    ]
    await insert(session, CHUNKS, rows)
    status = {"status": DocumentStatus.READY.value}
    return await update_one(session, DOCUMENTS, document.id, status)


async def delete_document(session: Session, id: UUID, expected_version: int | None) -> Record:
    """Delete a document with its chunks. Raises Missing and Stale."""
    return await delete_tree(session, DOCUMENTS, id, expected_version)


async def restore_document(session: Session, id: UUID, expected_version: int | None) -> Record:
    """Bring back a document and the chunks that were deleted with it. Raises Missing and Stale."""
    return await restore_tree(session, DOCUMENTS, id, expected_version)


def _digest(content: str) -> bytes:
    return hashlib.sha256(content.encode()).digest()


async def _refuse_taken_ids(
    session: Session, documents: Sequence[Values], paths: Sequence[tuple[str, ...]]
) -> None:
    given = [
        (values["id"], path)
        for values, path in zip(documents, paths, strict=True)
        if "id" in values
    ]
    if not given:
        return
    ids = sa.bindparam("ids", type_=ARRAY(sa.Uuid()))
    statement = readable(DOCUMENTS, DOCUMENTS.c.id, deleted=None)
    rows = await session.execute(
        statement.where(DOCUMENTS.c.id == sa.any_(ids)), {"ids": [id for id, _ in given]}
    )
    taken = {row.id for row in rows}
    violations = []
    for id, path in given:
        if id in taken:
            violations.append(Violation(path, "unique", TAKEN))
        taken.add(id)
    if violations:
        raise Invalid(violations)
