"""One operation's session: one connection, one snapshot, one statement at a time.

Resolvers run concurrently, a connection does not: a lock around execute-and-fetch puts their
statements in line. Nothing is opened before the first statement. BEGIN, the isolation level, the
timeouts, the application role and the owner for row-level security travel in one round trip; it is
also the proof that the connection lives, so a broken one is replaced before anything has run.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal, Protocol
from uuid import UUID

from sqlalchemy import Executable, Row, TextClause
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from db.connection import DatabaseUnavailable, OpenTransaction, uninterrupted
from db.prepared import PreparedSelect
from db.scope import current_owner, effective

__all__ = [
    "CHANNEL",
    "Author",
    "DatabaseUnavailable",
    "Operation",
    "Recorder",
    "Session",
    "SessionOptions",
    "StatementCancelled",
    "Transaction",
]

CHANNEL = "engram_changes"
IDS_PER_PAYLOAD = 200  # 35 bytes each; PostgreSQL refuses payloads of 8,000 bytes
Operation = Literal["insert", "update", "delete", "restore"]
Parameters = Mapping[str, object] | Sequence[Mapping[str, object]]
SNAPSHOT = "ISOLATION LEVEL REPEATABLE READ READ ONLY"
WRITE = "ISOLATION LEVEL READ COMMITTED READ WRITE"


class StatementCancelled(Exception):
    """A statement was stopped: it ran into its time limit, or the session was cancelled."""


class Recorder(Protocol):
    """Told of every statement after it ran."""

    def __call__(self, sql: str, *, rows: int, milliseconds: float) -> None: ...


class _Measured:
    """A statement that runs, and what it brought."""

    def __init__(self) -> None:
        self.sql = ""
        self.rows: Sequence[Any] = ()


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
        self._lock = asyncio.Lock()
        self._open: OpenTransaction | None = None
        self._writing = False
        self._running = False
        self._cancelled = False
        self._closed = False
        self._changes: dict[tuple[str, UUID, Operation], list[UUID]] = {}
        self.recorded = False
        """Whether the transaction has audit events, of which the change feed's readers are told."""
        self.author = author
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
        async with self._lock:
            self._check_usable()
            opened = self._open or await self._begin(SNAPSHOT)
            return await self._run(opened, statement, parameters)

    async def fetch(
        self, statement: PreparedSelect, parameters: Mapping[str, object]
    ) -> Sequence[Any]:
        """Run a prepared select on the driver itself and fetch its records.

        Opens a read snapshot as `execute` does, and raises what it raises.
        """
        async with self._lock:
            self._check_usable()
            opened = self._open or await self._begin(SNAPSHOT)
            sql, arguments = statement.bind(self._owner_id, parameters)
            with self._measured(opened) as measured:
                measured.sql = sql
                measured.rows = await opened.fetch(sql, arguments)
        return measured.rows

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
            await self._begin(WRITE, statement_timeout_ms)
            self._writing = True
        transaction = Transaction()
        try:
            yield transaction
        except BaseException:
            await uninterrupted(self._finish_transaction(commit=False))
            raise
        await uninterrupted(self._finish_transaction(commit=not transaction.refused))

    def notify(
        self, entity_type: str, scope_id: UUID, ids: Sequence[UUID], operation: Operation
    ) -> None:
        """Tell listeners of changed rows, if and when the transaction commits."""
        if not self._writing:
            raise RuntimeError("Changes are announced inside a transaction.")
        self._changes.setdefault((entity_type, scope_id, operation), []).extend(ids)

    async def end_snapshot(self) -> None:
        """Give the connection back; the next statement opens a new snapshot."""
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
        await uninterrupted(self._finish_snapshot(closing=True))

    # What follows runs under the lock.

    def _check_usable(self) -> None:
        if self._closed:
            raise RuntimeError("The session is closed.")
        if self._cancelled and not self._writing:
            raise StatementCancelled("The session was cancelled.")

    async def _run(
        self, opened: OpenTransaction, statement: Executable, parameters: Parameters | None
    ) -> Sequence[Row[*tuple[Any, ...]]]:
        statement = effective(statement)
        if isinstance(statement, TextClause) and "owner_id" in statement._bindparams:
            parameters = _with_owner(parameters, self._owner_id)
        token = current_owner.set(self._owner_id)
        try:
            with self._measured(opened) as measured:
                result = await opened.connection.execute(statement, parameters)
                measured.sql = result.context.statement
                measured.rows = result.all() if result.returns_rows else ()
        finally:
            current_owner.reset(token)
        return measured.rows

    @contextmanager
    def _measured(self, opened: OpenTransaction) -> Iterator[_Measured]:
        """One statement: what it cost, and its failures in our terms."""
        if opened.lost:
            # SQLAlchemy would silently continue on a new connection: outside of the transaction,
            # with the rights of the login role
            raise DatabaseUnavailable("The connection was lost.")
        measured = _Measured()
        self._running = True
        started = perf_counter()
        try:
            yield measured
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) == "57014":
                raise StatementCancelled("The statement was stopped.") from error
            if error.connection_invalidated:
                raise DatabaseUnavailable("The connection was lost.") from error
            raise
        except TimeoutError as error:
            raise StatementCancelled("The statement was stopped.") from error
        finally:
            self._running = False
            milliseconds = (perf_counter() - started) * 1000
            self.statements += 1
            self.milliseconds += milliseconds
        self.rows += len(measured.rows)
        if self._recorder is not None:
            self._recorder(measured.sql, rows=len(measured.rows), milliseconds=milliseconds)

    async def _begin(self, mode: str, statement_timeout_ms: int | None = None) -> OpenTransaction:
        self._open = await OpenTransaction.begin(
            self._engine, self._opening(mode, statement_timeout_ms)
        )
        return self._open

    def _opening(self, mode: str, statement_timeout_ms: int | None) -> str:
        options = self._options
        timeout = (
            options.statement_timeout_ms if statement_timeout_ms is None else statement_timeout_ms
        )
        settings = {
            "statement_timeout": int(timeout),
            "lock_timeout": int(options.lock_timeout_ms),
            "idle_in_transaction_session_timeout": int(options.idle_timeout_ms),
            # made from the number, so that nothing but 32 hex digits can get here
            "app.owner_id": "" if self._owner_id is None else UUID(int=self._owner_id.int),
        }
        role = f'SET LOCAL ROLE "{options.role}";' if options.role else ""
        return f"BEGIN {mode};{role}" + ";".join(
            f"SET LOCAL {name}='{value}'" for name, value in settings.items()
        )

    async def _finish_snapshot(self, *, closing: bool = False) -> None:
        async with self._lock:
            if self._writing and not closing:
                raise RuntimeError("A transaction is open, not a snapshot.")
            self._writing = False
            self._changes.clear()
            self.recorded = False
            await self._end("ROLLBACK")

    async def _finish_transaction(self, *, commit: bool) -> None:
        async with self._lock:
            if not self._writing:
                return  # closed underneath, which rolled back
            self._writing = False
            changes, self._changes = self._changes, {}
            recorded, self.recorded = self.recorded, False
            if not commit:
                await self._end("ROLLBACK")
                return
            announcements = "".join(
                f"SELECT pg_notify('{CHANNEL}','{payload}');"
                for payload in _payloads(self._owner_id, changes, recorded)
            )
            status = await self._end(f"{announcements}COMMIT")
            if status is None:
                raise DatabaseUnavailable("The connection was lost before the commit ended.")
            if status != "COMMIT":
                # PostgreSQL answers COMMIT of a failed transaction with ROLLBACK, and no error
                raise RuntimeError("A statement of the transaction had failed: rolled back.")

    async def _end(self, ending: str) -> str | None:
        """End what is open; None when nothing was, or when the connection was lost."""
        current, self._open = self._open, None
        return await current.end(ending) if current else None


def _with_owner(parameters: Parameters | None, owner_id: UUID | None) -> Parameters:
    if isinstance(parameters, Sequence):
        return [{"owner_id": owner_id, **row} for row in parameters]
    return {"owner_id": owner_id, **(parameters or {})}


def _payloads(
    owner_id: UUID | None,
    changes: Mapping[tuple[str, UUID, Operation], Sequence[UUID]],
    recorded: bool,
) -> list[str]:
    """NOTIFY payloads below PostgreSQL's limit. They hold ids only: NOTIFY knows no rights."""
    if owner_id and recorded and not changes:
        return [json.dumps({"o": owner_id.hex})]
    payloads = []
    for (entity_type, scope_id, operation), ids in changes.items():
        distinct = list(dict.fromkeys(identifier.hex for identifier in ids))
        for start in range(0, len(distinct), IDS_PER_PAYLOAD):
            payload = {
                "o": owner_id.hex if owner_id else "",
                "t": entity_type,
                "s": scope_id.hex,
                "op": operation,
                "ids": distinct[start : start + IDS_PER_PAYLOAD],
            }
            payloads.append(json.dumps(payload, separators=(",", ":")).replace("'", "''"))
    return payloads
