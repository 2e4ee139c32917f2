"""Databases of their own, as exports and sweeping are about everybody in one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest_asyncio
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from db.embedded import EmbeddedServer
from db.engine import create_engine
from server.app import create_app
from server.settings import Settings
from tests.conftest import FreshDatabase
from tests.edge.conftest import Served, serving


@dataclass
class Place:
    """A database nobody else uses, and a server on it whose background work is done by hand."""

    url: str
    engine: AsyncEngine
    """The application's."""
    admin: AsyncEngine
    """The superuser's."""
    served: Served

    async def settled(self) -> None:
        """Wait until the change feed shows everything: other databases of the server are busy."""
        told = sa.text("SELECT coalesce(max(xid) < engram_feed_horizon(), true) FROM audit_events")
        async with asyncio.timeout(30), self.admin.connect() as connection:
            while not await connection.scalar(told):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@asynccontextmanager
async def placed(url: str, admin_url: str) -> AsyncIterator[Place]:
    """A server on a database, until the block ends."""
    settings = Settings(
        _env_file=None,
        database_url=SecretStr(url),
        engram_environment="production",
        background_work=False,
        rate_limit_sign_ups="off",
        rate_limit_log_ins="off",
    )
    engine, admin = create_engine(url, pool_size=5), create_engine(admin_url, pool_size=5)
    try:
        async with serving(create_app(settings)) as served:
            yield Place(url, engine, admin, served)
    finally:
        await engine.dispose()
        await admin.dispose()


@pytest_asyncio.fixture
async def place(fresh_database: FreshDatabase, server: EmbeddedServer) -> AsyncIterator[Place]:
    url = await fresh_database()
    async with placed(url, server.admin_url(str(make_url(url).database))) as found:
        yield found
