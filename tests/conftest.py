"""The database under the tests: one embedded server per run, one clone per worker.

Tests share their worker's database and keep apart by owner: each makes its own person. Only tests
about a whole database ask for a fresh one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from db.connection import OpenTransaction
from db.embedded import EmbeddedServer
from db.engine import create_engine
from db.migrate import upgrade
from db.notifications import Listener
from db.session import Author, Recorder, Session, SessionOptions
from schema.context import Services
from server.passwords import Argon2Passwords
from server.replies import Replies
from server.replies.service import ReplyOptions
from tests.logged_secrets import logs_read
from tests.owned_statements import statements_read
from tests.people import Person
from tests.properties import pytest_terminal_summary as pytest_terminal_summary

TEMPLATE = "engram_template"


class OpenSession(Protocol):
    """Makes a session that is closed when the test ends."""

    def __call__(
        self,
        owner_id: UUID | None,
        *,
        engine: AsyncEngine | None = None,
        options: SessionOptions | None = None,
        recorder: Recorder | None = None,
    ) -> Session: ...


FreshDatabase = Callable[..., Awaitable[str]]
NewOwner = Callable[[], Awaitable[UUID]]
NewPerson = Callable[[], Awaitable[Person]]


@contextmanager
def _only_one(file: Path) -> Iterator[None]:
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@pytest_asyncio.fixture(scope="session")
async def server() -> AsyncIterator[EmbeddedServer]:
    """The embedded server of this run, shared by its workers; the last one cleans up."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", uuid4().hex)[:12]
    folder = Path(tempfile.gettempdir()) / f"engram-test-{run}"
    server = EmbeddedServer.start(folder, durable=False)
    try:
        with _only_one(folder / "template.lock"):
            migrated = folder / "migrated"
            if not migrated.exists():
                server.create_database(TEMPLATE)
                await upgrade(server.url(TEMPLATE))
                migrated.touch()
        yield server
    finally:
        if server.stop():
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def every_statement_names_its_owner() -> Iterator[None]:
    """Of what the application sends in any test; it fails after the last one."""
    with statements_read():
        yield


@pytest.fixture(scope="session", autouse=True)
def no_secret_is_logged() -> Iterator[None]:
    """Neither by the application nor by what it uses; it fails after the last test."""
    with logs_read():
        yield


@pytest.fixture(scope="session")
def database_url(server: EmbeddedServer) -> Iterator[str]:
    """This worker's migrated database, as the role that owns it: what a platform hands out."""
    name = f"engram_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
    server.create_database(name, template=TEMPLATE)
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture(scope="session")
def admin_url(server: EmbeddedServer, database_url: str) -> str:
    """The same database as superuser: row-level security does not bind."""
    return server.admin_url(f"engram_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}")


@pytest_asyncio.fixture(scope="session")
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """The application's engine: its sessions take the application role."""
    engine = create_engine(database_url, pool_size=10)
    yield engine
    await engine.dispose()


@pytest_asyncio.fixture(scope="session")
async def owner_engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """As the owner of the tables, each statement by itself; row-level security binds it too."""
    engine = create_engine(database_url, pool_size=5)
    yield engine
    await engine.dispose()


@pytest_asyncio.fixture(scope="session")
async def admin_engine(admin_url: str) -> AsyncIterator[AsyncEngine]:
    """As superuser, each statement by itself: to look at rows from outside."""
    engine = create_engine(admin_url, pool_size=5)
    yield engine
    await engine.dispose()


@pytest_asyncio.fixture
async def fresh_database(server: EmbeddedServer) -> AsyncIterator[FreshDatabase]:
    """`await fresh_database()` is the URL of a new migrated database, gone after the test.

    `migrated=False` gives one with no tables. `admin=True` gives the superuser's URL.
    """
    names = []

    async def fresh(*, migrated: bool = True, admin: bool = False) -> str:
        name = f"engram_fresh_{uuid4().hex[:12]}"
        server.create_database(name, template=TEMPLATE if migrated else None)
        names.append(name)
        return server.admin_url(name) if admin else server.url(name)

    yield fresh
    for name in names:
        server.drop_database(name)


@pytest.fixture
def new_owner(admin_engine: AsyncEngine) -> NewOwner:
    """`await new_owner()` stores a person nobody else uses and is their id."""

    async def make() -> UUID:
        async with admin_engine.connect() as connection:
            name = f"p{uuid4().hex}"
            result = await connection.execute(
                text(
                    "INSERT INTO users (username, email, password_hash)"
                    " VALUES (:name, :email, 'none') RETURNING id"
                ),
                {"name": name, "email": f"{name}@example.org"},
            )
            owner_id: UUID = result.scalar_one()
            return owner_id

    return make


@pytest_asyncio.fixture
async def open_session(engine: AsyncEngine) -> AsyncIterator[OpenSession]:
    """`open_session(owner_id)` is a session as one operation has it."""
    sessions = []
    default = engine

    def make(
        owner_id: UUID | None,
        *,
        engine: AsyncEngine | None = None,
        options: SessionOptions | None = None,
        recorder: Recorder | None = None,
    ) -> Session:
        author = Author("user", uuid4(), "test") if owner_id else None
        session = Session(
            engine or default,
            owner_id,
            options or SessionOptions(),
            author=author,
            recorder=recorder,
        )
        sessions.append(session)
        return session

    yield make
    for session in sessions:
        await session.close()


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The SQL that sessions send during the test; BEGIN and COMMIT are not listed."""
    sent: list[str] = []
    fetch = OpenTransaction.fetch

    async def record(
        transaction: OpenTransaction, sql: str, arguments: Sequence[object]
    ) -> Sequence[Any]:
        sent.append(sql)
        return await fetch(transaction, sql, arguments)

    monkeypatch.setattr(OpenTransaction, "fetch", record)
    return sent


@pytest.fixture(scope="session")
def passwords() -> Iterator[Argon2Passwords]:
    """Real hashes, as cheap as they get."""
    passwords = Argon2Passwords(time_cost=1, memory_kib=8_192)
    yield passwords
    passwords.close()


@pytest.fixture(scope="session")
def services(engine: AsyncEngine, passwords: Argon2Passwords) -> Services:
    """What the operations of a process share; what it asks of a model is stored, and not run."""
    options = ReplyOptions(base_url="http://127.0.0.1:9/v1", models=("nobody",))
    replies = Replies(engine, SessionOptions(), options, Listener(engine))
    return Services(engine=engine, passwords=passwords, replies=replies)


@pytest.fixture
def new_person(services: Services, admin_engine: AsyncEngine, new_owner: NewOwner) -> NewPerson:
    """`await new_person()` is someone with an account and a human worker, ready to ask."""

    async def make() -> Person:
        owner_id = await new_owner()
        async with admin_engine.connect() as connection:
            result = await connection.execute(
                text(
                    "INSERT INTO workers (owner_id, name, kind)"
                    " VALUES (:owner_id, 'Me', 'human') RETURNING id"
                ),
                {"owner_id": owner_id},
            )
            worker_id: UUID = result.scalar_one()
        return Person(owner_id, worker_id, services)

    return make


@pytest_asyncio.fixture
async def person(new_person: NewPerson) -> Person:
    """One person."""
    return await new_person()


@pytest_asyncio.fixture
async def listener(engine: AsyncEngine) -> AsyncIterator[Listener]:
    """The one listener of a process, connected."""
    listener = Listener(engine)
    await listener.start()
    yield listener
    await listener.stop()
