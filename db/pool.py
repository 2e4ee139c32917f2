"""The pool of connections: SQLAlchemy's, with a line of those who wait.

A connection that has been made is handed over without waiting, and so without the greenlet that
SQLAlchemy needs to wait in. SQLAlchemy's queue lets whoever comes first after a return have the
connection and sends the one it was meant for to the end of the queue; sessions take turns instead.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter
from typing import Any

from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry
from sqlalchemy.util import await_only, greenlet_spawn

from db.meter import Histogram
from db.pipeline import Pipeline

__all__ = ["ReadyPool", "check_in", "check_in_now", "check_out", "is_pooled", "throw_away"]


class ReadyPool(AsyncAdaptedQueuePool):
    """A queue of connections, which may hold places whose connection was thrown away."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._hollow = 0
        self._free = self.size()
        self._line: deque[asyncio.Future[None]] = deque()
        self.waits = Histogram()
        """How long sessions waited for a connection, or for one to be made, in seconds."""
        self.waiting = 0
        """How many wait for a connection, or for one to be made."""
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

    def connect(self) -> Any:
        """SQLAlchemy's own way to a connection; sessions go by `take`."""
        fairy: Any = super().connect()
        driver = fairy.driver_connection
        pipeline = Pipeline.of(driver)
        if pipeline is not None and pipeline.ended:
            # Its driver does not know yet that the last snapshot has ended, and asks nobody.
            await_only(driver.execute("SELECT"))
            pipeline.ended = False
        return fairy

    async def take(self) -> Any:
        """A connection, in the order of asking; end the turn with `done`.

        Raises what connecting does, and SQLAlchemy's TimeoutError.
        """
        if self._free and self.ready:
            self._free -= 1
            try:
                return super().connect()
            except BaseException:
                self.done()
                raise
        started = perf_counter()
        self.waiting += 1
        try:
            await self._turn()
            try:
                return super().connect() if self.ready else await greenlet_spawn(super().connect)
            except BaseException:
                self.done()
                raise
        except PoolTimeoutError:
            self.timeouts += 1
            raise
        finally:
            self.waiting -= 1
            self.waits.observe(perf_counter() - started)

    def done(self) -> None:
        """A turn is over: the connection is back in the pool, or thrown away."""
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    async def _turn(self) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            async with asyncio.timeout(self.timeout()):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.done()  # it was given to one who does not want it any more
            if isinstance(error, TimeoutError):
                raise PoolTimeoutError("All connections are busy.") from None
            raise

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
    if isinstance(pool, ReadyPool):
        return await pool.take()
    return await greenlet_spawn(pool.connect)


async def check_in(fairy: Any) -> None:
    """Give a sound connection back."""
    if is_pooled(fairy):
        check_in_now(fairy)
    else:
        await greenlet_spawn(fairy.close)  # this ends it, which takes a while


def is_pooled(fairy: Any) -> bool:
    """Whether a sound connection can be given back without waiting."""
    return isinstance(fairy._pool, ReadyPool)


def check_in_now(fairy: Any) -> None:
    """Give a sound connection of a pool back."""
    fairy.close()
    fairy._pool.done()


def throw_away(fairy: Any) -> None:
    """Give back the place of a connection that is broken, or may be."""
    pool = fairy._pool
    fairy.invalidate()
    if isinstance(pool, ReadyPool):
        pool.done()
