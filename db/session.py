"""One operation's session: one connection, one snapshot, one statement at a time.

Resolvers run concurrently, a connection does not: a lock around execute-and-fetch puts their
statements in line. Nothing is opened before the first statement. BEGIN, the isolation level, the
timeouts, the application role and the owner for row-level security travel with it; its answer is
also the proof that the connection lives, so a broken one is replaced before anything has lasted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter
from typing import Any, Literal, Protocol
from uuid import UUID

from sqlalchemy import Executable, Row
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine

from db.announcements import Announcements, Operation
from db.connection import Opening, OpenTransaction, uninterrupted
from db.failures import (
    OF_PRIMARY,
    DatabaseUnavailable,
    ReplicaFailed,
    SessionClosed,
    StatementCancelled,
)
from db.lsn import NOWHERE, UNREADABLE, show_lsn
from db.meter import meter_of
from db.prepared import Prepared, PreparedSelect, prepare

Parameters = Mapping[str, object]
SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"


class Recorder(Protocol):
    """Told of every statement after it ran; of one that failed with None for its rows."""

    def __call__(self, sql: str, *, rows: int | None, milliseconds: float) -> None: ...


@dataclass(frozen=True)
class Author:
    """Who makes the changes of a session, for its audit events."""

    kind: Literal["user", "key", "worker"]
    id: UUID
    request_id: str


@dataclass(frozen=True)
class SessionOptions:
    """Limits of every transaction. `role` None: the URL's own role is the application role."""

    statement_timeout_ms: int = 10_000
    lock_timeout_ms: int = 5_000
    idle_timeout_ms: int = 30_000
    role: str | None = "engram_app"


class Transaction:
    """The write transaction of one mutation field."""

    def __init__(self) -> None:
        self.refused = False

    def refuse(self) -> None:
        """End in a rollback although no exception is on its way."""
        self.refused = True


