"""The embeddings of a process: what runs in the background, and the vectors of queries."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from db.failures import DatabaseUnavailable, StatementCancelled
from db.repositories import knowledge_embedding as work
from db.repositories.knowledge_chunks import cut_pending
from db.session import Author, Session, SessionOptions
from schema.context import NoEmbedding
from server.embedding.embedder import Embedder, pause_after
from server.embedding.provider import EmbeddingFailed, Provider

log = structlog.get_logger("engram.embedding")

UNCUT = 20
"""Documents that are looked at together; several processes begin at different ones."""
REGISTRATION_TIMEOUT_MS = 600_000
"""All texts there are get a job when a model is new."""
LONGEST_PAUSE_SECONDS = 30.0


@dataclass(frozen=True)
class EmbeddingOptions:
    """Which provider, and how it is used. Without a model nothing is embedded."""

    base_url: str | None = None
    api_key: str | None = None
    model: str | None = None
    dimensions: int | None = None
    """Asked for, from models that can be asked; None takes what the model gives."""
    batch: int = 64
    workers: int = 2
    timeout_seconds: float = 30.0
    query_timeout_seconds: float = 5.0
    lease_seconds: float = 90.0
    """How long the work of a process that died waits; longer than two time-outs."""
    poll_seconds: float = 1.0
    cached_queries: int = 1_000


class Embeddings:
    """`open` it before the first request, `close` it at the end."""

    def __init__(
        self, engine: AsyncEngine, session_options: SessionOptions, options: EmbeddingOptions
    ) -> None:
        self.options = options
        self._engine = engine
        self._session_options = session_options
        self._tasks: list[asyncio.Task[None]] = []
        self._queries: Provider | None = None
        self._provider: Provider | None = None
        self._cache: OrderedDict[tuple[str, str], list[float]] = OrderedDict()
        self._failed: tuple[float, str] | None = None
        self.asked: Counter[str] = Counter()
        """Texts that the provider was asked for, by what came of it."""
        if options.model is not None:
            self._provider = self._made(options.timeout_seconds)
            self._queries = self._made(options.query_timeout_seconds)

    @property
    def available(self) -> bool:
        """Whether there is a provider to ask."""
        return self._queries is not None

    def open(self) -> None:
        """Begin to cut what is left to cut, and to embed."""
        self._tasks.append(asyncio.create_task(self._often(self._cut)))
        if self._provider is not None:
            self._tasks.append(asyncio.create_task(self._embed(self._provider)))

    async def close(self) -> None:
        """End. What was begun is given back, for other processes or the next start."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for provider in (self._provider, self._queries):
            if provider is not None:
                await provider.close()

    async def query_vector(self, model: str, dimensions: int, text: str) -> list[float]:
        """The embedding of a query. Raises NoEmbedding, quickly while the provider is failing."""
        if self._queries is None:
            raise NoEmbedding("No provider of embeddings is configured.", configured=False)
        key = (model, text)
        found = self._cache.get(key)
        if found is not None:
            self._cache.move_to_end(key)
            return found
        if self._failed is not None and monotonic() < self._failed[0]:
            raise NoEmbedding(self._failed[1])
        try:
            (found,) = await self._queries.embed(model, [text], dimensions)
        except EmbeddingFailed as error:
            if not error.rejected:
                pause = min(pause_after(error, 0), LONGEST_PAUSE_SECONDS)
                self._failed = (monotonic() + pause, str(error))
            raise NoEmbedding(str(error)) from None
        if not any(found):
            raise NoEmbedding("The provider says nothing about this query.")
        self._failed = None
        self._cache[key] = found
        while len(self._cache) > self.options.cached_queries:
            self._cache.popitem(last=False)
        return found

    def _made(self, timeout_seconds: float) -> Provider:
        options = self.options
        return Provider(
            base_url=options.base_url,
            api_key=options.api_key,
            timeout_seconds=timeout_seconds,
            dimensions=options.dimensions,
        )

    async def _cut(self) -> float:
        """Cut some documents; how long to pause after it."""
        async with Session(self._engine, None, self._session_options) as session:
            found = await work.uncut(session, UNCUT)
        random.shuffle(found)
        for owner_id, document_id in found:
            author = Author("user", owner_id, f"document {document_id}")
            session = Session(self._engine, owner_id, self._session_options, author=author)
            async with session:
                await cut_pending(session, document_id)
        return self.options.poll_seconds * 2 if len(found) < UNCUT else 0.0

    async def _embed(self, provider: Provider) -> None:
        """Make the model known, then embed by it and by what else is in use."""
        await self._often(lambda: self._register(provider), once=True)
        workers = [self._worker(provider) for _ in range(self.options.workers)]
        async with asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(self._often(worker.work))

    async def _register(self, provider: Provider) -> float:
        model, dimensions = self.options.model, self.options.dimensions
        assert model is not None
        if dimensions is None:
            (vector,) = await provider.embed(model, ["dimensions"])
            dimensions = len(vector)
        options = SessionOptions(
            statement_timeout_ms=REGISTRATION_TIMEOUT_MS,
            lock_timeout_ms=self._session_options.lock_timeout_ms,
            idle_timeout_ms=self._session_options.idle_timeout_ms,
            role=self._session_options.role,
        )
        async with Session(self._engine, None, options) as session:
            status = await work.register_model(session, model, dimensions)
        log.info("embedding", model=model, dimensions=dimensions, status=status)
        return 0.0

    def _worker(self, provider: Provider) -> _Worker:
        embedder = Embedder(
            self._engine,
            self._session_options,
            provider,
            batch=self.options.batch,
            lease_seconds=self.options.lease_seconds,
        )
        embedder.asked = self.asked
        return _Worker(embedder, self.options.poll_seconds)

    async def _often(self, work: Callable[[], Awaitable[float]], *, once: bool = False) -> None:
        """Do something again and again, or until it is done; nothing that fails ends it."""
        failures = 0
        while True:
            try:
                pause = await work()
                failures = 0
                if once:
                    return
            except EmbeddingFailed as error:
                pause = min(pause_after(error, failures), LONGEST_PAUSE_SECONDS)
                failures += 1
                log.warning("embedding_failed", error=str(error))
            except (DatabaseUnavailable, StatementCancelled, DBAPIError, OSError) as error:
                failures += 1
                pause = min(self.options.poll_seconds * 2**failures, LONGEST_PAUSE_SECONDS)
                log.warning("embedding_interrupted", error=type(error).__name__)
            except Exception:
                failures += 1
                pause = LONGEST_PAUSE_SECONDS
                log.exception("embedding_broken")
            await asyncio.sleep(pause)


class _Worker:
    """An embedder that goes round the models, and leaves alone what fails."""

    def __init__(self, embedder: Embedder, poll_seconds: float) -> None:
        self._embedder = embedder
        self._poll_seconds = poll_seconds
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}

    async def work(self) -> float:
        """Do some work by each model; how long to pause after it."""
        worked = False
        for model in await self._embedder.models():
            if monotonic() < self._not_before.get(model.id, 0.0):
                continue
            try:
                worked |= await self._embedder.step(model)
                self._failures.pop(model.id, None)
            except EmbeddingFailed as error:
                failures = self._failures[model.id] = self._failures.get(model.id, 0) + 1
                pause = pause_after(error, failures - 1)
                self._not_before[model.id] = monotonic() + pause
                log.warning("embedding_failed", model=model.id, error=str(error), pause=pause)
        return 0.0 if worked else self._poll_seconds * random.uniform(0.75, 1.25)  # noqa: S311  # no secret
