"""Followers in the process that writes a reply: they are handed what was stored, not told to look.

Whoever follows from another process, or falls behind, reads the same from the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID
from weakref import WeakSet

from db.repositories.conversations_runs import Delta

KEPT = 50
"""How many deltas wait for a follower; one that lets more pass looks them up."""


class Ear:
    """What one follower hears of one run, from now on."""

    def __init__(self) -> None:
        self._waiting: list[Delta] = []
        self._woken = asyncio.Event()
        self.ended = False

    def put(self, deltas: Sequence[Delta]) -> None:
        """Hand over what was stored."""
        if len(self._waiting) < KEPT:
            self._waiting += deltas
        self._woken.set()

    def end(self) -> None:
        """Nothing more comes from here."""
        self.ended = True
        self._woken.set()

    async def next(self, after_seq: int) -> Sequence[Delta]:
        """Wait; then what follows a delta without a gap. Empty when it is to be looked up."""
        await self._woken.wait()
        self._woken.clear()
        heard, self._waiting = self._waiting, []
        new = [delta for delta in heard if delta.seq > after_seq]
        return new if new and new[0].seq == after_seq + 1 else ()


class Ears:
    """The followers of the runs of a process."""

    def __init__(self) -> None:
        self._of: dict[tuple[UUID, UUID], WeakSet[Ear]] = {}

    def open(self, owner_id: UUID, id: UUID) -> None:
        """A run begins."""
        self._of[owner_id, id] = WeakSet()

    def listen(self, owner_id: UUID, id: UUID) -> Ear | None:
        """Follow a run of this owner; None when it is not here. Drop it to end it."""
        followers = self._of.get((owner_id, id))
        if followers is None:
            return None
        ear = Ear()
        followers.add(ear)
        return ear

    def tell(self, owner_id: UUID, id: UUID, deltas: Sequence[Delta]) -> None:
        """Deltas were stored."""
        for ear in self._of.get((owner_id, id), ()):
            ear.put(deltas)

    def close(self, owner_id: UUID, id: UUID) -> None:
        """A run has ended: what came of it is to be looked up."""
        for ear in self._of.pop((owner_id, id), ()):
            ear.end()
