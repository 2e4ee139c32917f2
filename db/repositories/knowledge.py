"""Writes of documents."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import IntegrityError

from db.changes import Record, insert, update_one
from db.constraints import violated
from db.locking import change_one, lock_one
from db.models.knowledge import Document, DocumentStatus
from db.refusals import Invalid, Overtaken, Violation
from db.repositories.knowledge_chunks import (
    cut_inline,
    digest,
    drop_chunks,
    replace_chunks,
    store_chunks,
)
from db.scope import readable
from db.session import Session
from db.trees import delete_tree, restore_tree

DOCUMENTS = Document.__table__

TAKEN = "Another document has this id."

Values = Mapping[str, Any]


async def create_documents(
    session: Session, documents: Sequence[Values], paths: Sequence[tuple[str, ...]]
) -> list[Record]:
    """Store documents, all or none, in one statement; those with an `id` keep it.

    They are cut into chunks as far as that is quick, the others are pending. `paths` say where each
    one's id stands in the input. Raises Invalid with each id that is taken, and Overtaken when one
    was taken just now.
    """
    await _refuse_taken_ids(session, documents, paths)
    texts = [values.get("content", "") for values in documents]
    cut = await cut_inline(texts)
    rows = [
        {
            **values,
            "content_sha256": digest(text),
            "status": (DocumentStatus.PENDING if spans is None else DocumentStatus.READY).value,
        }
        for values, text, spans in zip(documents, texts, cut, strict=True)
    ]
    try:
        stored = await insert(session, DOCUMENTS, rows)
    except IntegrityError as error:
        if violated(error) != f"pk_{DOCUMENTS.name}":
            raise
        raise Overtaken from None
    await store_chunks(
        session, [(row, spans or ()) for row, spans in zip(stored, cut, strict=True)]
    )
    return stored


async def update_document(
    session: Session, id: UUID, values: Values, expected_version: int | None
) -> Record:
    """Change a document. Raises Missing and Stale.

    Other content makes it another revision with chunks of its own.
    """
    changed = dict(values)
    spans = None
    if "content" in changed:
        sha256 = digest(changed["content"])
        if await _is_other(session, id, sha256):
            (spans,) = await cut_inline([changed["content"]])
            status = DocumentStatus.PENDING if spans is None else DocumentStatus.READY
            changed |= {
                "content_sha256": sha256,
                "revision": DOCUMENTS.c.revision + 1,
                "status": status.value,
            }
    row = await change_one(session, DOCUMENTS, id, changed, expected_version=expected_version)
    if spans is not None:
        await replace_chunks(session, row, spans)
    return row


async def reindex_document(session: Session, id: UUID, expected_version: int | None) -> Record:
    """Cut a document anew and have it embedded anew. Raises Missing and Stale."""
    document = await lock_one(session, DOCUMENTS, id, expected_version=expected_version)
    await drop_chunks(session, id)
    document = await update_one(session, DOCUMENTS, id, {"status": DocumentStatus.PENDING.value})
    (spans,) = await cut_inline([document.content])
    if spans is None:
        return document
    await store_chunks(session, [(document, spans)])
    return await update_one(session, DOCUMENTS, id, {"status": DocumentStatus.READY.value})


async def delete_document(session: Session, id: UUID, expected_version: int | None) -> Record:
    """Delete a document with its chunks. Raises Missing and Stale."""
    return await delete_tree(session, DOCUMENTS, id, expected_version)


async def restore_document(session: Session, id: UUID, expected_version: int | None) -> Record:
    """Bring back a document and the chunks that were deleted with it. Raises Missing and Stale."""
    return await restore_tree(session, DOCUMENTS, id, expected_version)


async def _is_other(session: Session, id: UUID, sha256: bytes) -> bool:
    """Whether a live document has other content than this; it is locked if so."""
    statement = readable(DOCUMENTS, DOCUMENTS.c.id).where(
        DOCUMENTS.c.id == sa.bindparam("document", type_=sa.Uuid()),
        DOCUMENTS.c.content_sha256 != sa.bindparam("sha256", type_=sa.LargeBinary()),
    )
    parameters = {"document": id, "sha256": sha256}
    return bool(await session.execute(statement.with_for_update(), parameters))


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
