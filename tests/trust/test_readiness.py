"""`/readyz` says why a process cannot do its work, on databases that go away and come back."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from db.embedded import EmbeddedServer
from db.engine import create_engine
from db.migrate import downgrade, upgrade
from server import health
from server.app import create_app
from tests.conftest import FreshDatabase
from tests.edge.conftest import MakeSettings

READY = {
    "status": "ok",
    "database": "ok",
    "migrations": "ok",
    "row_security": "ok",
    "pool": "ok",
}


@pytest.fixture(autouse=True)
def _looked_at_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "KEPT_SECONDS", -1.0)
    monkeypatch.setattr(health, "READY_SECONDS", 2.0)


@asynccontextmanager
async def asked(
    make_settings: MakeSettings, url: str, **pool: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, AsyncEngine]]:
    """An application that is running already, and its engine."""
    engine = create_engine(url, **pool)
    app = create_app(make_settings(database_url=SecretStr(url)), engine=engine)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://engram") as client:
        yield client, engine
    await engine.dispose()


async def told(client: httpx.AsyncClient) -> dict[str, str]:
    response = await client.get("/readyz", timeout=30)
    body: dict[str, str] = response.json()
    assert response.status_code == (200 if body["status"] == "ok" else 503)
    return body


@pytest.fixture
def own_server() -> Iterator[EmbeddedServer]:
    """A PostgreSQL that may be stopped; pytest's own directories are closed to its user."""
    folder = Path(tempfile.mkdtemp(prefix="engram-readiness-"))
    folder.chmod(0o755)
    server = EmbeddedServer.start(folder, durable=False)
    yield server
    server.stop()
    shutil.rmtree(folder)


async def test_a_database_that_goes_away_and_comes_back(
    make_settings: MakeSettings, own_server: EmbeddedServer
) -> None:
    await upgrade(own_server.url())
    async with asked(make_settings, own_server.url()) as (client, _):
        assert await told(client) == READY
        assert own_server.stop()
        gone = await told(client)
        assert gone == READY | {
            "status": "unavailable",
            "database": "unreachable",
            "migrations": "unknown",
            "row_security": "unknown",
        }
        own_server._join_or_start()
        assert await told(client) == READY


async def test_a_pool_that_is_exhausted(make_settings: MakeSettings, database_url: str) -> None:
    pool = {"pool_size": 1, "pool_timeout_seconds": 0.2}
    async with asked(make_settings, database_url, **pool) as (client, engine):
        assert await told(client) == READY
        async with engine.connect():
            assert await told(client) == READY | {"status": "unavailable", "pool": "exhausted"}
        assert await told(client) == READY


async def test_tables_that_are_behind(
    make_settings: MakeSettings, fresh_database: FreshDatabase
) -> None:
    url = await fresh_database()
    async with asked(make_settings, url) as (client, _):
        assert await told(client) == READY
        await downgrade(url, "-1")
        behind = READY | {
            "status": "unavailable",
            "migrations": "not at head",
            "row_security": "unknown",
        }
        assert await told(client) == behind
        await upgrade(url)
        assert await told(client) == READY


async def test_row_security_that_does_not_bind(
    make_settings: MakeSettings, fresh_database: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PROVEN_SECONDS", 0.0)
    url = await fresh_database()
    owner = create_engine(url)
    async with asked(make_settings, url) as (client, _):
        assert await told(client) == READY
        async with owner.connect() as connection:
            await connection.execute(text("ALTER TABLE tasks NO FORCE ROW LEVEL SECURITY"))
        assert await told(client) == READY | {
            "status": "unavailable",
            "row_security": "not binding",
        }
        async with owner.connect() as connection:
            await connection.execute(text("ALTER TABLE tasks FORCE ROW LEVEL SECURITY"))
        assert await told(client) == READY
    await owner.dispose()


async def test_who_asks_at_once_is_answered_by_one_look(
    make_settings: MakeSettings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "KEPT_SECONDS", 30.0)
    looks = 0
    look = health.Readiness._look

    async def counted(readiness: health.Readiness) -> health.Found:
        nonlocal looks
        looks += 1
        return await look(readiness)

    monkeypatch.setattr(health.Readiness, "_look", counted)
    async with asked(make_settings, database_url) as (client, _):
        answers = await asyncio.gather(*(told(client) for _ in range(20)))
    assert answers == [READY] * 20
    assert looks == 1
