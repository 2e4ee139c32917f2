"""The replies of a process: what it runs, its leases, and what other processes left behind."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from db.repositories.conversations_generations import Lease
from db.session import SessionOptions
from schema.context import Changes
from server.replies.ears import Ear, Ears
from server.replies.provider import Provider
from server.replies.runner import Run
from server.replies.store import PASSING, Job, Store

log = structlog.get_logger("engram.replies")


@dataclass(frozen=True)
class ReplyOptions:
    """Which provider, and the bounds of a reply."""

    base_url: str | None = None
    api_key: str | None = None
    models: tuple[str, ...] = ()
    """What may be asked for, the default first; a default alone allows any."""
    context_tokens: int = 32_000
    silence_seconds: float = 60.0
    longest_seconds: float = 900.0
    lease_seconds: float = 20.0
    connections: int = 4
    """How many database connections runners may have together."""


class Replies:
    """What this process runs. `open` it before the first request, `close` it at the end."""

    def __init__(
        self,
        engine: AsyncEngine,
        session_options: SessionOptions,
        options: ReplyOptions,
        changes: Changes,
    ) -> None:
        self.options = options
        self.lease = Lease(uuid4(), timedelta(seconds=options.lease_seconds))
        self._changes = changes
        self._store = Store(engine, session_options, self.lease, at_once=options.connections)
        self._provider: Provider | None = None
        self._runs: dict[UUID, Run] = {}
        self._ears = Ears()
        self._tasks: set[asyncio.Task[None]] = set()
        self._chores: list[asyncio.Task[None]] = []
        self._closing = False
        self.ended: Counter[str] = Counter()
        """Generations that ran here and ended, by how."""

    @property
    def available(self) -> bool:
        """Whether there is a provider to ask."""
        return bool(self.options.base_url or self.options.api_key)

    @property
    def running(self) -> int:
        """How many generations run here."""
        return len(self._runs)

    @property
    def models(self) -> tuple[str, ...]:
        """The models that may be asked for, the default first."""
        return self.options.models

    def open(self) -> None:
        """Begin to look after leases."""
        if self.available:
            self._provider = Provider(
                base_url=self.options.base_url,
                api_key=self.options.api_key,
                silence_seconds=self.options.silence_seconds,
            )
        self._chores = [
            asyncio.create_task(self._often(self._hold, 3.0, at_once=False)),
            asyncio.create_task(self._often(self._sweep, 2.0, at_once=True)),
        ]

    async def close(self, seconds: float) -> None:
        """Let what runs end by itself for so long; then keep what there is and end it."""
        self._closing = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        for run in self._runs.values():
            run.interrupt()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self.lease.duration.total_seconds())
        for task in (*self._tasks, *self._chores):
            task.cancel()
        if left := {*self._tasks, *self._chores}:
            await asyncio.wait(left)
        if self._provider is not None:
            await self._provider.close()

    def start(self, generation: Any) -> None:
        """Run a generation that this process has leased; a row, committed."""
        if self._provider is None:
            return
        job = Job.of(generation)
        run = Run(
            job,
            self._store,
            self._provider,
            context_tokens=self.options.context_tokens,
            longest_seconds=self.options.longest_seconds,
            stored=partial(self._ears.tell, job.owner_id, job.id),
        )
        self._runs[run.job.id] = run
        self._ears.open(job.owner_id, job.id)
        self._spawn(self._run(run))
        if self._closing:
            run.interrupt()

    def stop(self, id: UUID) -> None:
        """A generation was ended from outside: stop reading it, if it is run here."""
        run = self._runs.get(id)
        if run is not None:
            run.fence()

    def listen(self, owner_id: UUID, id: UUID) -> Ear | None:
        """What is stored of a reply from now on; None when it is not written here."""
        return self._ears.listen(owner_id, id)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, run: Run) -> None:
        watching = asyncio.create_task(self._watch(run))
        try:
            await run.run()
        finally:
            self._runs.pop(run.job.id, None)
            self.ended[run.status] += 1
            self._ears.close(run.job.owner_id, run.job.id)
            watching.cancel()
            await asyncio.wait({watching})

    async def _watch(self, run: Run) -> None:
        """Hear of a stop on another process; what this run writes itself it hears as well."""
        job = run.job
        async with aclosing(self._changes.subscribe(job.owner_id, "generation", job.id)) as changes:
            async for _ in changes:
                if run.quiet:
                    await run.hold()

    async def _often(self, chore: Any, share: float, *, at_once: bool) -> None:
        """Do something several times in the course of a lease, for good."""
        pause = self.options.lease_seconds / share
        if not at_once:
            await asyncio.sleep(pause)
        while True:
            try:
                await chore()
            except PASSING as error:
                log.warning("replies_not_looked_after", error=type(error).__name__)
            except Exception:
                log.exception("replies_not_looked_after")
            # Not all processes at the same moment.
            await asyncio.sleep(pause * random.uniform(0.8, 1.0))  # noqa: S311  # no secret

    async def _hold(self) -> None:
        """Say of all that runs here that it does."""
        await asyncio.gather(*(run.hold() for run in list(self._runs.values())))

    async def _sweep(self) -> None:
        """End what other processes left behind, or begin it anew."""
        for owner_id, id in await self._store.abandoned():
            may_begin = self._provider is not None and not self._closing
            try:
                job = await self._store.take_over(owner_id, id, may_begin=may_begin)
            except DBAPIError as error:
                # The others are not to wait for one whose rows somebody holds.
                log.warning("reply_not_ended", generation_id=str(id), error=type(error).__name__)
                continue
            if job is not None:
                log.info("reply_taken_over", generation_id=str(id), epoch=job.epoch)
                self.start(job)
