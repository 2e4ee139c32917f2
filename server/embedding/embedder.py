"""Embeds what waits to be embedded: claims some of one owner's work, asks, stores, goes on.

Several run at once, in one process and in others. No database connection is held while the provider
is asked.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from db.connection import uninterrupted
from db.repositories import knowledge_embedding as work
from db.repositories.knowledge_embedding import Claim, Job, Model, Piece
from db.session import Session, SessionOptions
from server.embedding.provider import EmbeddingFailed, Provider

log = structlog.get_logger("engram.embedding")

JOBS = 64
"""Documents and messages that are claimed together."""
PIECES = 512
"""Texts that are read together."""
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 300.0


class Embedder:
    """One worker. `step` does some work, if there is any."""

    def __init__(
        self,
        engine: AsyncEngine,
        options: SessionOptions,
        provider: Provider,
        *,
        batch: int,
        lease_seconds: float,
    ) -> None:
        """`batch` is how many texts are sent together."""
        self._engine = engine
        self._options = options
        self._provider = provider
        self._batch = batch
        self._lease = timedelta(seconds=lease_seconds)
        self._after: dict[str, UUID] = {}
        self.asked: Counter[str] = Counter()
        """Texts that the provider was asked for, by what came of it."""

    async def models(self) -> list[Model]:
        """The models that texts are embedded by."""
        async with Session(self._engine, None, self._options) as session:
            return await work.models(session)

    async def step(self, model: Model) -> bool:
        """Do what one claim brings; False when there is nothing to do.

        Raises EmbeddingFailed when the provider failed; the work is left for later then.
        """
        after = self._after.setdefault(model.id, UUID(int=random.getrandbits(128)))  # no secret
        async with Session(self._engine, None, self._options) as session:
            claimed = await work.claim(session, model, after=after, size=JOBS, lease=self._lease)
        if claimed is None:
            return False
        self._after[model.id] = claimed.owner_id
        try:
            await _Round(self, claimed, model).run()
        except EmbeddingFailed as error:
            await self._give_back(claimed, error)
            raise
        except BaseException:
            await uninterrupted(self._give_back(claimed, None))
            raise
        return True

    def session(self, claimed: Claim) -> Session:
        """A session of the owner whose work it is."""
        return Session(self._engine, claimed.owner_id, self._options)

    @property
    def lease(self) -> timedelta:
        """How long a claim holds."""
        return self._lease

    async def ask(
        self, model: Model, pieces: Sequence[Piece]
    ) -> tuple[dict[bytes, str], dict[bytes, str]]:
        """The embedding of each text by its hash, and why some were refused.

        Of texts that are refused together each half is tried by itself, until one is left. Raises
        EmbeddingFailed.
        """
        texts = {piece.sha256: piece.text for piece in pieces}
        found: dict[bytes, str] = {}
        refused: dict[bytes, str] = {}
        pending = [list(texts)]
        while pending:
            hashes = pending.pop()
            asked = [texts[one] for one in hashes]
            try:
                vectors = await self._provider.embed(model.id, asked, model.dimensions)
            except EmbeddingFailed as error:
                if not error.rejected:
                    self.asked["failed"] += len(asked)
                    raise
                if len(hashes) == 1:
                    refused[hashes[0]] = str(error)
                    self.asked["refused"] += 1
                else:
                    middle = len(hashes) // 2
                    pending += [hashes[middle:], hashes[:middle]]
                continue
            self.asked["embedded"] += len(asked)
            found |= {one: written(vector) for one, vector in zip(hashes, vectors, strict=True)}
        return found, refused

    @property
    def batch(self) -> int:
        """How many texts are sent together."""
        return self._batch

    async def _give_back(self, claimed: Claim, error: EmbeddingFailed | None) -> None:
        attempts = max(job.attempts for job in claimed.jobs)
        pause = 0.0 if error is None else pause_after(error, attempts)
        async with self.session(claimed) as session:
            await work.give_back(
                session,
                claimed.jobs,
                error=None if error is None else str(error)[:1_000],
                pause=timedelta(seconds=pause),
            )


class _Round:
    """The work of one claim."""

    def __init__(self, embedder: Embedder, claimed: Claim, model: Model) -> None:
        self._embedder = embedder
        self._claimed = claimed
        self._model = model
        self._held: Sequence[Job] = claimed.jobs
        self._refused: dict[bytes, str] = {}
        self._errors: dict[UUID, str] = {}
        self._counts: dict[UUID, int] = {}

    async def run(self) -> None:
        """Embed all of it, as long as it is ours."""
        await self._embed(await self._parts())
        while self._held:
            async with self._embedder.session(self._claimed) as session:
                pieces = await work.missing_chunks(
                    session, self._model, self._held, list(self._refused), PIECES
                )
            if not pieces:
                break
            await self._embed(pieces)
        if self._held:
            async with self._embedder.session(self._claimed) as session:
                await work.finish(session, self._model, self._held, self._errors, self._counts)

    async def _parts(self) -> list[Piece]:
        """The pieces of messages; those that are known are stored by this."""
        async with self._embedder.session(self._claimed) as session:
            pieces = await work.message_pieces(session, self._held)
            for piece in pieces:
                self._counts[piece.job.id] = max(
                    piece.position + 1, self._counts.get(piece.job.id, 0)
                )
            hashes = list({piece.sha256 for piece in pieces})
            known = await work.known_vectors(session, self._model, hashes)
        await self._store(
            [(piece, known[piece.sha256]) for piece in pieces if piece.sha256 in known]
        )
        return [piece for piece in pieces if piece.sha256 not in known]

    async def _embed(self, pieces: Sequence[Piece]) -> None:
        """Ask for each text once, however many pieces have it, and store what comes."""
        by_text: dict[bytes, list[Piece]] = {}
        for piece in pieces:
            by_text.setdefault(piece.sha256, []).append(piece)
        hashes = list(by_text)
        for start in range(0, len(hashes), self._embedder.batch):
            if not self._held:
                return
            batch = hashes[start : start + self._embedder.batch]
            found, refused = await self._embedder.ask(
                self._model, [by_text[one][0] for one in batch]
            )
            self._refused |= refused
            for one, error in refused.items():
                for piece in by_text[one]:
                    self._errors[piece.job.id] = error[:1_000]
            await self._store(
                [(piece, vector) for one, vector in found.items() for piece in by_text[one]]
            )

    async def _store(self, embedded: Sequence[tuple[Piece, str]]) -> None:
        if not embedded:
            return
        async with self._embedder.session(self._claimed) as session:
            still = await work.store(
                session, self._model, embedded, self._held, self._embedder.lease
            )
        self._held = [job for job in self._held if job.id in still]


def written(vector: Sequence[float]) -> str:
    """A vector as PostgreSQL reads it."""
    return f"[{','.join(map(repr, vector))}]"


def pause_after(error: EmbeddingFailed, attempts: int) -> float:
    """How many seconds to leave it: what the provider asks for, or longer with each attempt."""
    if error.retry_after_seconds is not None:
        return error.retry_after_seconds
    spread = random.uniform(0.75, 1.25)  # noqa: S311  # no secret
    pause: float = FIRST_PAUSE_SECONDS * 2 ** min(attempts, 20) * spread
    return min(pause, LONGEST_PAUSE_SECONDS)
