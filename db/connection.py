"""A transaction on a connection of the pool, from its first statement to its end.

Statements go to the driver itself. BEGIN and its settings travel ahead of the first one, without a
trip of their own (see `db.pipeline`); the end is one simple-protocol message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import asyncpg
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine

from db.failures import DatabaseUnavailable
from db.lsn import NOWHERE, read_lsn
from db.pipeline import Ahead, Pipeline
from db.pool import check_in, check_in_now, check_out, is_pooled, throw_away

# InternalClientError: the server's good-bye to an idle connection is still unread
DRIVER_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
PROVEN = "proven"
ALONE = "BEGIN READ ONLY"
# A place behind the commit before it.
LOCATE = "SELECT pg_catalog.pg_current_wal_insert_lsn()::text"
# Fails unless it runs on a standby that has replayed so much.
REPLAYED = (
    "SELECT 1/coalesce(pg_catalog.pg_is_in_recovery()"
    " AND pg_catalog.pg_last_wal_replay_lsn()>={}::text::pg_lsn,false)::int"
)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Opening:
    """How a transaction begins."""

    begin: str | None
    """The BEGIN statement; None for a statement that is a transaction by itself."""
    names: tuple[str, ...]
    """Settings, for the transaction alone."""
    values: tuple[str, ...]
    replayed: str | None = None
    """What a standby must have replayed, or nothing is asked of it; None on a primary."""

    @property
    def ahead(self) -> Ahead:
        """As statements ahead of the first one."""
        settings = (_setting(self.names), self.values)
        opening = (settings,) if self.begin is None else ((self.begin, ()), settings)
        if self.replayed is None:
            return opening
        # In a transaction of its own: a snapshot from before the answer might lack what it says.
        proof = (REPLAYED.format("$1"), (self.replayed,))
        return ((ALONE, ()), proof, ("COMMIT", ()), *opening)

    @property
    def script(self) -> str:
        """As one message of the simple protocol, for connections that prepare nothing."""
        quoted = (value.replace("'", "''") for value in self.values)
        settings = (
            f"SELECT set_config('{name}','{value}',true)"
            for name, value in zip(self.names, quoted, strict=True)
        )
        proof: tuple[str, ...] = ()
        if self.replayed is not None:
            proof = (ALONE, REPLAYED.format(f"'{self.replayed}'"), "COMMIT")
        return ";".join([*proof, self.begin or ALONE, *settings])


@lru_cache
def _setting(names: tuple[str, ...]) -> str:
    calls = (f"set_config('{name}',${n},true)" for n, name in enumerate(names, 1))
    return f"SELECT {','.join(calls)}"


class OpenTransaction:
    """A transaction that begins with its first statement. `end` it exactly once."""

    def __init__(self, engine: AsyncEngine, opening: Opening) -> None:
        self._engine = engine
        self._dialect: Dialect = engine.dialect
        self._opening = opening
        self._alone = opening.begin is None
        self._fairy: Any = None
        self._driver: Any = None
        self._pipeline: Pipeline | None = None
        self._cancelling: asyncio.Task[None] | None = None
        self._settled = True
        self._sound = True
        self.used = False
        """Whether a statement was asked for."""
        self.begun = False
        """Whether a statement was answered."""
        self.lsn = NOWHERE
        """Where the commit stands in the WAL, or a place behind it; NOWHERE if it is not known."""

    @property
    def lost(self) -> bool:
        """Whether the connection is gone, and the transaction with it."""
        return self._driver is not None and bool(self._driver.is_closed())

    async def fetch(self, sql: str, arguments: Sequence[object]) -> Sequence[Any]:
        """Run a statement and fetch its records; the first one begins the transaction.

        A pooled connection may have died while it was idle. Until the first statement has been
        answered nothing is done that would last, so it is thrown away and the next one taken;
        only the failure of a new connection is the caller's problem. Of a standby any is: the
        caller has somebody else to ask.
        Raises DatabaseUnavailable, DBAPIError, TimeoutError.
        """
        self.used = True
        while True:
            if self._fairy is None:
                if self.begun:
                    raise DatabaseUnavailable("The connection was lost.")
                await self._check_out()
            replaceable = (
                not self.begun and PROVEN in self._fairy.info and self._opening.replayed is None
            )
            try:
                self._sound = False
                records = await self._run(sql, arguments)
                self._sound = True
            except TimeoutError:
                raise  # it is an OSError, but the connection is there
            except DRIVER_ERRORS as error:
                if await self._prepares_anew(error):
                    continue
                if not self._is_disconnect(error):
                    raise _translated(self._dialect, error) from error
                if not replaceable:
                    what = "connection was lost" if self.begun else "database does not answer"
                    raise DatabaseUnavailable(f"The {what}.") from error
                await self._give_back(sound=False)
                continue
            self.begun = True
            self._fairy.info[PROVEN] = True
            return records

    async def cancel_statement(self) -> None:
        """Ask the server to stop what it is running, by a connection that no pool needs to have."""
        if self._driver is None:
            return
        if self._cancelling is None and not self.lost:
            loop = asyncio.get_running_loop()
            self._cancelling = loop.create_task(self._driver._cancel(loop.create_future()))
        if self._cancelling is not None:
            await asyncio.wait({self._cancelling})

    def abandon(self) -> None:
        """Break the connection off, as nobody answers on it; whoever waits for that is told."""
        if self._driver is not None:
            self._driver.terminate()

    def leave(self) -> bool:
        """End a snapshot at once, if nothing stands in the way of giving its connection back."""
        if self._fairy is None:
            return True
        pipeline = self._pipeline
        if pipeline is None or not self._sound or self._cancelling is not None or self.lost:
            return False
        if not is_pooled(self._fairy):
            return False
        if not self._settled:
            pipeline.roll_back()
        check_in_now(self._fairy)
        self._fairy = self._driver = None
        return True

    async def end(self, ending: str, *, locate: bool = False) -> str | None:
        """Run the last statements and give the connection back; a broken one is thrown away.

        With `locate`, `lsn` tells after a commit where it stands. Returns PostgreSQL's answer, None
        when there was no connection to ask. Raises DBAPIError.
        """
        if self._fairy is None:
            return None
        if self._cancelling is not None:
            # a cancel request under way must not meet the next user of the connection
            await asyncio.wait({self._cancelling})
        try:
            if self.lost:
                return None
            if self._settled and not (self._pipeline is not None and self._pipeline.preparing):
                return ""
            if locate:
                return await self._commit(ending)
            return str(await self._driver.execute(ending))
        except DRIVER_ERRORS as error:
            if self._is_disconnect(error):
                return None
            raise _translated(self._dialect, error) from error
        finally:
            await self._give_back()

    async def _commit(self, ending: str) -> str | None:
        """Commit, and find out where that stands: in the same trip, if there is a pipeline.

        Whatever fails after the commit does not undo it.
        """
        if self._pipeline is None:
            status = str(await self._driver.execute(ending))
            with suppress(*DRIVER_ERRORS):
                self.lsn = read_lsn(await self._driver.fetchval(LOCATE))
            return status
        with self._pipeline.overhear() as heard:
            try:
                await self._driver.execute(f"{ending};{LOCATE}")
            except DRIVER_ERRORS:
                if heard.ending is None:
                    raise
        self.lsn = NOWHERE if heard.value is None else read_lsn(heard.value)
        return heard.ending

    async def _check_out(self) -> None:
        try:
            fairy = await check_out(self._engine)
        except PoolTimeoutError as error:
            raise DatabaseUnavailable("All database connections are busy.") from error
        except (*DRIVER_ERRORS, DBAPIError, self._dialect.loaded_dbapi.Error) as error:
            raise DatabaseUnavailable("The database does not answer.") from error
        self._fairy, self._driver = fairy, fairy.driver_connection
        self._pipeline = Pipeline.of(self._driver)

    async def _run(self, sql: str, arguments: Sequence[object]) -> Sequence[Any]:
        driver, pipeline = self._driver, self._pipeline
        records: Sequence[Any]
        if pipeline is None:
            if not self.begun:
                self._settled = False
                await driver.execute(self._opening.script)
            records = await driver.fetch(sql, *arguments)
            return records
        statement = await pipeline.prepare(sql)
        if self.begun:
            records = await statement.fetch(*arguments)
            return records
        self._settled = False
        await pipeline.put_ahead(self._opening.ahead)
        try:
            records = await statement.fetch(*arguments)
        finally:
            pipeline.take_back()
        self._settled = self._alone
        return records

    async def _prepares_anew(self, error: Exception) -> bool:
        """Whether the first statement only failed as it was prepared for an older schema."""
        if self._pipeline is None or not isinstance(error, asyncpg.InvalidCachedStatementError):
            return False
        self._pipeline.forget()
        if not self.begun:
            await self._driver.execute("ROLLBACK")
        return not self.begun

    def _is_disconnect(self, error: Exception) -> bool:
        """Whether the connection is gone: broken, ended by an administrator or by a shutdown."""
        if isinstance(error, asyncpg.PostgresError):
            return (error.sqlstate or "").startswith(("08", "57P"))
        return not isinstance(error, asyncpg.InterfaceError) or self.lost

    async def _give_back(self, *, sound: bool = True) -> None:
        fairy, self._fairy = self._fairy, None
        if sound and not self.lost:
            await check_in(fairy)
        else:
            throw_away(fairy)
        self._driver = None


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Await work to its end even when the caller is cancelled meanwhile; then let the cancel on."""
    task = asyncio.ensure_future(work)
    interrupted: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            interrupted = error
    if interrupted is not None:
        if not task.cancelled():
            task.exception()  # seen, so that asyncio does not complain
        raise interrupted
    return task.result()


def _translated(dialect: Dialect, error: Exception) -> BaseException:
    """A driver error as SQLAlchemy would have raised it."""
    dbapi: Any = dialect.loaded_dbapi
    kinds = dbapi._asyncpg_error_translate
    kind = next((kinds[base] for base in type(error).__mro__ if base in kinds), dbapi.Error)
    told = kind(str(error), error)
    told.__cause__ = error
    raised: BaseException = DBAPIError.instance(
        None, None, told, dbapi.Error, hide_parameters=True, dialect=dialect
    )
    return raised
