"""Whether the process is alive, and whether it can do its work, or why not."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from time import monotonic

import asyncpg
import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request
from starlette.responses import JSONResponse

from db.failures import DatabaseUnavailable, StatementCancelled
from db.migrate import current_revision, serves
from db.pool import ReadyPool
from db.replica import Replica
from db.security import RowSecurityError, verify_row_security
from db.session import SessionOptions

__all__ = ["Readiness", "alive"]

log = structlog.get_logger("engram.server")

READY_SECONDS = 3.0
KEPT_SECONDS = 0.5
"""How long an answer is given again: anybody may ask."""
PROVEN_SECONDS = 60.0
"""How long row-level security that was found to bind is not looked at again."""
HEADERS = {"cache-control": "no-store"}
ERRORS = (
    SQLAlchemyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    DatabaseUnavailable,
    StatementCancelled,
    OSError,
    TimeoutError,
)


async def alive(_: Request) -> JSONResponse:
    """The event loop turns; nothing else is asked."""
    return JSONResponse({"status": "ok"}, headers=HEADERS)


@dataclass(frozen=True)
class Found:
    """What a look at the database found, in words without secrets."""

    database: str = "unreachable"
    migrations: str = "unknown"
    row_security: str = "unknown"
    pool: str = "ok"

    @property
    def ready(self) -> bool:
        return self == READY


READY = Found("ok", "ok", "ok", "ok")


class Readiness:
    """Whether the process can do its work; why not, in words. The log has the particulars."""

    def __init__(
        self,
        engine: AsyncEngine,
        direct: AsyncEngine,
        options: SessionOptions,
        replica: Replica | None = None,
    ) -> None:
        """``direct`` is the way to the database while all connections of ``engine`` are busy."""
        self._replica = replica
        self._engine = engine
        self._direct = direct
        self._options = options
        self._looking = asyncio.Lock()
        self._found: tuple[float, Found] | None = None
        self._proven_at: float | None = None

    async def answer(self, _: Request) -> JSONResponse:
        """200 when it can, 503 when it cannot."""
        async with self._looking:
            if self._found is None or monotonic() - self._found[0] > KEPT_SECONDS:
                self._found = None
                found = await self._look()
                self._found = monotonic(), found
            found = self._found[1]
        status = "ok" if found.ready else "unavailable"
        told = {"status": status, **asdict(found)}
        if self._replica is not None:
            told["replica"] = self._replica.state  # the primary does its work as well
        return JSONResponse(told, 200 if found.ready else 503, HEADERS)

    async def _look(self) -> Found:
        pool = "ok"
        try:
            async with asyncio.timeout(READY_SECONDS), self._engine.connect() as connection:
                revision = await current_revision(connection)
        except (TimeoutError, PoolTimeoutError) as error:
            if not self._is_exhausted():
                return unreachable(error)
            pool = "exhausted"
            log.warning("not_ready", pool=pool)
            try:
                async with asyncio.timeout(READY_SECONDS), self._direct.connect() as connection:
                    revision = await current_revision(connection)
            except ERRORS as error:
                return unreachable(error, pool)
        except ERRORS as error:
            return unreachable(error)
        if not serves(revision):
            log.warning("not_ready", revision=revision)
            return Found("ok", "not at head", pool=pool)
        try:
            await self._prove()
        except RowSecurityError as error:
            log.error("not_ready", reason=str(error))
            return Found("ok", "ok", "not binding", pool)
        except ERRORS as error:
            return unreachable(error, pool)
        return Found("ok", "ok", "ok", pool)

    def _is_exhausted(self) -> bool:
        pool = self._engine.sync_engine.pool
        return isinstance(pool, ReadyPool) and pool.exhausted

    async def _prove(self) -> None:
        """Look whether row-level security binds, now and then. Raises RowSecurityError."""
        if self._proven_at is not None and monotonic() - self._proven_at < PROVEN_SECONDS:
            return
        self._proven_at = None
        async with asyncio.timeout(READY_SECONDS):
            await verify_row_security(self._direct, self._options)
        self._proven_at = monotonic()


def unreachable(error: Exception, pool: str = "ok") -> Found:
    log.warning("not_ready", error=type(error).__name__)
    return Found(pool=pool)