class Session:
    """The statements of one operation, made for one owner. Close it, or use it in `async with`."""

    def __init__(
        self,
        engine: AsyncEngine,
        owner_id: UUID | None,
        options: SessionOptions = SessionOptions(),
        *,
        author: Author | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._engine = engine
        self._owner_id = owner_id
        self._options = options
        self._recorder = recorder
        self._meter = meter_of(engine)
        self._lock = asyncio.Lock()
        self._open: OpenTransaction | None = None
        self._writing = False
        self._running = False
        self._cancelled = False
        self._closed = False
        self._spent = False
        self._failure: DBAPIError | None = None
        self._replayed: str | None = None
        self._first: set[asyncio.Task[Any]] = set()
        self.announcements = Announcements()
        self.plans_once = False
        """Whether PostgreSQL is to plan prepared statements once, for any arguments.

        It does so by itself only where its estimates do not get worse, and they do for every LIMIT
        and every list of keys. For statements that walk an index anyhow planning costs more than
        running. Counts for the transactions that begin from now on.
        """
        self.author = author
        self.locates = False
        """Whether to find out where commits stand in the WAL."""
        self.lsn = NOWHERE
        """Where the last commit stands, or a place behind it; NOWHERE without one."""
        self.forsaken: ReplicaFailed | None = None
        """Why a replica did not answer what it was asked."""
        self.statements = 0
        self.rows = 0
        self.milliseconds = 0.0

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def owner_id(self) -> UUID | None:
        """Whose rows are seen. Settable while nothing is open: sign-up and log-in learn it late."""
        return self._owner_id

    @owner_id.setter
    def owner_id(self, owner_id: UUID | None) -> None:
        if self._open is not None:
            raise RuntimeError("The owner of an open transaction cannot change.")
        self._owner_id = owner_id

    @property
    def writing(self) -> bool:
        """Whether a write transaction is open."""
        return self._writing

    async def execute(
        self, statement: Executable, parameters: Parameters | None = None
    ) -> Sequence[Row[*tuple[Any, ...]]]:
        """Run a statement and fetch its rows; empty for statements without rows.

        Opens a read snapshot unless a transaction is open. Raises the errors of
        `sqlalchemy.exc`, DatabaseUnavailable and StatementCancelled.
        """
        ready = prepare(statement)
        return ready.rows(await self._fetch(ready, parameters or {}, SNAPSHOT))

    async def fetch(
        self, statement: PreparedSelect, parameters: Parameters, *, alone: bool = False
    ) -> Sequence[Any]:
        """Run a plan's select and fetch the driver's records.

        Opens a read snapshot as `execute` does, and raises what it raises. `alone` says that it is
        the operation's only statement: it is a snapshot by itself, and ends with its answer.
        """
        return await self._fetch(statement.prepared, parameters, None if alone else SNAPSHOT)

    async def scalar(self, statement: Executable, parameters: Parameters | None = None) -> Any:
        """The first column of the first row, or None."""
        rows = await self.execute(statement, parameters)
        return rows[0][0] if rows else None

    @asynccontextmanager
    async def transaction(
        self, *, statement_timeout_ms: int | None = None
    ) -> AsyncIterator[Transaction]:
        """A READ COMMITTED transaction: committed at the end, rolled back on an exception.

        An open snapshot ends first, so that later reads see what was written. Raises RuntimeError
        when one is open already.
        """
        async with self._lock:
            self._check_usable()
            if self._writing:
                raise RuntimeError("A transaction is open already.")
            await self._end("ROLLBACK")
            self._spent = False
            self._begin(WRITE, statement_timeout_ms)
            self._writing = True
        transaction = Transaction()
        try:
            yield transaction
        except BaseException:
            await uninterrupted(self._finish_transaction(commit=False))
            raise
        await uninterrupted(self._finish_transaction(commit=not transaction.refused))

    def read_from(self, engine: AsyncEngine, replayed: int | None = None) -> None:
        """Go on with another engine; nothing may be open.

        `replayed` says that it is a replica's, and up to where it must have replayed the WAL. It is
        asked for nothing but reads, and fails them with ReplicaFailed.
        """
        if self._open is not None:
            raise RuntimeError("The engine of an open transaction cannot change.")
        self._engine = engine
        self._meter = meter_of(engine)
        self.forsaken = None
        self._replayed = None if replayed is None else show_lsn(replayed)

    def abandon(self) -> None:
        """Wait no more for what is running: nobody answers."""
        if self._open is not None:
            self._open.abandon()

    def notify(
        self, entity_type: str, scope_id: UUID, ids: Sequence[UUID], operation: Operation
    ) -> None:
        """Tell listeners of changed rows, if and when the transaction commits."""
        if not self._writing:
            raise RuntimeError("Changes are announced inside a transaction.")
        self.announcements.add(entity_type, scope_id, ids, operation)

    def after(self, task: asyncio.Task[Any]) -> None:
        """Open nothing before a task is done: it waits for others, and a connection must not."""
        self._first.add(task)

    async def end_snapshot(self) -> None:
        """Give the connection back; the next statement opens a new snapshot."""
        if not self._leave():
            await uninterrupted(self._finish_snapshot())

    async def cancel(self) -> None:
        """Stop the running statement and refuse further ones: the client has gone.

        The statement fails with StatementCancelled in whoever awaits it. A write transaction is
        left alone.
        """
        if self._writing:
            return
        self._cancelled = True
        if self._running and self._open is not None:
            await self._open.cancel_statement()

    async def close(self) -> None:
        """End whatever is open and give the connection back. Safe to call again."""
        if self._closed and self._open is None:
            return
        self._closed = True
        if self._leave():
            return
        await uninterrupted(self._finish_snapshot(closing=True))

    def _leave(self) -> bool:
        """End a snapshot without waiting, where that can be."""
        if self._writing or self._lock.locked():
            return False
        if self._open is not None and not self._open.leave():
            return False
        self._open = self._failure = None
        self._spent = False
        return True

    # What follows runs under the lock.

    def _check_usable(self) -> None:
        if self._closed:
            raise SessionClosed("The session is closed.")
        if self._cancelled and not self._writing:
            raise StatementCancelled("The session was cancelled.")

    async def _fetch(
        self, statement: Prepared, parameters: Parameters, begin: str | None
    ) -> Sequence[Any]:
        async with self._lock:
            if self._open is None and self._first:
                await asyncio.wait(self._first)
            self._check_usable()
            if self._spent:
                raise RuntimeError("A statement that was to be alone was not.")
            if self._replayed is not None:
                if statement.of_primary and self.forsaken is None:
                    self.forsaken = ReplicaFailed(OF_PRIMARY)
                if self.forsaken is not None:
                    raise self.forsaken
            arguments = statement.arguments(self._owner_id, parameters)
            opened = self._open or self._begin(begin)
            # One that fails counts as well: what it began does not begin again for another.
            self._spent = begin is None
            records = await self._run(opened, statement.sql, arguments)
            if begin is None:
                await self._end("ROLLBACK")
        return records

    async def _run(
        self, opened: OpenTransaction, sql: str, arguments: Sequence[object]
    ) -> Sequence[Any]:
        """One statement: what it cost, and its failures in our terms."""
        rows: int | None = None
        self._running = True
        started = perf_counter()
        try:
            records = await opened.fetch(sql, arguments)
            rows = len(records)
        except DBAPIError as error:
            state = getattr(error.orig, "sqlstate", None)
            if state == "57014":
                raise StatementCancelled("The statement was stopped.") from error
            if self._replayed is not None:
                raise self._forsake(state) from error
            if state == "25P02" and self._failure is not None:
                raise self._failure from None  # not that the transaction is aborted, but why
            self._failure = error
            raise
        except TimeoutError as error:
            if self._replayed is not None:
                raise self._forsake(lost=True) from error
            raise StatementCancelled("The statement was stopped.") from error
        except DatabaseUnavailable as error:
            if self._replayed is not None:
                busy = isinstance(error.__cause__, PoolTimeoutError)
                raise self._forsake(lost=not busy) from error
            raise
        finally:
            self._running = False
            seconds = perf_counter() - started
            self.statements += 1
            self.rows += rows or 0
            self.milliseconds += seconds * 1000
            if self._meter is not None:
                self._meter.statement(seconds, rows)
            if self._recorder is not None:
                self._recorder(sql, rows=rows, milliseconds=seconds * 1000)
        return records

    def _forsake(self, state: str | None = None, *, lost: bool = False) -> ReplicaFailed:
        self.forsaken = ReplicaFailed(state, lost=lost)
        return self.forsaken

    def _begin(self, begin: str | None, statement_timeout_ms: int | None = None) -> OpenTransaction:
        """A transaction that begins with its first statement."""
        options = self._options
        timeout = (
            options.statement_timeout_ms if statement_timeout_ms is None else statement_timeout_ms
        )
        names, values = _settings(options, int(timeout), begin is None, self.plans_once)
        # made from the number, so that nothing but 32 hex digits can get here
        owner = "" if self._owner_id is None else str(UUID(int=self._owner_id.int))
        opening = Opening(begin, names, (*values, owner), self._replayed)
        self._open = OpenTransaction(self._engine, opening)
        return self._open

    async def _finish_snapshot(self, *, closing: bool = False) -> None:
        async with self._lock:
            if self._writing and not closing:
                raise RuntimeError("A transaction is open, not a snapshot.")
            self._writing = self._spent = False
            self.announcements = Announcements()
            await self._end("ROLLBACK")

    async def _finish_transaction(self, *, commit: bool) -> None:
        async with self._lock:
            if not self._writing:
                return  # closed underneath, which rolled back
            self._writing = False
            told, self.announcements = self.announcements, Announcements()
            if self._open is not None and not self._open.used:
                if not (commit and told):
                    self._open = None
                    return
                await self._run(self._open, "SELECT", ())
            if not commit:
                await self._end("ROLLBACK")
                return
            status = await self._end(f"{told.script(self._owner_id)}COMMIT", locate=self.locates)
            if status is None:
                raise DatabaseUnavailable("The connection was lost before the commit ended.")
            if status != "COMMIT":
                # PostgreSQL answers COMMIT of a failed transaction with ROLLBACK, and no error
                raise RuntimeError("A statement of the transaction had failed: rolled back.")

    async def _end(self, ending: str, *, locate: bool = False) -> str | None:
        """End what is open; None when nothing was, or when the connection was lost."""
        current, self._open, self._failure = self._open, None, None
        if current is None:
            return None
        status = await current.end(ending, locate=locate)
        if locate:
            self.lsn = max(self.lsn, current.lsn or UNREADABLE)
        return status


@lru_cache
def _settings(
    options: SessionOptions, timeout_ms: int, alone: bool, plans_once: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The settings of a transaction, the owner's last; and the values of the others."""
    settings = {
        **({"role": options.role} if options.role else {}),
        # what BEGIN says of a snapshot
        **({"transaction_read_only": "on"} if alone else {}),
        **({"plan_cache_mode": "force_generic_plan"} if plans_once else {}),
        "statement_timeout": str(timeout_ms),
        "lock_timeout": str(int(options.lock_timeout_ms)),
        "idle_in_transaction_session_timeout": str(int(options.idle_timeout_ms)),
    }
    return (*settings, "app.owner_id"), tuple(settings.values())
