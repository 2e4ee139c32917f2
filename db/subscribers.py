"""Who is told of changes, and how much is kept for one who does not listen.

A `Subscription` gets the ids of what changed in one scope, in a queue with an end. A `Watch` is
only woken: its owner reads the change feed, where all that it has not read yet is kept.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Self
from uuid import UUID

__all__ = ["GAP", "Change", "FellBehind", "Subscription", "Topic", "Watch"]

GAP = "gap"
Topic = tuple[UUID, str, UUID]  # owner, entity type, scope


@dataclass(frozen=True, slots=True)
class Change:
    """Some rows of one type changed: insert, update, delete, restore.

    The operation ``gap`` has no ids: the connection was lost for a while, and changes with it.
    """

    operation: str
    ids: tuple[UUID, ...] = ()


class FellBehind(Exception):
    """A subscriber took its changes too slowly; it has to start anew."""


class Subscription:
    """The changes of one topic, from the moment this was made. Close it when it is done.

    Iterating raises FellBehind once more changes wait than the listener keeps for a subscriber.
    """

    def __init__(self, topic: Topic, size: int) -> None:
        self.topic = topic
        self._size = size
        self._waiting: asyncio.Queue[Change | None] = asyncio.Queue()
        self._gap_waits = False
        self._closed = False

    def put(self, change: Change) -> None:
        """Hand over a change. The one that is too many is replaced by the end."""
        if change.operation == GAP:
            if self._gap_waits:
                return  # who has not read after the last one will read once for both
            self._gap_waits = True
        waiting = self._waiting.qsize()
        if waiting <= self._size and not self._closed:
            self._waiting.put_nowait(change if waiting < self._size else None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        if self._closed:
            raise StopAsyncIteration
        change = await self._waiting.get()
        if change is None:
            self._closed = True
            raise FellBehind(f"More than {self._size} changes were waiting.")
        if change.operation == GAP:
            self._gap_waits = False
        return change

    async def aclose(self) -> None:
        """Take no more changes."""
        self._closed = True


class Watch:
    """Woken when something of an owner changed, whatever and wherever; holds nothing else."""

    def __init__(self, owner_id: UUID) -> None:
        self.owner_id = owner_id
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """There may be something to read."""
        self._woken.set()

    async def wait(self, seconds: float | None = None) -> None:
        """Return when something may have changed since the last return, or after some seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        self._woken.clear()
