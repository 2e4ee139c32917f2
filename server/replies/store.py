"""What runners read and write, each time in a short transaction of its own.

No connection is held in between. A write that the database cannot take now is tried again for as
long as the lease lasts that allows it; beyond that it is another's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from db.failures import DatabaseUnavailable, StatementCancelled
from db.repositories import conversations_runs as runs
from db.repositories.conversations_citations import Passage, passages_of
from db.repositories.conversations_generations import Lease
from db.repositories.conversations_prompts import Said, branch_of
from db.repositories.conversations_runs import Delta, Fenced, Outcome
from db.session import Author, Session, SessionOptions
from server.replies.appender import Appender

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
PASSING = (DatabaseUnavailable, StatementCancelled, DBAPIError)
_PASSING_STATES = ("40001", "40P01", "55P03", "08", "53", "57P")
T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """A generation to be run."""

    owner_id: UUID
    id: UUID
    epoch: int
    conversation_id: UUID
    user_message_id: UUID
    assistant_message_id: UUID
    model: str
    instructions: str | None
    temperature: float | None
    max_output_tokens: int | None
    tools: dict[str, Any]

    @classmethod
    def of(cls, generation: Any) -> Job:
        """The job of a row of generations."""
        return cls(**{name: getattr(generation, name) for name in cls.__dataclass_fields__})


class Store:
    """The database as runners use it."""

    def __init__(
        self, engine: AsyncEngine, options: SessionOptions, lease: Lease, *, at_once: int
    ) -> None:
        """`at_once` is how many connections runners may have together."""
        self._engine = engine
        self._options = options
        self._places = asyncio.Semaphore(at_once)
        self._appender = Appender(lambda: Session(engine, None, options))
        self.lease = lease

    async def material(self, job: Job, most_chars: int) -> tuple[Sequence[Said], Sequence[Passage]]:
        """The branch that a job is to answer, and the passages that go with it."""
        async with self._places, self._session(job.owner_id, job.id) as session:
            branch = await branch_of(session, job.user_message_id, most_chars)
            return branch, await passages_of(session, job.assistant_message_id)

    async def append(
        self, job: Job, deltas: Sequence[Delta], begun: dict[str, Any] | None = None
    ) -> None:
        """Store deltas; `begun` are facts of the generation that come with the first of them.

        Raises Fenced.
        """

        if begun is None:
            append = self._appender.append
            await self._patiently(lambda: append(job.owner_id, job.id, job.epoch, deltas))
            return

        async def work(session: Session) -> None:
            await runs.begin(session, job.id, job.epoch, begun)
            await runs.append(session, job.id, job.epoch, deltas)

        await self._written(job, work)

    async def hold(self, job: Job) -> None:
        """Lengthen the lease of a job. Raises Fenced."""
        duration = self.lease.duration
        await self._written(job, lambda session: runs.hold(session, job.id, job.epoch, duration))

    async def release(self, job: Job) -> None:
        """Give a job back of which nothing was written, for another process to begin anew.

        Raises Fenced.
        """
        none = timedelta()
        await self._written(job, lambda session: runs.hold(session, job.id, job.epoch, none))

    async def finish(self, job: Job, deltas: Sequence[Delta], outcome: Outcome) -> None:
        """Store the last deltas and end a job. Raises Fenced."""
        await self._written(
            job, lambda session: runs.finish(session, job.id, job.epoch, outcome, deltas)
        )

    async def abandoned(self, most: int = 100) -> list[tuple[UUID, UUID]]:
        """Owners and ids of jobs whose lease has expired."""
        async with self._places, Session(self._engine, None, self._options) as session:
            return await runs.abandoned(session, most)

    async def take_over(self, owner_id: UUID, id: UUID, *, may_begin: bool) -> Job | None:
        """Take a job whose lease has expired: it, when it is to be run, else None."""
        async with self._places, self._session(owner_id, id) as session, session.transaction():
            found = await runs.take_over(
                session, id, self.lease.runner_id, self.lease.duration, may_begin=may_begin
            )
            return None if found is None else Job.of(found)

    async def _written(self, job: Job, work: Callable[[Session], Awaitable[T]]) -> T:
        """Do something in a transaction of the owner. Raises Fenced."""

        async def attempt() -> T:
            async with (
                self._places,
                self._session(job.owner_id, job.id) as session,
                session.transaction(),
            ):
                return await work(session)

        return await self._patiently(attempt)

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Do something, again while the database is away, for as long as a lease lasts."""
        loop = asyncio.get_running_loop()
        patience = loop.time() + self.lease.duration.total_seconds()
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return await attempt()
            except PASSING as error:
                if not _may_pass(error) or loop.time() + pause > patience:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    @asynccontextmanager
    async def _session(self, owner_id: UUID, id: UUID) -> AsyncIterator[Session]:
        """A session of a generation's owner, in whose name its runner writes."""
        author = Author("user", owner_id, f"generation_{id.hex}")
        async with Session(self._engine, owner_id, self._options, author=author) as session:
            yield session


def _may_pass(error: Exception) -> bool:
    """Whether the same write may succeed a little later."""
    if isinstance(error, DBAPIError):
        return str(getattr(error.orig, "sqlstate", "")).startswith(_PASSING_STATES)
    return True


__all__ = ["PASSING", "Delta", "Fenced", "Job", "Outcome", "Store"]
