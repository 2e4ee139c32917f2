"""What has changed, told to this process by PostgreSQL: one LISTEN connection for all subscribers.

A notice holds ids and no rows, as NOTIFY knows no rights: subscribers read again under their own.
Nothing is kept for a process that is not connected, so after an interruption subscribers are told
that there may be a gap.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self, get_args
from uuid import UUID
from weakref import WeakSet

import asyncpg
import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from db.session import CHANNEL, Operation

__all__ = ["Change", "FellBehind", "Listener", "Subscription"]

log = structlog.get_logger("engram.notifications")

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0
# A connection that died without a word is found out by asking.
CHECK_SECONDS = 15.0
GAP = "gap"
DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)

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
        self._closed = False

    def put(self, change: Change) -> None:
        """Hand over a change. The one that is too many is replaced by the end."""
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
        return change

    async def aclose(self) -> None:
        """Take no more changes."""
        self._closed = True


class Listener:
    """The one LISTEN connection of a process, connected again whenever it is lost.

    The engine's URL must lead to PostgreSQL itself: a pooler in transaction mode cannot listen.
    One connection is taken from it for as long as the listener runs.
    """

    def __init__(self, engine: AsyncEngine, *, queue_size: int = 1_000) -> None:
        self._engine = engine
        self._queue_size = queue_size
        self._subscriptions: dict[Topic, WeakSet[Subscription]] = {}
        self._task: asyncio.Task[None] | None = None
        self._connected = asyncio.Event()

    @property
    def connected(self) -> bool:
        return self._connected.is_set()

    async def start(self, seconds: float = 10.0) -> None:
        """Begin to listen. Returns once connected, or after some seconds while still trying."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(seconds):
                await self._connected.wait()
        except TimeoutError:
            log.warning("not_listening_yet")

    async def stop(self) -> None:
        """Give the connection back. Subscribers hear nothing more: end them first."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    def subscribe(self, owner_id: UUID, entity_type: str, scope_id: UUID) -> Subscription:
        """The changes of one owner's rows of a type in a scope.

        They are kept from this call on, not from the first step of the iteration: who subscribes,
        then reads, then iterates, misses nothing in between.
        """
        subscription = Subscription((owner_id, entity_type, scope_id), self._queue_size)
        self._subscriptions.setdefault(subscription.topic, WeakSet()).add(subscription)
        return subscription

    async def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        interrupted = False
        while True:
            try:
                async with self._listening() as lost:
                    if interrupted:
                        log.info("listening_again")
                        self._tell_all(Change(GAP))
                    interrupted = True
                    pause = FIRST_PAUSE_SECONDS
                    self._connected.set()
                    await lost
            except (
                asyncpg.PostgresError,
                asyncpg.InterfaceError,
                SQLAlchemyError,
                OSError,
            ) as error:
                log.warning("listening_failed", error=type(error).__name__)
            finally:
                self._connected.clear()
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[asyncio.Future[None]]:
        """A connection that listens; the future is done when it is lost."""
        async with self._engine.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            lost = asyncio.get_running_loop().create_future()

            def on_lost(_: object) -> None:
                if not lost.done():
                    lost.set_result(None)

            async def check() -> None:
                while True:
                    await asyncio.sleep(CHECK_SECONDS)
                    try:
                        await driver.execute("SELECT 1", timeout=CHECK_SECONDS)
                    except DRIVER_ERRORS:
                        on_lost(driver)

            driver.add_termination_listener(on_lost)
            await driver.add_listener(CHANNEL, self._on_notice)
            checking = asyncio.create_task(check())
            try:
                yield lost
            finally:
                checking.cancel()
                # It has listeners and may be broken: not for the pool.
                await connection.invalidate()

    def _on_notice(self, _driver: object, _pid: int, _channel: str, payload: str) -> None:
        try:
            notice = json.loads(payload)
            topic = (UUID(notice["o"]), str(notice["t"]), UUID(notice["s"]))
            operation = str(notice["op"])
            ids = tuple(UUID(identifier) for identifier in notice["ids"])
            if operation not in get_args(Operation):
                raise ValueError(operation)
        except (ValueError, TypeError, KeyError):
            log.warning("unreadable_notice")
            return
        self._tell(topic, Change(operation, ids))

    def _tell(self, topic: Topic, change: Change) -> None:
        subscribers = self._subscriptions.get(topic)
        if subscribers is None:
            return
        for subscriber in subscribers:
            subscriber.put(change)
        if not subscribers:
            del self._subscriptions[topic]

    def _tell_all(self, change: Change) -> None:
        for topic in list(self._subscriptions):
            self._tell(topic, change)
