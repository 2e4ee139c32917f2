"""A provider of models and a server that asks it, shared by the tests of replies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr

from server.app import create_app
from tests.edge.conftest import MakeSettings, Served, serving
from tests.edge.conftest import make_settings as make_settings
from tests.edge.whole import Someone, sign_up
from tests.provider import KEY, FakeProvider, providing


@pytest_asyncio.fixture(scope="session")
async def provider() -> AsyncIterator[FakeProvider]:
    async with providing() as provider:
        yield provider


MakeReplying = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture(scope="session")
def make_replying(provider: FakeProvider, make_settings: MakeSettings) -> MakeReplying:
    """Makes servers with a provider; keywords change their settings."""

    @asynccontextmanager
    async def make(**changes: Any) -> AsyncIterator[Served]:
        named: dict[str, Any] = {
            "llm_base_url": provider.url,
            "llm_api_key": SecretStr(KEY),
            "llm_model": "echo",
            "llm_lease_seconds": 5.0,
            "shutdown_grace_seconds": 1,
        }
        async with serving(create_app(make_settings(**(named | changes)))) as served:
            yield served

    return make


@pytest_asyncio.fixture(scope="session")
async def replying(make_replying: MakeReplying) -> AsyncIterator[Served]:
    """A server with a provider."""
    async with make_replying() as served:
        yield served


@pytest_asyncio.fixture(scope="session")
async def impatient(make_replying: MakeReplying) -> AsyncIterator[Served]:
    """One that gives a silent provider up soon."""
    async with make_replying(llm_silence_seconds=0.7) as served:
        yield served


@pytest_asyncio.fixture
async def someone(replying: Served) -> Someone:
    """Someone nobody else knows."""
    return await sign_up(replying)
