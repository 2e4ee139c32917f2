"""A provider of models and a server that asks it, shared by the tests of replies."""

from __future__ import annotations

from collections.abc import AsyncIterator

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


@pytest_asyncio.fixture(scope="session")
async def replying(provider: FakeProvider, make_settings: MakeSettings) -> AsyncIterator[Served]:
    """A server with a provider, whose leases are short."""
    settings = make_settings(
        llm_base_url=provider.url,
        llm_api_key=SecretStr(KEY),
        llm_model="echo",
        llm_lease_seconds=2.0,
        llm_silence_seconds=1.0,
        shutdown_grace_seconds=1,
    )
    async with serving(create_app(settings)) as served:
        yield served


@pytest_asyncio.fixture
async def someone(replying: Served) -> Someone:
    """Someone nobody else knows."""
    return await sign_up(replying)
