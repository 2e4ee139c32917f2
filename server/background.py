"""Work that a process does again and again beside serving."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from db.failures import DatabaseUnavailable

__all__ = ["Background"]

log = structlog.get_logger("engram.server")


class Background:
    """A task that does some work, waits, and does it again until it is stopped."""

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[object]],
        *,
        every_seconds: float,
        first_seconds: float = 0,
    ) -> None:
        """``first_seconds`` is the wait before the first time."""
        self.name = name
        self.runs = {"ok": 0, "failed": 0}
        """How often the work was done, and how often it could not be."""
        self.succeeded_at: float | None = None
        """When it was last done, in Unix time."""
        self._work = work
        self._every_seconds = every_seconds
        self._first_seconds = first_seconds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; returns at once."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Interrupt the work, and wait until it has put things in order."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _run(self) -> None:
        await asyncio.sleep(self._first_seconds)
        while True:
            try:
                await self._work()
                self.runs["ok"] += 1
                self.succeeded_at = time.time()
            except DatabaseUnavailable as error:
                self.runs["failed"] += 1
                log.warning("background_waits", work=self.name, reason=str(error))
            except Exception as error:
                # Nobody waits for it, and it is tried again.
                self.runs["failed"] += 1
                log.error("background_failed", work=self.name, exc_info=error)
            await asyncio.sleep(self._every_seconds)
