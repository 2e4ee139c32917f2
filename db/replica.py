"""A hot standby that answers queries: whether it may be asked, and what it must have replayed.

One task looks at both servers, a few times a second, and sooner when somebody has written. What it
finds is a lower bound, as replaying only goes forward; the transaction of each query asks the
standby again, on the connection that it uses (`db.connection`). Nothing is asked before a query.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from time import monotonic
from typing import Any, Literal
from uuid import UUID

import asyncpg
import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from db.failures import DatabaseUnavailable, ReplicaFailed, StatementCancelled
from db.lsn import NOWHERE, UNREADABLE
from db.pool import ReadyPool
from db.security import RowSecurityError, verify_row_security
from db.session import Session, SessionOptions
from db.standby import NotAReplica, place, prove_standby, replayed

__all__ = ["Reason", "Replica", "State", "prove"]

log = structlog.get_logger("engram.replica")

LOOK_SECONDS = 0.25
"""How often both servers are looked at."""
SOON_SECONDS = 0.05
"""The same, while somebody has written of whom it is not known where."""
SILENT_SECONDS = 2.0
"""After which a server that does not answer a look is taken for gone."""
PROVE_SECONDS = 5.0
"""How often it is proven anew that one is a standby of the other."""
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0
SAMPLES = 50
"""Looks that are kept, to know how old what has been replayed is."""
NOT_REPLAYED = "22012"
"""PostgreSQL's name of how the proof fails that travels with a query: a division by zero."""
FAILURES = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    SQLAlchemyError,
    DatabaseUnavailable,
    StatementCancelled,
    OSError,
    TimeoutError,
)

State = Literal["ok", "behind", "away", "refused"]
Reason = Literal["away", "written", "behind", "busy"]
"""Why a query is for the primary: the replica is away or not to be used; has not replayed what its
owner wrote; is too far behind for anybody; or has more to do than it has connections."""


