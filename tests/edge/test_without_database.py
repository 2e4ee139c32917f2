"""What the edge says while the database is away."""

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from pydantic import SecretStr
from structlog.testing import capture_logs

from db import tokens
from db.engine import create_engine
from db.failures import DatabaseUnavailable
from server.app import create_app
from tests.conftest import FreshDatabase, NewOwner
from tests.edge.conftest import MakeSettings
from tests.edge.schema import edge_schema

NOWHERE = SecretStr("postgresql://nobody@127.0.0.1:1/nothing")


@pytest_asyncio.fixture
async def alone(make_settings: MakeSettings) -> AsyncIterator[httpx.AsyncClient]:
    """The application as it is after its database went away: it is running already."""
    app = create_app(make_settings(database_url=NOWHERE), schema=edge_schema)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://engram") as client:
        yield client


async def test_it_is_alive_but_not_ready(alone: httpx.AsyncClient) -> None:
    assert (await alone.get("/healthz")).status_code == 200
    ready = await alone.get("/readyz")
    assert ready.status_code == 503
    assert ready.json() == {
        "status": "unavailable",
        "database": "unreachable",
        "migrations": "unknown",
        "row_security": "unknown",
        "pool": "ok",
    }


async def test_what_needs_no_database_is_answered(alone: httpx.AsyncClient) -> None:
    answer = await alone.post("/graphql", json={"query": "{ hello }"})
    assert answer.json() == {"data": {"hello": "Hello, world!"}}


async def test_what_needs_one_is_told_in_one_line(alone: httpx.AsyncClient) -> None:
    with capture_logs() as logs:
        answer = await alone.post("/graphql", json={"query": "{ hello statements }"})
    assert answer.status_code == 200
    [error] = answer.json()["errors"]
    assert error["message"] == "The database is not available."
    assert error["extensions"]["code"] == "INTERNAL_SERVER_ERROR"
    assert [line["event"] for line in logs if line["log_level"] != "info"] == ["operation_stopped"]


async def test_a_token_that_cannot_be_looked_up_is_not_called_wrong(
    alone: httpx.AsyncClient, new_owner: NewOwner
) -> None:
    token = tokens.mint(await new_owner()).token
    headers = {"authorization": f"Bearer {token}"}
    answer = await alone.post("/graphql", json={"query": "{ hello }"}, headers=headers)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    [error] = answer.json()["errors"]
    assert error["message"] == "The database is not available."


async def test_it_does_not_start_without_one(make_settings: MakeSettings) -> None:
    app = create_app(make_settings(database_url=NOWHERE), schema=edge_schema)
    with pytest.raises(DatabaseUnavailable):
        async with app.router.lifespan_context(app):
            pass


async def test_a_database_that_is_behind_is_not_ready(
    make_settings: MakeSettings, fresh_database: FreshDatabase
) -> None:
    url = await fresh_database(migrated=False)
    engine = create_engine(url)
    app = create_app(make_settings(), schema=edge_schema, engine=engine)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://engram") as client:
        ready = await client.get("/readyz")
    await engine.dispose()
    assert ready.status_code == 503
    assert ready.json() == {
        "status": "unavailable",
        "database": "ok",
        "migrations": "not at head",
        "row_security": "unknown",
        "pool": "ok",
    }
