"""Waiting until what has been committed may be told in the order of the change feed.

An event stands in the feed at a position that transactions before it have to pass: while one of
them runs, wherever in the cluster, the event waits. One question, asked for all who wait, finds out
when they can go on.
"""

from __future__ import annotations

import asyncio
from typing import Protocol
from weakref import WeakKeyDictionary

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["Horizon", "Sleeper"]

log = structlog.get_logger("engram.notifications")

HORIZON = text("SELECT engram_feed_horizon()")
# A transaction that holds others up is waited for about as long again as it took at most.
FIRST_PAUSE_SECONDS = 0.002
LONGEST_PAUSE_SECONDS = 0.25
# What holds up the feed for so long is worth a look at pg_stat_activity.
LATE_SECONDS = 10.0


class Sleeper(Protocol):
    """Somebody who waits for something to read."""

    def wake(self) -> None:
        """Go and look."""
        ...


class Horizon:
    """Wakes sleepers once the feed's horizon has passed the positions they wait for."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._waiting: WeakKeyDictionary[Sleeper, int] = WeakKeyDictionary()
        self._task: asyncio.Task[None] | None = None

    def wake_past(self, position: int, sleeper: Sleeper) -> None:
        """Wake somebody, once, when what stands at a position has settled."""
        self._waiting[sleeper] = position
        if self._task is None:
            self._task = asyncio.create_task(self._look())

    async def stop(self) -> None:
        """Wake nobody any more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        pause, moved, told, before = FIRST_PAUSE_SECONDS, loop.time(), False, -1
        while self._waiting:
            await asyncio.sleep(pause)
            try:
                async with asyncio.timeout(LATE_SECONDS), self._engine.connect() as connection:
                    horizon = int((await connection.execute(HORIZON)).scalar_one())
            except (SQLAlchemyError, OSError, TimeoutError) as error:
                # Those who sleep have missed nothing: they are woken when it is back.
                log.warning("horizon_unknown", error=type(error).__name__)
                pause = LONGEST_PAUSE_SECONDS * 4
                continue
            if horizon > before:
                before, moved, told = horizon, loop.time(), False
                pause = FIRST_PAUSE_SECONDS
            else:
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
            if not told and loop.time() - moved > LATE_SECONDS:
                told = True
                log.warning("changes_wait", for_transaction=horizon, waiting=len(self._waiting))
            for sleeper, position in list(self._waiting.items()):
                if position < horizon:
                    del self._waiting[sleeper]
                    sleeper.wake()
        self._task = None