class Replica:
    """A standby and the primary that it follows."""

    def __init__(
        self,
        engine: AsyncEngine,
        looking: AsyncEngine,
        primary: AsyncEngine,
        options: SessionOptions,
        *,
        lag_seconds: float,
    ) -> None:
        """Queries use `engine`; `looking` and `primary` lead to both servers without a pool."""
        self.engine = engine
        self.lag_limit = lag_seconds
        self.reading: set[Session] = set()
        """The sessions that wait for the replica's answers."""
        self._looking = looking
        self._primary = primary
        self._options = options
        self._state: State = "away"
        self._task: asyncio.Task[None] | None = None
        self._look = asyncio.Event()
        self._judged = asyncio.Event()
        self._looked_at = 0.0
        self._replayed = NOWHERE
        # Whatever everybody's queries need: what was written longer ago than the limit, at least.
        self._needed = NOWHERE
        self._samples: deque[tuple[float, int]] = deque()
        self._written: OrderedDict[UUID, int] = OrderedDict()
        # Who has written of whom it is not known where: since the last look began, and before it.
        self._changed: set[UUID] = set()
        self._asked: set[UUID] = set()
        # Times that anybody may have written, ever and before the last look.
        self._gaps = 1
        self._gaps_seen = 0
        self._told = ""

    @property
    def state(self) -> State:
        """Whether it is used, or why not."""
        if self._state == "ok" and self._is_behind():
            return "behind"
        return self._state

    @property
    def lag_seconds(self) -> float | None:
        """How old the newest is that it has replayed, at most; None while it is not looked at."""
        if self._state != "ok":
            return None
        known = [at for at, lsn in self._samples if lsn <= self._replayed]
        return monotonic() - (known[-1] if known else self._samples[0][0])

    async def start(self, seconds: float = 2 * SILENT_SECONDS) -> None:
        """Begin to look. Returns when it is known whether the replica is used, or after a while."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._judged.wait()

    async def stop(self) -> None:
        """Look no more, and close all connections."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        for engine in (self.engine, self._looking, self._primary):
            await engine.dispose()

    def why_not(self, owner_id: UUID, lsn: int) -> Reason | None:
        """Why a query of an owner's, who has seen what stands before `lsn`, is not for it."""
        if self._state != "ok":
            return "away"
        if self._is_behind():
            return "behind"
        if (
            max(lsn, self._written.get(owner_id, NOWHERE)) > self._replayed
            or owner_id in self._changed
            or owner_id in self._asked
            or self._gaps != self._gaps_seen
        ):
            return "written"
        pool = self.engine.sync_engine.pool
        if isinstance(pool, ReadyPool) and pool.waiting >= pool.size():
            return "busy"
        return None

    def needed(self, owner_id: UUID, lsn: int) -> int:
        """What it must have replayed to answer such a query."""
        return max(lsn, self._needed, self._written.get(owner_id, NOWHERE))

    def wrote(self, owner_id: UUID, lsn: int) -> None:
        """Something of an owner's was committed, before a place in the WAL."""
        if lsn >= UNREADABLE or self._state != "ok":
            self.changed(owner_id)
        elif lsn > self._written.get(owner_id, NOWHERE):
            self._written[owner_id] = lsn
            self._written.move_to_end(owner_id)

    def changed(self, owner_id: UUID | None) -> None:
        """Something of an owner's was committed, or of anybody's: the next look tells where."""
        if owner_id is None or self._state != "ok":
            self._gaps += 1
        else:
            self._changed.add(owner_id)
        self._look.set()

    def failed(self, failure: ReplicaFailed) -> None:
        """It did not answer a query: look whether it is there before it is asked again."""
        if failure.lost:
            self._leave("away", "a query was not answered")
        elif failure.state == NOT_REPLAYED:
            # It has been started again, or another server answers for it.
            self._replayed = NOWHERE
        self._look.set()

    def _is_behind(self) -> bool:
        return self._needed > self._replayed or monotonic() - self._looked_at > self.lag_limit

    async def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            began = monotonic()
            try:
                async with self._connected() as (primary, standby):
                    await self._follow(primary, standby)
            except (NotAReplica, RowSecurityError) as error:
                self._leave("refused", str(error))
            except FAILURES as error:
                self._leave("away", type(error).__name__)
            for session in list(self.reading):
                session.abandon()
            self._judged.set()
            if monotonic() - began > LONGEST_PAUSE_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[Any, Any]]:
        """The driver's connections to the primary and to the replica. Raises one of FAILURES."""
        async with AsyncExitStack() as stack:
            drivers = []
            for engine in (self._primary, self._looking):
                async with asyncio.timeout(2 * SILENT_SECONDS):
                    connection = await stack.enter_async_context(engine.connect())
                    drivers.append((await connection.get_raw_connection()).driver_connection)
                # It may be broken, or silent: not to be closed in good order.
                stack.push_async_callback(connection.invalidate)
            yield drivers[0], drivers[1]

    async def _follow(self, primary: Any, standby: Any) -> None:
        """Look again and again, until something fails. Raises NotAReplica, RowSecurityError too."""
        proven_at: float | None = None
        while True:
            began = monotonic()
            self._look.clear()
            if proven_at is None:
                async with asyncio.timeout(2 * SILENT_SECONDS):
                    await verify_row_security(self._looking, self._options)
            async with asyncio.timeout(SILENT_SECONDS):
                if proven_at is None or began - proven_at > PROVE_SECONDS:
                    await prove_standby(primary, standby)
                    proven_at = began
                await self._look_at(primary, standby)
            self._judged.set()
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._look.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(max(0, began + SOON_SECONDS - monotonic()))

    async def _look_at(self, primary: Any, standby: Any) -> None:
        at = monotonic()
        self._asked, self._changed = self._changed, set()
        gaps = self._gaps
        lsn, found = await asyncio.gather(place(primary), replayed(standby))
        self._looked_at = at
        self._replayed = found
        if not self._samples or at - self._samples[-1][0] > self.lag_limit / SAMPLES:
            self._samples.append((at, lsn))
        while len(self._samples) > 1 and self._samples[1][0] <= at - self.lag_limit:
            self._samples.popleft()
        if self._samples[0][0] <= at - self.lag_limit:
            self._needed = max(self._needed, self._samples[0][1])
        if gaps != self._gaps_seen:
            self._needed = max(self._needed, lsn)
            self._gaps_seen = gaps
        for owner_id in self._asked:
            self._written[owner_id] = lsn
            self._written.move_to_end(owner_id)
        self._asked = set()
        while self._written and next(iter(self._written.values())) <= self._needed:
            self._written.popitem(last=False)
        if self._state != "ok":
            self._state, self._told = "ok", ""
            log.info("replica_followed", behind=self._is_behind())

    def _leave(self, state: State, reason: str) -> None:
        """Ask it nothing more until a look says otherwise."""
        if reason != self._told:
            self._told = reason
            log.warning("replica_not_used", reason=reason)
        self._state = state
        self._gaps += 1
        self._replayed = self._needed = NOWHERE
        self._samples.clear()
        self._written.clear()
        self._changed.clear()
        self._asked.clear()


async def prove(primary: AsyncEngine, looking: AsyncEngine, options: SessionOptions) -> None:
    """Whether the replica is one, and row-level security binds there.

    Raises NotAReplica, RowSecurityError, and one of FAILURES when it cannot be asked.
    """
    async with (
        asyncio.timeout(2 * SILENT_SECONDS),
        primary.connect() as one,
        looking.connect() as other,
    ):
        drivers = [(await c.get_raw_connection()).driver_connection for c in (one, other)]
        await prove_standby(drivers[0], drivers[1])
        await replayed(drivers[1])
        await verify_row_security(looking, options)
