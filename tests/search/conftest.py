"""A database of their own for tests of searches: embedding models are everybody's in one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from db.embedded import EmbeddedServer
from db.engine import create_engine
from db.session import SessionOptions
from schema.context import Services
from server.embedding import EmbeddingOptions, Embeddings
from tests.conftest import FreshDatabase
from tests.people import Person
from tests.search.provider import KEY, FakeEmbeddings, embedding

MODEL = "bag-64"
PATIENT = SessionOptions(statement_timeout_ms=60_000, lock_timeout_ms=30_000)


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[FakeEmbeddings]:
    """A provider that answers."""
    async with embedding() as provider:
        yield provider


@dataclass
class Place:
    """A database with processes that embed, and people in it."""

    url: str
    engine: AsyncEngine
    admin: AsyncEngine
    provider: FakeEmbeddings
    options: EmbeddingOptions
    opened: list[Embeddings]

    def embeddings(self, **changed: Any) -> Embeddings:
        """What a process has of embeddings; not open yet."""
        made = Embeddings(self.engine, PATIENT, replace(self.options, **changed))
        self.opened.append(made)
        return made

    def open(self, **changed: Any) -> Embeddings:
        """A process that embeds."""
        made = self.embeddings(**changed)
        made.open()
        return made

    async def person(self, embeddings: Embeddings | None = None) -> Person:
        """Somebody new, who asks a process that can embed queries."""
        name = f"p{uuid4().hex}"
        async with self.admin.connect() as connection:
            result = await connection.execute(
                text(
                    "INSERT INTO users (username, email, password_hash)"
                    " VALUES (:name, :email, 'none') RETURNING id"
                ),
                {"name": name, "email": f"{name}@example.org"},
            )
            owner_id: UUID = result.scalar_one()
        services = Services(
            self.engine,
            None,  # type: ignore[arg-type]  # nobody logs in here
            embeddings=embeddings or self.embeddings(),
            options=PATIENT,
        )
        return Person(owner_id, owner_id, services)

    async def rows(self, sql: str, **parameters: object) -> list[tuple[Any, ...]]:
        """What a superuser reads."""
        async with self.admin.connect() as connection:
            return [tuple(row) for row in await connection.execute(text(sql), parameters)]

    async def run(self, sql: str, **parameters: object) -> None:
        """What a superuser does."""
        async with self.admin.connect() as connection:
            await connection.execute(text(sql), parameters)


@pytest_asyncio.fixture
async def place(
    server: EmbeddedServer, fresh_database: FreshDatabase, provider: FakeEmbeddings
) -> AsyncIterator[Place]:
    """A fresh database and a provider."""
    url = await fresh_database()
    engine = create_engine(url, pool_size=10)
    admin = create_engine(server.admin_url(urlsplit(url).path.strip("/")), pool_size=3)
    options = EmbeddingOptions(
        base_url=provider.url,
        api_key=KEY,
        model=MODEL,
        timeout_seconds=10,
        query_timeout_seconds=5,
        poll_seconds=0.05,
        batch=8,
    )
    place = Place(url, engine, admin, provider, options, [])
    yield place
    for embeddings in place.opened:
        await embeddings.close()
    await engine.dispose()
    await admin.dispose()


async def until(condition: Callable[[], Awaitable[object]], seconds: float = 20.0) -> None:
    """Returns when the condition holds; fails the test when it never does."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - the condition is anything
            await asyncio.sleep(0.02)
