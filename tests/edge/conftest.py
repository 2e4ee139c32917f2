"""The edge, served by a real uvicorn on a free port of this machine."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import pytest_asyncio
import uvicorn
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette

from db import tokens
from server.app import create_app
from server.connections import Forwarded
from server.settings import Settings
from tests.conftest import NewOwner
from tests.edge.manifest import DOCUMENTS
from tests.edge.schema import edge_schema
from tests.edge.whole import Someone, sign_up
from tests.processes import UNLIMITED

GRAPHQL = "application/graphql-response+json"
JSON = "application/json"


@dataclass(frozen=True)
class Login:
    """A log-in of a person nobody else uses."""

    owner_id: UUID
    id: UUID
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}


@dataclass
class Served:
    """An application that is being served."""

    app: Starlette
    port: int
    client: httpx.AsyncClient

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/graphql"

    @property
    def socket_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/graphql"

    async def post(self, query: str, headers: dict[str, str] | None = None) -> httpx.Response:
        """Ask as a modern client does."""
        return await self.client.post(
            "/graphql", json={"query": query}, headers={"accept": GRAPHQL} | (headers or {})
        )


@asynccontextmanager
async def serving(
    app: Starlette, *, proxies: str = "127.0.0.1", **options: Any
) -> AsyncIterator[Served]:
    """Serve an application until the block ends, behind proxies that are trusted."""
    config = uvicorn.Config(
        Forwarded(app, proxies),
        host="127.0.0.1",
        port=0,
        log_config=None,
        proxy_headers=False,
        timeout_graceful_shutdown=5,
        **options,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    while not server.started:
        if task.done():
            await task
            raise RuntimeError("The server did not start; the log says why.")
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield Served(app, port, client)
    finally:
        app.state.stopping.set()
        server.should_exit = True
        await task


MakeSettings = Callable[..., Settings]


@pytest.fixture(scope="session")
def make_settings(database_url: str) -> MakeSettings:
    """Settings of a public server on the worker's database; keywords change them."""

    def make(**changes: Any) -> Settings:
        named: dict[str, Any] = {
            "database_url": SecretStr(database_url),
            "engram_environment": "production",
            "introspection": True,
            "body_timeout_seconds": 2.0,
            "background_work": False,  # other tests' rows are not to be touched
            **UNLIMITED,
        }
        return Settings(_env_file=None, **(named | changes))

    return make


@pytest_asyncio.fixture(scope="session")
async def served(make_settings: MakeSettings) -> AsyncIterator[Served]:
    """The test schema, as a public server serves it."""
    async with serving(create_app(make_settings(), schema=edge_schema)) as served:
        yield served


@pytest_asyncio.fixture(scope="session")
async def developing(make_settings: MakeSettings) -> AsyncIterator[Served]:
    """The test schema, as a developer sees it, with batches on."""
    settings = make_settings(engram_environment="development", max_batch=8)
    async with serving(create_app(settings, schema=edge_schema)) as served:
        yield served


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of trusted documents."""
    path = tmp_path_factory.mktemp("manifest") / "documents.json"
    path.write_text(json.dumps(DOCUMENTS))
    return path


@pytest_asyncio.fixture(scope="session")
async def trusting(make_settings: MakeSettings, manifest: Path) -> AsyncIterator[Served]:
    """A server that knows the documents, and takes others as well."""
    settings = make_settings(trusted_documents=manifest, max_batch=8)
    async with serving(create_app(settings, schema=edge_schema)) as served:
        yield served


@pytest_asyncio.fixture(scope="session")
async def strict(make_settings: MakeSettings, manifest: Path) -> AsyncIterator[Served]:
    """A server that takes the documents and nothing else."""
    settings = make_settings(trusted_documents=manifest, trusted_documents_only=True, max_batch=8)
    async with serving(create_app(settings, schema=edge_schema)) as served:
        yield served


NewLogin = Callable[..., Awaitable[Login]]


@pytest.fixture
def new_login(new_owner: NewOwner, admin_engine: AsyncEngine) -> NewLogin:
    """`await new_login()` is the log-in of a new person; `of=owner_id` another of the same."""

    async def make(*, of: UUID | None = None, expires_in: float = 3600, key: bool = False) -> Login:
        owner_id = of or await new_owner()
        minted = tokens.mint(owner_id)
        values = {
            "owner_id": owner_id,
            "hash": minted.hash,
            "expires_at": datetime.now(UTC) + timedelta(seconds=expires_in),
        }
        statement = (
            "INSERT INTO api_keys (owner_id, key_hash, key_salt, expires_at, name, prefix, scopes)"
            " VALUES (:owner_id, :hash, :hash, :expires_at, 'key', 'eg_', '[\"read\"]')"
            " RETURNING id"
            if key
            else "INSERT INTO login_sessions (owner_id, token_hash, expires_at)"
            " VALUES (:owner_id, :hash, :expires_at) RETURNING id"
        )
        async with admin_engine.connect() as connection:
            identifier = (await connection.execute(text(statement), values)).scalar_one()
        return Login(owner_id, identifier, minted.token)

    return make


@pytest.fixture
def name() -> str:
    """A name that no other test counts under."""
    return uuid4().hex


@pytest_asyncio.fixture(scope="session")
async def whole(make_settings: MakeSettings) -> AsyncIterator[Served]:
    """Everything as in production, but for the schema that may be asked for.

    The provider of models is configured, and nobody is there.
    """
    settings = make_settings(llm_base_url="http://127.0.0.1:9/v1", llm_model="nobody")
    async with serving(create_app(settings)) as served:
        yield served


@pytest_asyncio.fixture(scope="session")
async def anna(whole: Served) -> Someone:
    return await sign_up(whole)


@pytest_asyncio.fixture(scope="session")
async def bert(whole: Served) -> Someone:
    return await sign_up(whole)
