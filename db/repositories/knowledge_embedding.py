"""The work of embedding: claimed for a while, read, written, and given back. Of one owner each.

What is claimed comes free when the claim runs out, so a process that dies loses nothing; whoever
was slower than the claim writes nothing, as its epoch is old.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from db.repositories.knowledge_chunks import digest
from db.session import Session
from db.splitting import split

NOBODY = UUID(int=0)
Vector = Sequence[float]


@dataclass(frozen=True)
class Model:
    """An embedding model that is not retired."""

    id: str
    dimensions: int
    active: bool


@dataclass(frozen=True)
class Job:
    """A document or a message whose embedding is claimed."""

    id: UUID
    document_id: UUID | None
    message_id: UUID | None
    epoch: int
    attempts: int


@dataclass(frozen=True)
class Claim:
    """Jobs of one owner, for some time."""

    owner_id: UUID
    jobs: tuple[Job, ...]


@dataclass(frozen=True)
class Piece:
    """A text that is to be embedded."""

    job: Job
    sha256: bytes
    text: str
    chunk_id: UUID | None = None
    position: int = 0
    """In a message, as are start and end."""
    start: int = 0
    end: int = 0


async def register_model(session: Session, model: str, dimensions: int) -> str:
    """Make a model known, and all there is wait for it; its status. Raises DBAPIError (22023)."""
    statement = sa.text("SELECT engram_register_embedding_model(:model, :dimensions)")
    async with session.transaction():
        parameters = {"model": model, "dimensions": dimensions}
        status: str = await session.scalar(statement, parameters)
    return status


async def models(session: Session) -> list[Model]:
    """The models that texts are embedded by, the active one first."""
    statement = sa.text(
        "SELECT id, dimensions, status = 'active' AS active FROM embedding_models"
        " WHERE status <> 'retired' ORDER BY status = 'active' DESC, created_at, id"
    )
    rows = await session.execute(statement)
    await session.end_snapshot()
    return [Model(*row) for row in rows]


async def claim(
    session: Session, model: Model, *, after: UUID, size: int, lease: timedelta
) -> Claim | None:
    """The work of the next owner who has some; None when there is nothing to do now."""
    statement = sa.text("SELECT * FROM engram_claim_embedding_jobs(:model, :after, :size, :lease)")
    parameters = {"model": model.id, "after": after, "size": size, "lease": lease}
    async with session.transaction():
        rows = await session.execute(statement, parameters)
    if not rows:
        return None
    jobs = (Job(row.id, row.document_id, row.message_id, row.epoch, row.attempts) for row in rows)
    return Claim(rows[0].owner_id, tuple(jobs))


_COPY = sa.text(
    """
    INSERT INTO embeddings (owner_id, model_id, chunk_id, dimensions, embedding)
    SELECT :owner_id, :model, c.id, same.dimensions, same.embedding
    FROM chunks AS c CROSS JOIN LATERAL (
        SELECT e.dimensions, e.embedding
        FROM chunks AS o JOIN embeddings AS e
            ON e.owner_id = :owner_id AND e.model_id = :model AND e.chunk_id = o.id
        WHERE o.owner_id = :owner_id AND o.content_sha256 = c.content_sha256 LIMIT 1
    ) AS same
    WHERE c.owner_id = :owner_id AND c.document_id = ANY (CAST(:documents AS uuid[]))
        AND NOT EXISTS (
            SELECT FROM embeddings AS e
            WHERE e.owner_id = :owner_id AND e.model_id = :model AND e.chunk_id = c.id
        )
    ON CONFLICT DO NOTHING
    """
)
_MISSING = sa.text(
    """
    SELECT c.id, c.document_id, c.content_sha256, c.content
    FROM chunks AS c
    WHERE c.owner_id = :owner_id AND c.document_id = ANY (CAST(:documents AS uuid[]))
        AND NOT (c.content_sha256 = ANY (CAST(:refused AS bytea[])))
        AND NOT EXISTS (
            SELECT FROM embeddings AS e
            WHERE e.owner_id = :owner_id AND e.model_id = :model AND e.chunk_id = c.id
        )
    ORDER BY c.document_id, c.position LIMIT :size
    """
)
_MESSAGES = sa.text(
    """
    SELECT m.id, m.content FROM messages AS m
    WHERE m.owner_id = :owner_id AND m.id = ANY (CAST(:messages AS uuid[]))
    """
)
_KNOWN = sa.text(
    """
    SELECT DISTINCT ON (e.content_sha256) e.content_sha256, CAST(e.embedding AS text) AS vector
    FROM message_embeddings AS e
    WHERE e.owner_id = :owner_id AND e.model_id = :model
        AND e.content_sha256 = ANY (CAST(:hashes AS bytea[]))
    """
)


async def missing_chunks(
    session: Session, model: Model, jobs: Sequence[Job], refused: Sequence[bytes], size: int
) -> list[Piece]:
    """Chunks of documents that are not embedded yet, some of them.

    Those whose text the owner has embedded before are so by this call.
    """
    documents = {job.document_id: job for job in jobs if job.document_id is not None}
    if not documents:
        return []
    named = {"model": model.id, "documents": list(documents)}
    async with session.transaction():
        await session.execute(_COPY, named)
        rows = await session.execute(_MISSING, {**named, "refused": list(refused), "size": size})
    return [
        Piece(documents[row.document_id], row.content_sha256, row.content, chunk_id=row.id)
        for row in rows
    ]


async def message_pieces(session: Session, jobs: Sequence[Job]) -> list[Piece]:
    """What messages consist of."""
    messages = {job.message_id: job for job in jobs if job.message_id is not None}
    if not messages:
        return []
    rows = await session.execute(_MESSAGES, {"messages": list(messages)})
    await session.end_snapshot()
    found = []
    for row in rows:
        for position, span in enumerate(await split(row.content)):
            text = row.content[span.start : span.end]
            found.append(
                Piece(
                    messages[row.id],
                    digest(text),
                    text,
                    position=position,
                    start=span.start,
                    end=span.end,
                )
            )
    return found


async def known_vectors(
    session: Session, model: Model, hashes: Sequence[bytes]
) -> dict[bytes, str]:
    """The embeddings of texts that are in messages already, as PostgreSQL writes them."""
    if not hashes:
        return {}
    rows = await session.execute(_KNOWN, {"model": model.id, "hashes": list(hashes)})
    await session.end_snapshot()
    return {row.content_sha256: row.vector for row in rows}


_STORE_CHUNKS = sa.text(
    """
    INSERT INTO embeddings (owner_id, model_id, chunk_id, dimensions, embedding)
    SELECT :owner_id, :model, c.id, :dimensions, CAST(given.vector AS halfvec)
    FROM unnest(CAST(:ids AS uuid[]), CAST(:vectors AS text[])) AS given(id, vector)
    JOIN (
        SELECT c.owner_id, c.id FROM chunks AS c
        WHERE c.owner_id = :owner_id AND c.id = ANY (CAST(:ids AS uuid[])) FOR KEY SHARE
    ) AS c ON c.id = given.id
    ON CONFLICT DO NOTHING
    """
)
_STORE_MESSAGES = sa.text(
    """
    INSERT INTO message_embeddings (owner_id, model_id, message_id, position, start, "end",
        content_sha256, dimensions, embedding)
    SELECT :owner_id, :model, m.id, given.position, given.start, given.stop, given.sha256,
        :dimensions, CAST(given.vector AS halfvec)
    FROM unnest(
        CAST(:ids AS uuid[]), CAST(:positions AS int[]), CAST(:starts AS int[]),
        CAST(:stops AS int[]), CAST(:hashes AS bytea[]), CAST(:vectors AS text[])
    ) AS given(id, position, start, stop, sha256, vector)
    JOIN (
        SELECT m.owner_id, m.id FROM messages AS m
        WHERE m.owner_id = :owner_id AND m.id = ANY (CAST(:ids AS uuid[])) FOR KEY SHARE
    ) AS m ON m.id = given.id
    ON CONFLICT (owner_id, model_id, message_id, position) DO UPDATE
    SET start = EXCLUDED.start, "end" = EXCLUDED."end",
        content_sha256 = EXCLUDED.content_sha256, embedding = EXCLUDED.embedding,
        created_at = EXCLUDED.created_at
    """
)
_RENEW = sa.text(
    """
    UPDATE embedding_jobs AS j SET claimed_until = clock_timestamp() + :lease
    FROM unnest(CAST(:jobs AS uuid[]), CAST(:epochs AS int[])) AS held(id, epoch)
    WHERE j.owner_id = :owner_id AND j.id = held.id AND j.epoch = held.epoch
        AND j.status = 'pending'
    RETURNING j.id
    """
)


async def store(
    session: Session,
    model: Model,
    embedded: Sequence[tuple[Piece, str]],
    jobs: Sequence[Job],
    lease: timedelta,
) -> set[UUID]:
    """Store embeddings, which are never of other texts than said, and hold the claim for longer.

    Returns which jobs are still held. What was deleted meanwhile is left out.
    """
    chunks = [(piece, vector) for piece, vector in embedded if piece.chunk_id is not None]
    parts = [(piece, vector) for piece, vector in embedded if piece.chunk_id is None]
    common = {"model": model.id, "dimensions": model.dimensions}
    async with session.transaction():
        if chunks:
            vectors = [vector for _, vector in chunks]
            ids = [piece.chunk_id for piece, _ in chunks]
            await session.execute(_STORE_CHUNKS, {**common, "ids": ids, "vectors": vectors})
        held = await session.execute(_RENEW, {**_held(jobs), "lease": lease})
        still = {row.id for row in held}
        # A message whose text changed meanwhile has another epoch: its pieces are old.
        parts = [(piece, vector) for piece, vector in parts if piece.job.id in still]
        if parts:
            columns: Mapping[str, list[Any]] = {
                "ids": [piece.job.message_id for piece, _ in parts],
                "positions": [piece.position for piece, _ in parts],
                "starts": [piece.start for piece, _ in parts],
                "stops": [piece.end for piece, _ in parts],
                "hashes": [piece.sha256 for piece, _ in parts],
                "vectors": [vector for _, vector in parts],
            }
            await session.execute(_STORE_MESSAGES, {**common, **columns})
    return still


_FINISH = sa.text(
    """
    UPDATE embedding_jobs AS j
    SET chunk_count = counted.chunks, embedded_count = counted.embedded, claimed_until = NULL,
        status = CASE WHEN counted.chunks = counted.embedded THEN 'ready'
            WHEN held.error IS NULL THEN 'pending' ELSE 'failed' END,
        error = held.error, updated_at = now()
    FROM unnest(CAST(:jobs AS uuid[]), CAST(:epochs AS int[]), CAST(:errors AS text[]))
            AS held(id, epoch, error)
        JOIN embedding_jobs AS k ON k.owner_id = :owner_id AND k.id = held.id
        CROSS JOIN LATERAL (
            SELECT count(*) AS chunks, count(e.chunk_id) AS embedded
            FROM chunks AS c LEFT JOIN embeddings AS e
                ON e.owner_id = :owner_id AND e.model_id = :model AND e.chunk_id = c.id
            WHERE c.owner_id = :owner_id AND c.document_id = k.document_id
        ) AS counted
    WHERE j.owner_id = :owner_id AND j.id = held.id AND j.epoch = held.epoch
        AND j.document_id IS NOT NULL
    """
)
_FAIL_MESSAGES = sa.text(
    """
    UPDATE embedding_jobs AS j
    SET status = 'failed', error = held.error, claimed_until = NULL, updated_at = now()
    FROM unnest(CAST(:jobs AS uuid[]), CAST(:epochs AS int[]), CAST(:errors AS text[]))
        AS held(id, epoch, error)
    WHERE j.owner_id = :owner_id AND j.id = held.id AND j.epoch = held.epoch
        AND j.message_id IS NOT NULL AND held.error IS NOT NULL
    """
)
_FORGET_MESSAGES = sa.text(
    """
    WITH done AS (
        DELETE FROM embedding_jobs AS j
        USING unnest(CAST(:jobs AS uuid[]), CAST(:epochs AS int[]), CAST(:errors AS text[]),
            CAST(:counts AS int[])) AS held(id, epoch, error, count)
        WHERE j.owner_id = :owner_id AND j.id = held.id AND j.epoch = held.epoch
            AND j.message_id IS NOT NULL AND held.error IS NULL
        RETURNING j.message_id, held.count
    )
    DELETE FROM message_embeddings AS e USING done
    WHERE e.owner_id = :owner_id AND e.model_id = :model AND e.message_id = done.message_id
        AND e.position >= done.count
    """
)


async def finish(
    session: Session,
    model: Model,
    jobs: Sequence[Job],
    errors: Mapping[UUID, str],
    counts: Mapping[UUID, int],
) -> None:
    """Mark what is embedded, and by job what the provider refused; `counts` are of messages."""
    held = {**_held(jobs), "errors": [errors.get(job.id) for job in jobs]}
    async with session.transaction():
        await session.execute(_FINISH, {**held, "model": model.id})
        if any(job.message_id is not None for job in jobs):
            await session.execute(_FAIL_MESSAGES, held)
            numbers = [counts.get(job.id, 0) for job in jobs]
            await session.execute(_FORGET_MESSAGES, {**held, "model": model.id, "counts": numbers})


_GIVE_BACK = sa.text(
    """
    UPDATE embedding_jobs AS j
    SET claimed_until = NULL, attempts = j.attempts + :failed, error = :error,
        run_after = now() + :pause, updated_at = now()
    FROM unnest(CAST(:jobs AS uuid[]), CAST(:epochs AS int[])) AS held(id, epoch)
    WHERE j.owner_id = :owner_id AND j.id = held.id AND j.epoch = held.epoch
        AND j.status = 'pending'
    """
)


async def give_back(
    session: Session, jobs: Sequence[Job], *, error: str | None, pause: timedelta
) -> None:
    """Leave the rest for later, as the provider failed or the process ends."""
    parameters = {"error": error, "pause": pause, "failed": 0 if error is None else 1}
    async with session.transaction():
        await session.execute(_GIVE_BACK, {**_held(jobs), **parameters})


def _held(jobs: Sequence[Job]) -> dict[str, Any]:
    return {"jobs": [job.id for job in jobs], "epochs": [job.epoch for job in jobs]}


async def uncut(session: Session, size: int) -> list[tuple[UUID, UUID]]:
    """Owner and id of documents that are not cut into chunks yet, the oldest first."""
    statement = sa.text("SELECT owner_id, id FROM engram_uncut_documents(:size)")
    rows = await session.execute(statement, {"size": size})
    await session.end_snapshot()
    return [(row.owner_id, row.id) for row in rows]
