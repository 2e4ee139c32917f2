"""A primary, its hot standby, and servers that know of both."""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr

from db.embedded import EmbeddedServer
from db.migrate import upgrade
from server.app import create_app
from server.settings import Settings
from tests.edge.conftest import Served, serving
from tests.edge.whole import Someone, sign_up
from tests.processes import UNLIMITED
from tests.reading.conftest import tally as tally
from tests.replica.standby import Standby

TOKEN = "a token for the metrics"
LAG_SECONDS = 60.0
WAIT_SECONDS = 30


class Reader:
    """A served application, and where it reads."""

    def __init__(self, served: Served) -> None:
        self.served = served

    async def counts(self) -> dict[str, int]:
        """How many queries were answered from where."""
        text = await self._metrics()
        found = re.findall(r'^engram_reads_total\{from="(\w+)"\} (\d+)$', text, re.MULTILINE)
        return {where: int(count) for where, count in found}

    async def lag(self) -> float:
        """How old what the replica answers is, as metrics say."""
        found = re.search(
            r"^engram_replica_lag_seconds (\S+)$", await self._metrics(), re.MULTILINE
        )
        assert found is not None
        return float(found[1])

    async def _metrics(self) -> str:
        headers = {"authorization": f"Bearer {TOKEN}"}
        return (await self.served.client.get("/metrics", headers=headers)).text

    async def state(self) -> str:
        """What `/readyz` says of the replica; the server is ready in any case."""
        response = await self.served.client.get("/readyz")
        assert response.status_code == 200, response.text
        state: str = response.json()["replica"]
        return state

    async def until(self, state: str) -> None:
        """Wait for what `/readyz` says of the replica."""
        async with asyncio.timeout(WAIT_SECONDS):
            while await self.state() != state:  # noqa: ASYNC110  # another process's
                await asyncio.sleep(0.02)

    def as_(self, someone: Someone) -> Someone:
        """The same person, asking here."""
        return Someone(self.served, someone.token)

    async def where(self, someone: Someone) -> str:
        """Where the next query of a person is answered."""
        before = await self.counts()
        await self.as_(someone).ask("{ viewer { displayName } }")
        after = await self.counts()
        (where,) = (name for name in after if after[name] != before.get(name, 0))
        return where

    async def until_read(self, someone: Someone, where: str = "replica") -> None:
        """Wait until a person's queries are answered from somewhere."""
        async with asyncio.timeout(WAIT_SECONDS):
            while await self.where(someone) != where:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


MakeReader = Callable[..., AbstractAsyncContextManager[Reader]]


@pytest.fixture(scope="package")
def folder() -> Iterator[Path]:
    """A place that the servers' system user gets to."""
    folder = Path(tempfile.mkdtemp(prefix="engram-replica-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest_asyncio.fixture(scope="package")
async def primary(folder: Path) -> AsyncIterator[EmbeddedServer]:
    """A migrated primary of the package's own."""
    with await asyncio.to_thread(EmbeddedServer.start, folder / "primary", durable=False) as server:
        await upgrade(server.url())
        yield server


@pytest.fixture(scope="package")
def standby(primary: EmbeddedServer, folder: Path) -> Iterator[Standby]:
    """Its standby; who harms it puts it right again."""
    standby = Standby(primary, folder)
    yield standby
    standby.remove()


@pytest.fixture(scope="package")
def make_reader(primary: EmbeddedServer, standby: Standby) -> MakeReader:
    """`async with make_reader() as reader` serves with settings of its own."""

    @asynccontextmanager
    async def make(**changes: Any) -> AsyncIterator[Reader]:
        named: dict[str, Any] = {
            "database_url": SecretStr(primary.url()),
            "database_replica_url": SecretStr(standby.url),
            "database_replica_lag_seconds": LAG_SECONDS,
            "engram_environment": "production",
            "metrics_token": SecretStr(TOKEN),
            "background_work": False,
            **UNLIMITED,
        }
        settings = Settings(_env_file=None, **(named | changes))
        async with serving(create_app(settings)) as served:
            # All people of a test share the client, and none is to know what another has seen.
            served.client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
            yield Reader(served)

    return make


@pytest_asyncio.fixture(scope="package")
async def reader(make_reader: MakeReader) -> AsyncIterator[Reader]:
    """One server process."""
    async with make_reader() as reader:
        yield reader


@pytest_asyncio.fixture
async def anna(reader: Reader) -> Someone:
    """A new person, whose sign-up the standby knows, and the server that it does."""
    anna = await sign_up(reader.served)
    await reader.until("ok")
    await reader.until_read(anna)
    return anna
