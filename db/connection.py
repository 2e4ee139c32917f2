"""One connection of the pool, from the BEGIN of a transaction to its end.

These trips go to the driver itself: BEGIN with its settings, the end, and a cancel request are each
one simple-protocol message, which SQLAlchemy's adapter would not send as one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import asyncpg
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

# InternalClientError: the server's good-bye to an idle connection is still unread
DRIVER_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
T = TypeVar("T")


class DatabaseUnavailable(Exception):
    """No connection could be had or kept: the server is away, or all connections are busy."""


class OpenTransaction:
    """A connection in a transaction. Made by `begin`; `end` it exactly once."""

    def __init__(self, connection: AsyncConnection, driver: Any) -> None:
        self.connection = connection
        self._driver = driver
        self._cancelling: asyncio.Task[None] | None = None

    @classmethod
    async def begin(cls, engine: AsyncEngine, opening: str) -> OpenTransaction:
        """Check a connection out and open a transaction on it.

        A pooled connection may have died while it was idle. Nothing has run yet, so it is thrown
        away and the next one taken; only the failure of a new connection is the caller's problem.
        Raises DatabaseUnavailable, DBAPIError.
        """
        while True:
            try:
                connection = await engine.connect()
            except PoolTimeoutError as error:
                raise DatabaseUnavailable("All database connections are busy.") from error
            except (OSError, DBAPIError) as error:
                raise DatabaseUnavailable("The database does not answer.") from error
            proven = False
            try:
                fairy = await connection.get_raw_connection()
                proven = "proven" in fairy.info
                driver: Any = fairy.driver_connection
                await driver.execute(opening)
                fairy.info["proven"] = True
            except DRIVER_ERRORS as error:
                await uninterrupted(_discard(connection))
                if not _is_disconnect(error):
                    raise _translated(engine.dialect, error) from error
                if not proven:
                    raise DatabaseUnavailable("The database does not answer.") from error
            except BaseException:
                await uninterrupted(_discard(connection))
                raise
            else:
                return cls(connection, driver)

    @property
    def lost(self) -> bool:
        """Whether the connection is gone, and the transaction with it."""
        return self.connection.invalidated or bool(self._driver.is_closed())

    async def fetch(self, sql: str, arguments: Sequence[object]) -> Sequence[Any]:
        """Run a statement on the driver itself; asyncpg prepares it once and keeps it.

        Raises DBAPIError.
        """
        try:
            records: Sequence[Any] = await self._driver.fetch(sql, *arguments)
        except DRIVER_ERRORS as error:
            raise _translated(self.connection.dialect, error) from error
        return records

    async def cancel_statement(self) -> None:
        """Ask the server to stop what it is running, by a connection that no pool needs to have."""
        if self._cancelling is None and not self.lost:
            loop = asyncio.get_running_loop()
            self._cancelling = loop.create_task(self._driver._cancel(loop.create_future()))
        if self._cancelling is not None:
            await asyncio.wait({self._cancelling})

    async def end(self, ending: str) -> str | None:
        """Run the last statements and give the connection back; a broken one is thrown away.

        Returns PostgreSQL's answer, None when there was no connection to ask. Raises DBAPIError.
        """
        if self._cancelling is not None:
            # a cancel request under way must not meet the next user of the connection
            await asyncio.wait({self._cancelling})
        try:
            if self.lost:
                return None
            return str(await self._driver.execute(ending))
        except DRIVER_ERRORS as error:
            if _is_disconnect(error):
                await self.connection.invalidate()
                return None
            raise _translated(self.connection.dialect, error) from error
        finally:
            await self.connection.close()


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


async def _discard(connection: AsyncConnection) -> None:
    await connection.invalidate()
    await connection.close()


def _is_disconnect(error: Exception) -> bool:
    """Whether the connection is gone: broken, ended by an administrator or by a shutdown."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return state.startswith(("08", "57P"))
    return True


def _translated(dialect: Dialect, error: Exception) -> BaseException:
    """A driver error met outside SQLAlchemy, as SQLAlchemy would have raised it."""
    dbapi: Any = dialect.loaded_dbapi
    kinds = dbapi._asyncpg_error_translate
    kind = next((kinds[base] for base in type(error).__mro__ if base in kinds), dbapi.Error)
    raised: BaseException = DBAPIError.instance(
        None, None, kind(str(error), error), dbapi.Error, hide_parameters=True, dialect=dialect
    )
    return raised
