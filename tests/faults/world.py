"""A server process, its durable database, the network in between, and those who write."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import httpx

from db.migrate import upgrade
from tests.faults.database import Database
from tests.faults.ledger import Found, Ledger, Writer
from tests.faults.proxy import Proxy
from tests.processes import Serving, free_port

POOL = 4
WRITERS = 6
WAIT_SECONDS = 60
"""For what must come sooner or later."""
OURS = "datname = 'engram' AND usename = 'engram_owner' AND backend_type = 'client backend'"
READ = "{ tasks(first: 1) { nodes { id } } }"


class World:
    """All of it; `database`, `proxy` and `serving` are there to be harmed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = Database(folder / "database")
        self.proxy = Proxy(self.database.server.socket)
        self.ledger = Ledger()
        self.port = free_port()
        self.serving: Serving
        self.writers: list[Writer] = []

    @property
    def settings(self) -> dict[str, str]:
        url = f"postgresql://engram_owner@127.0.0.1:{self.proxy.port}/engram?sslmode=disable"
        return {
            "DATABASE_URL": url,
            "DATABASE_POOL_SIZE": str(POOL),
            "DATABASE_POOL_TIMEOUT_SECONDS": "1",
            "PORT": str(self.port),
            "LOG_LEVEL": "error",
            "RATE_LIMIT_COST": "off",
        }

    async def serve(self) -> None:
        """Start the server process, at the same address as the last."""
        self.serving = await asyncio.to_thread(
            lambda: Serving(self.folder / "unused", **self.settings)
        )

    async def load(self) -> None:
        """Have people write from now on."""
        if not self.writers:
            url = self.serving.url
            self.writers = [Writer(url, self.ledger, seed) for seed in range(WRITERS)]
            await asyncio.gather(*(writer.sign_up() for writer in self.writers))
        for writer in self.writers:
            writer.start()

    async def rest(self) -> None:
        """Have all that was asked acknowledged, and nobody write any more."""
        async with asyncio.timeout(WAIT_SECONDS):
            await asyncio.gather(*(writer.finish() for writer in self.writers))

    async def acknowledged(self, more: int) -> None:
        """Wait until so many more writes were acknowledged."""
        wanted = self.ledger.acknowledged + more
        await self.until(lambda: self.ledger.acknowledged >= wanted)

    async def admin(self) -> asyncpg.Connection:
        """A connection of the superuser, past the proxy, as soon as there can be one."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                try:
                    return await asyncpg.connect(self.database.server.admin_url("engram"))
                except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    await asyncio.sleep(0.01)

    async def compare(self) -> Found:
        """The ledger against the rows."""
        admin = await self.admin()
        try:
            # requests of those who left may still be at work: one snapshot of it all
            async with admin.transaction(isolation="repeatable_read", readonly=True):
                return await self.ledger.compare(admin)
        finally:
            await admin.close()

    async def count(self, admin: asyncpg.Connection, condition: str) -> int:
        """How many connections of the server are so, as PostgreSQL sees them."""
        counted: int = await admin.fetchval(
            f"SELECT count(*) FROM pg_stat_activity WHERE {OURS} AND {condition}"
        )
        return counted

    async def prove_pool(self) -> None:
        """Every connection of the pool can be had, and none is in a transaction while idle.

        A lock keeps requests waiting in the database, so that as many are seen there as the pool
        has connections: a connection that was lost to the pool would be missing.
        """
        admin = await self.admin()
        headers = {"authorization": f"Bearer {self.writers[0].token}"}
        try:
            await self._until_none(admin, "(state <> 'idle' OR backend_xmin IS NOT NULL)")
            async with httpx.AsyncClient(base_url=self.serving.url, timeout=30) as client:

                async def read() -> None:
                    answer = await client.post("/graphql", json={"query": READ}, headers=headers)
                    assert "errors" not in answer.json(), answer.json()

                await read()  # who asks is known from here on
                async with admin.transaction(), asyncio.timeout(WAIT_SECONDS):
                    await admin.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
                    reading = [asyncio.create_task(read()) for _ in range(POOL)]
                    while await self.count(admin, "wait_event_type = 'Lock'") < POOL:
                        assert not any(task.done() for task in reading), reading
                        await asyncio.sleep(0.01)
                await asyncio.gather(*reading)
            # one listens; more would be connections that nobody gives back
            assert await self.count(admin, "query !~ 'pg_notify'") <= POOL + 2
        finally:
            await admin.close()

    async def until(self, come: Callable[[], bool]) -> None:
        """Wait for what must come."""
        limit = time.monotonic() + WAIT_SECONDS
        while not come():
            assert time.monotonic() < limit
            await asyncio.sleep(0.01)

    async def _until_none(self, admin: asyncpg.Connection, condition: str) -> None:
        limit = time.monotonic() + WAIT_SECONDS
        while await self.count(admin, condition):
            assert time.monotonic() < limit
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """End everything."""
        await asyncio.to_thread(self.serving.kill)
        await self.proxy.close()
        await asyncio.to_thread(self.database.stop)


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    """A world of its own, gone after the block. Another system user must get to the database."""
    folder = Path(tempfile.mkdtemp(prefix="engram-faults-"))
    folder.chmod(0o755)
    made = await asyncio.to_thread(World, folder)
    try:
        await upgrade(made.database.server.url())
        await made.proxy.open()
        await made.serve()
        yield made
    finally:
        await made.close()
        shutil.rmtree(folder, ignore_errors=True)
