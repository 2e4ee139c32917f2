"""Removes what is no longer kept, a bounded batch at a time, each in a transaction of its own.

Any process may do it; an advisory lock keeps others from doing it at the same time. The lock is
held by a transaction that reads nothing while batches are removed in others: it keeps no snapshot,
so nothing waits for it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from db import retention
from db.retention import BATCH_ROWS, Retention
from db.session import Author, Session, SessionOptions

__all__ = ["Sweeper"]

log = structlog.get_logger("engram.server")

PAUSE_SECONDS = 0.02
"""Between two batches, so that they are never all that the database does."""
GUARD_IDLE_MS = 3_600_000
"""How long the transaction that holds the lock may wait for the batches of one page of people."""


class Sweeper:
    """Removes, of everybody, what is older than it is to be kept."""

    def __init__(
        self,
        engine: AsyncEngine,
        options: SessionOptions,
        kept: Retention,
        *,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        self._engine = engine
        self._options = options
        self._kept = kept
        self._pause_seconds = pause_seconds
        self.removed: Counter[str] = Counter()
        """All that this process has removed, by what it was."""

    async def run(self) -> dict[str, int] | None:
        """Sweep once: how many rows went, by what they were; None while another process does it.

        Raises DatabaseUnavailable, and what fails in the database.
        """
        removed = {"login_sessions": 0, "idempotency_keys": 0, "exports": 0, "audit_events": 0}
        guarding = replace(self._options, idle_timeout_ms=GUARD_IDLE_MS)
        async with Session(self._engine, None, guarding) as guard, guard.transaction():
            if not await retention.alone(guard):
                return None
            last: UUID | None = None
            more = True
            while more:
                page = await retention.owners(guard, last, self._kept)
                for owner_id in page.due:
                    await self._sweep(owner_id, removed)
                last = page.last_id
                more = last is not None
        if any(removed.values()):
            log.info("swept", **removed)
        return removed

    async def _sweep(self, owner_id: UUID, removed: dict[str, int]) -> None:
        kept = self._kept
        author = Author("user", owner_id, "retention")
        async with Session(self._engine, owner_id, self._options, author=author) as session:
            batches: dict[str, Callable[[], Awaitable[int]]] = {
                "login_sessions": lambda: retention.sweep_logins(session, kept),
                "idempotency_keys": lambda: retention.sweep_keys(session),
                "exports": lambda: retention.sweep_exports(session),
                "audit_events": lambda: retention.sweep_events(session, kept),
            }
            for name, batch in batches.items():
                count = BATCH_ROWS
                while count:
                    async with session.transaction():
                        count = await batch()
                    removed[name] += count
                    self.removed[name] += count
                    await asyncio.sleep(self._pause_seconds if count else 0)
