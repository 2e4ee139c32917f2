"""The pool of connections: SQLAlchemy's, which can tell whether one is at hand.

A connection that has been made is handed over without waiting, and so without the greenlet that
SQLAlchemy needs to wait in.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry
from sqlalchemy.util import greenlet_spawn

from db.meter import Histogram

__all__ = ["ReadyPool", "can_check_in", "check_in", "check_out"]


class ReadyPool(AsyncAdaptedQueuePool):
    """A queue of connections, which may hold places whose connection was thrown away."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._hollow = 0
        self.waiting = 0
        """How many wait for a connection, or for one to be made."""
        self.waits = Histogram()
        """How long they waited, in seconds."""
        self.timeouts = 0
        """How many waited in vain, as all connections were busy."""

    @property
    def ready(self) -> bool:
        """Whether the next connection needs neither waiting nor making."""
        return not self._hollow and self.checkedin() > 0

    @property
    def idle(self) -> int:
        """How many connections are there and unused."""
        return self.checkedin() - self._hollow

    @property
    def exhausted(self) -> bool:
        """Whether every connection there may be is in use."""
        return self.checkedout() >= self.size()

    async def wait(self) -> Any:
        """A connection, when there is one. Raises what connecting does."""
        started = perf_counter()
        self.waiting += 1
        try:
            return await greenlet_spawn(self.connect)
        except PoolTimeoutError:
            self.timeouts += 1
            raise
        finally:
            self.waiting -= 1
            self.waits.observe(perf_counter() - started)

    def _do_get(self) -> ConnectionPoolEntry:
        entry = super()._do_get()
        if entry.dbapi_connection is None:
            self._hollow -= 1
        return entry

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        if record.dbapi_connection is None:
            self._hollow += 1
        super()._do_return_conn(record)


async def check_out(engine: AsyncEngine) -> Any:
    """A connection of the engine's pool, as the pool hands it out. Raises what connecting does."""
    pool = engine.sync_engine.pool
    if not isinstance(pool, ReadyPool):
        return await greenlet_spawn(pool.connect)
    return pool.connect() if pool.ready else await pool.wait()


def can_check_in(engine: AsyncEngine) -> bool:
    """Whether giving a sound connection back takes no waiting."""
    return isinstance(engine.sync_engine.pool, ReadyPool)


async def check_in(engine: AsyncEngine, fairy: Any) -> None:
    """Give a sound connection back."""
    if can_check_in(engine):
        fairy.close()
    else:
        await greenlet_spawn(fairy.close)  # without a pool this ends it, which takes a while
