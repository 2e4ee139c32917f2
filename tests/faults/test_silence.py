"""A database that says nothing any more: everything ends in bounded time, and nothing is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from db.embedded import EmbeddedServer
from db.engine import create_engine
from db.failures import DatabaseUnavailable, StatementCancelled
from db.session import Session
from tests.conftest import NewOwner
from tests.faults.proxy import Proxy

PATIENCE_SECONDS = 0.3
"""How long the driver waits for an answer."""
BOUND_SECONDS = 10
ENDINGS = (DatabaseUnavailable, StatementCancelled, asyncio.CancelledError)


@pytest_asyncio.fixture
async def proxy(server: EmbeddedServer) -> AsyncIterator[Proxy]:
    proxy = Proxy(server.socket)
    await proxy.open()
    yield proxy
    await proxy.close()


@pytest_asyncio.fixture
async def behind(proxy: Proxy, database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine with the proxy in between."""
    name = database_url.split("/")[3].partition("?")[0]
    engine = create_engine(
        f"postgresql://engram_owner@127.0.0.1:{proxy.port}/{name}"
        "?sslmode=disable&connect_timeout=1",
        pool_size=2,
        pool_timeout_seconds=1,
        command_timeout_seconds=PATIENCE_SECONDS,
    )
    yield engine
    await engine.dispose()


async def read(engine: AsyncEngine, owner: UUID, proxy: Proxy) -> None:
    async with Session(engine, owner) as session:
        proxy.silence()
        await session.execute(text("SELECT 1"))


async def read_on(engine: AsyncEngine, owner: UUID, proxy: Proxy) -> None:
    async with Session(engine, owner) as session:
        await session.execute(text("SELECT 1"))
        proxy.silence()
        await session.execute(text("SELECT 2"))


async def end(engine: AsyncEngine, owner: UUID, proxy: Proxy) -> None:
    async with Session(engine, owner) as session:
        await session.execute(text("SELECT 1"))
        proxy.silence()


async def commit(engine: AsyncEngine, owner: UUID, proxy: Proxy) -> None:
    async with Session(engine, owner) as session, session.transaction():
        await session.execute(text("SELECT 1"))
        proxy.silence()


async def leave(engine: AsyncEngine, owner: UUID, proxy: Proxy) -> None:
    """A client goes away while its statement runs, as `server.wire` tells the session."""
    async with Session(engine, owner) as session:
        await session.execute(text("SELECT 1"))
        reading = asyncio.create_task(session.execute(text("SELECT pg_sleep(5)")))
        await asyncio.sleep(0.05)
        proxy.silence()
        await session.cancel()
        await reading


async def interrupted(engine: AsyncEngine, owner: UUID, proxy: Proxy) -> None:
    async with Session(engine, owner) as session:
        await session.execute(text("SELECT 1"))
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_later(0.05, proxy.silence)
        asyncio.get_running_loop().call_later(0.06, task.cancel)
        await session.execute(text("SELECT pg_sleep(5)"))


@pytest.mark.parametrize("work", [read, read_on, end, commit, leave, interrupted])
@pytest.mark.parametrize("warm", [False, True])
async def test_silence_ends_in_bounded_time(
    behind: AsyncEngine, proxy: Proxy, new_owner: NewOwner, work: object, warm: bool
) -> None:
    owner = await new_owner()
    if warm:
        async with Session(behind, owner) as session:
            await session.execute(text("SELECT 1"))
    assert callable(work)
    working = [asyncio.create_task(work(behind, owner, proxy)) for _ in range(3)]
    done, pending = await asyncio.wait(working, timeout=BOUND_SECONDS)
    assert not pending
    for task in done:
        if not task.cancelled() and task.exception() is not None:
            assert isinstance(task.exception(), ENDINGS), task.exception()
    assert behind.pool.checkedout() == 0  # type: ignore[attr-defined]  # known at run time
    proxy.resume()
    proxy.reset()
    async with asyncio.timeout(BOUND_SECONDS), Session(behind, owner) as session:
        assert await session.scalar(text("SELECT 1")) == 1
