"""What has changed, told to this process by PostgreSQL: one LISTEN connection for all subscribers.

A notice holds ids and no rows, as NOTIFY knows no rights: subscribers read again under their own.
Nothing is kept for a process that is not connected, so after an interruption subscribers are told
that there may be a gap. While nothing can be heard at all, behind a pooler or without a
connection, they are told so now and then, whenever something was written anywhere.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, get_args
from uuid import UUID, uuid4
from weakref import WeakSet

import asyncpg
import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from db.announcements import CHANNEL, Operation
from db.horizon import Horizon
from db.subscribers import GAP, Change, FellBehind, Subscription, Topic, Watch

__all__ = ["Change", "FellBehind", "Listener", "Subscription", "Watch"]

log = structlog.get_logger("engram.notifications")

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0
# A connection that died without a word, or that a pooler leaves without one, is found out by
# sending it something.
CHECK_SECONDS = 15.0
HEARD_SECONDS = 5.0
POLL_SECONDS = 1.0
FAILURES = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    SQLAlchemyError,
    OSError,
    TimeoutError,
)
PING = text("SELECT pg_notify(:channel, :payload)")
# Two that are alike have nothing written in between, in any database of the cluster.
SNAPSHOT = text("SELECT pg_current_snapshot()::text")


class Listener:
    """The one LISTEN connection of a process, connected again whenever it is lost.

    The engine's URL must lead to PostgreSQL itself, as a pooler in transaction mode cannot listen;
    one connection is taken from it for as long as the listener runs. Without one, or while nothing
    is heard on it, `reading` is asked every `poll_seconds` whether anything was written.
    """

    def __init__(
        self,
        engine: AsyncEngine | None,
        *,
        reading: AsyncEngine | None = None,
        poll_seconds: float = POLL_SECONDS,
        queue_size: int = 1_000,
    ) -> None:
        """At least one engine is needed: `reading` may be behind a pooler, `engine` not."""
        reading = reading or engine
        assert reading is not None
        self._engine = engine
        self._reading = reading
        self._poll_seconds = poll_seconds
        self._queue_size = queue_size
        self._horizon = Horizon(reading)
        self._subscriptions: dict[Topic, WeakSet[Subscription]] = {}
        self._watches: dict[UUID, WeakSet[Watch]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._connected = asyncio.Event()
        self._ping = ""
        self._heard = asyncio.Event()
        self.on_change: Callable[[UUID | None], None] = lambda owner_id: None
        """Told whose rows have changed, before anybody else; None if it may be anybody's."""

    @property
    def connected(self) -> bool:
        """Whether notices are heard."""
        return self._connected.is_set()

    async def start(self, seconds: float = 10.0) -> None:
        """Begin to listen. Returns once connected, or after some seconds while still trying."""
        if not self._tasks:
            self._tasks.add(asyncio.create_task(self._poll()))
            if self._engine is not None:
                self._tasks.add(asyncio.create_task(self._run(self._engine)))
        if self._engine is None:
            log.info("polling", seconds=self._poll_seconds)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._connected.wait()
        except TimeoutError:
            log.warning("not_listening_yet")

    async def stop(self) -> None:
        """Give the connection back. Subscribers hear nothing more: end them first."""
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._horizon.stop()

    def subscribe(self, owner_id: UUID, entity_type: str, scope_id: UUID) -> Subscription:
        """The changes of one owner's rows of a type in a scope.

        They are kept from this call on, not from the first step of the iteration: who subscribes,
        then reads, then iterates, misses nothing in between.
        """
        subscription = Subscription((owner_id, entity_type, scope_id), self._queue_size)
        self._subscriptions.setdefault(subscription.topic, WeakSet()).add(subscription)
        return subscription

    def watch(self, owner_id: UUID) -> Watch:
        """Be woken, from now on, when something of the owner's changes. Drop it to end it."""
        watch = Watch(owner_id)
        self._watches.setdefault(owner_id, WeakSet()).add(watch)
        return watch

    def wake_past(self, position: int, watch: Watch) -> None:
        """Wake a watch when what stands in the change feed at a position has settled."""
        self._horizon.wake_past(position, watch)

    async def _run(self, engine: AsyncEngine) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                async with self._listening(engine) as lost:
                    self._tell_all()
                    pause = FIRST_PAUSE_SECONDS
                    self._connected.set()
                    await lost
            except FAILURES as error:
                log.warning("listening_failed", error=type(error).__name__)
            finally:
                self._connected.clear()
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    @asynccontextmanager
    async def _listening(self, engine: AsyncEngine) -> AsyncIterator[asyncio.Future[None]]:
        """A connection that listens and hears; the future is done when it does no more.

        Raises one of FAILURES.
        """
        async with engine.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            lost = asyncio.get_running_loop().create_future()

            def on_lost(_: object) -> None:
                if not lost.done():
                    lost.set_result(None)

            async def check() -> None:
                while not lost.done():
                    await asyncio.sleep(CHECK_SECONDS)
                    try:
                        await self._hear_a_ping(engine)
                    except FAILURES:
                        on_lost(driver)
                    self._forget_gone()

            driver.add_termination_listener(on_lost)
            checking: asyncio.Task[None] | None = None
            try:
                await driver.add_listener(CHANNEL, self._on_notice)
                await self._hear_a_ping(engine)
                checking = asyncio.create_task(check())
                yield lost
            finally:
                if checking is not None:
                    checking.cancel()
                # It has listeners and may be broken: not for the pool.
                await connection.invalidate()

    async def _hear_a_ping(self, engine: AsyncEngine) -> None:
        """Send a notice over another connection, and hear it. Raises one of FAILURES."""
        self._heard.clear()
        self._ping = uuid4().hex
        async with asyncio.timeout(HEARD_SECONDS):
            async with engine.connect() as other:
                payload = json.dumps({"ping": self._ping})
                await other.execute(PING, {"channel": CHANNEL, "payload": payload})
            await self._heard.wait()

    async def _poll(self) -> None:
        """Tell of a gap whenever something was written and nothing can be heard."""
        seen: str | None = None
        while True:
            await asyncio.sleep(self._poll_seconds)
            if self.connected:
                seen = None
                continue
            try:
                async with (
                    asyncio.timeout(HEARD_SECONDS),
                    self._reading.connect() as connection,
                ):
                    snapshot = (await connection.execute(SNAPSHOT)).scalar_one()
            except FAILURES as error:
                log.warning("polling_failed", error=type(error).__name__)
                continue
            if snapshot != seen:
                seen = snapshot
                self._tell_all()

    def _on_notice(self, _driver: object, _pid: int, _channel: str, payload: str) -> None:
        try:
            notice = json.loads(payload)
            if "ping" in notice:
                if notice["ping"] == self._ping:
                    self._heard.set()
                return
            owner_id = UUID(notice["o"])
            change: Change | None = None
            if "t" in notice:
                topic = (owner_id, str(notice["t"]), UUID(notice["s"]))
                ids = tuple(UUID(identifier) for identifier in notice["ids"])
                change = Change(str(notice["op"]), ids)
                if change.operation not in get_args(Operation):
                    raise ValueError(change.operation)
        except (AttributeError, KeyError, TypeError, ValueError):
            log.warning("unreadable_notice")
            return
        self.on_change(owner_id)
        if change is not None:
            self._tell(topic, change)
        self._wake(owner_id)

    def _tell(self, topic: Topic, change: Change) -> None:
        subscribers = self._subscriptions.get(topic)
        if subscribers is None:
            return
        for subscriber in subscribers:
            subscriber.put(change)
        if not subscribers:
            del self._subscriptions[topic]

    def _wake(self, owner_id: UUID) -> None:
        for watch in self._watches.get(owner_id, ()):
            watch.wake()

    def _tell_all(self) -> None:
        """There may be a gap."""
        self.on_change(None)
        self._forget_gone()
        for topic in list(self._subscriptions):
            self._tell(topic, Change(GAP))
        for owner_id in list(self._watches):
            self._wake(owner_id)

    def _forget_gone(self) -> None:
        """Let go of what nobody is subscribed to."""
        for topic in [topic for topic, told in self._subscriptions.items() if not told]:
            del self._subscriptions[topic]
        for owner_id in [owner_id for owner_id, woken in self._watches.items() if not woken]:
            del self._watches[owner_id]
