"""Deltas of all runs of a process, appended together: one transaction, one wait for the disk.

While one transaction is on its way, what comes gathers for the next. So the first delta of a quiet
process is stored at once, and hundreds of replies cost hardly more commits than one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from db.repositories.conversations_runs import Delta, Fenced, Place, append_all
from db.session import Session

MOST_AT_ONCE = 500
BUSY_SECONDS = 0.02
"""When a reply is tried again whose row somebody else had locked."""


class Sessions(Protocol):
    """Makes sessions of nobody in particular."""

    def __call__(self) -> AbstractAsyncContextManager[Session]: ...


@dataclass(eq=False)
class _Waiting:
    """Deltas of one run, and who waits for them to be stored."""

    places: list[Place]
    stored: asyncio.Future[None]


class Appender:
    """Appends for all runs of a process."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._waiting: list[_Waiting] = []
        self._working: asyncio.Task[None] | None = None

    async def append(self, owner_id: UUID, id: UUID, epoch: int, deltas: Sequence[Delta]) -> None:
        """Store deltas and tell whoever follows. Raises Fenced, and what the database raises."""
        places = [Place(owner_id, id, epoch, delta) for delta in deltas]
        waiting = _Waiting(places, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        await waiting.stored

    async def _work(self) -> None:
        while self._waiting:
            together, self._waiting = (
                self._waiting[:MOST_AT_ONCE],
                self._waiting[MOST_AT_ONCE:],
            )
            try:
                busy = await self._store(together)
            except Exception as error:
                for one in together:
                    if not one.stored.done():
                        one.stored.set_exception(error)
                continue
            if busy:
                self._waiting += busy
                await asyncio.sleep(BUSY_SECONDS)

    async def _store(self, together: Sequence[_Waiting]) -> list[_Waiting]:
        """Store what can be, and say so; what must be tried again."""
        places = [place for one in together for place in one.places]
        async with self._sessions() as session, session.transaction():
            outcomes = iter(await append_all(session, places))
        busy = []
        for one in together:
            found = {next(outcomes) for _ in one.places}
            if one.stored.done():
                continue  # nobody waits any more
            if "fenced" in found:
                one.stored.set_exception(Fenced())
            elif "busy" in found:
                busy.append(one)
            else:
                one.stored.set_result(None)
        return busy
