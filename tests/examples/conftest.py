"""What the tests of examples share: one server process, and an account for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.examples.running import Account, sign_up
from tests.processes import Serving, serving


@pytest.fixture(scope="session")
def served(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server as it runs in production, on the database of this run's worker."""
    data: Path = tmp_path_factory.mktemp("served")
    with serving(data, DATABASE_URL=database_url, LOG_LEVEL="warning") as served:
        yield served


@pytest_asyncio.fixture
async def account(served: Serving) -> Account:
    """A new account at that server."""
    return await sign_up(served)
