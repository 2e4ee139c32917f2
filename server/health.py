"""Whether the process is alive, and whether it can do its work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request
from starlette.responses import JSONResponse

from db.migrate import current_revision, serves

__all__ = ["alive", "readiness"]

log = structlog.get_logger("engram.server")

READY_SECONDS = 3.0
HEADERS = {"cache-control": "no-store"}
ERRORS = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)


async def alive(_: Request) -> JSONResponse:
    """The event loop turns; nothing else is asked."""
    return JSONResponse({"status": "ok"}, headers=HEADERS)


def readiness(engine: AsyncEngine) -> Callable[[Request], Awaitable[JSONResponse]]:
    """Whether the database answers and is migrated as far as this code needs."""

    async def ready(_: Request) -> JSONResponse:
        try:
            async with asyncio.timeout(READY_SECONDS), engine.connect() as connection:
                revision = await current_revision(connection)
        except ERRORS as error:
            log.warning("not_ready", error=type(error).__name__)
            return answer("unreachable", "unknown")
        return answer("ok", "ok" if serves(revision) else "not at head")

    return ready


def answer(database: str, migrations: str) -> JSONResponse:
    ready = database == migrations == "ok"
    return JSONResponse(
        {
            "status": "ok" if ready else "unavailable",
            "database": database,
            "migrations": migrations,
        },
        status_code=200 if ready else 503,
        headers=HEADERS,
    )
