"""Callers for the tests of accounts."""

import pytest
import pytest_asyncio

from schema.context import Services
from tests.accounts.callers import Account, Caller, new_account


@pytest.fixture
def anybody(services: Services) -> Caller:
    """Someone without a token."""
    return Caller(services)


@pytest_asyncio.fixture
async def account(anybody: Caller) -> Account:
    """Someone who has just signed up."""
    return await new_account(anybody)
