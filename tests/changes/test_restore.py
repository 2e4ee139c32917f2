"""A database that was restored: its feed goes on, or says that it has lost its place."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
import pytest_asyncio
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from db.changes import insert
from db.engine import create_engine
from db.feed_origin import is_settled
from db.migrate import upgrade
from db.models.work import Project
from db.session import Author, Session
from schema.context import Services
from tests.changes.feed import PAGE, codes, page, settled
from tests.conftest import FreshDatabase
from tests.people import Person
from tests.processes import run

PROJECTS = Project.__table__
FAR = 10**12
"""Transactions that the other server had counted."""
# What a dump brings along: rows with that server's positions, functions that name it.
RESTORE = f"""
    UPDATE audit_events SET xid = (xid::text::bigint + {FAR})::text::xid8;
    CREATE OR REPLACE FUNCTION engram_feed_origin() RETURNS text LANGUAGE sql IMMUTABLE
    RETURN 'another server';
"""
SIGN_UP = """
    INSERT INTO users (username, email, password_hash) VALUES ('restored', 'r@example.org', 'none')
    RETURNING id
"""


class Restored:
    """A person in a database that comes from elsewhere."""

    def __init__(self, url: str, engine: AsyncEngine, admin: AsyncEngine, person: Person) -> None:
        self.url, self.engine, self.admin, self.person = url, engine, admin, person

    async def write(self, key: str) -> None:
        owner = self.person.owner_id
        author = Author("user", owner, "test")
        async with Session(self.engine, owner, author=author) as session, session.transaction():
            await insert(session, PROJECTS, [{"key": key, "name": key, "next_number": 1}])

    async def execute(self, sql: str) -> None:
        async with self.admin.connect() as connection:
            for statement in sql.split(";\n"):
                if statement.strip():
                    await connection.execute(sa.text(statement))


@pytest_asyncio.fixture
async def restored(
    fresh_database: FreshDatabase, services: Services, admin_url: str
) -> AsyncIterator[Restored]:
    """Three events, of which one was written elsewhere before a cursor was given out."""
    url = await fresh_database()
    name = sa.engine.make_url(url).database
    admin = create_engine(
        sa.engine.make_url(admin_url).set(database=name).render_as_string(hide_password=False)
    )
    engine = create_engine(url, pool_size=3)
    async with admin.connect() as connection:
        owner = UUID(int=(await connection.scalar(sa.text(SIGN_UP))).int)
    person = Person(owner, owner, replace(services, engine=engine))
    yield Restored(url, engine, admin, person)
    await engine.dispose()
    await admin.dispose()


async def test_the_feed_of_a_restored_database_goes_on(restored: Restored, tmp_path: Path) -> None:
    person = restored.person
    await restored.write("ONE")
    await restored.write("TWO")
    await restored.execute(RESTORE)
    async with restored.engine.connect() as connection:
        assert not await is_settled(connection)
    refused = await asyncio.to_thread(run, tmp_path, "serve", DATABASE_URL=restored.url)
    assert refused.returncode != 0
    assert "brought here from another PostgreSQL server" in refused.stderr
    # As it is, the feed would hide what was there, and put what comes before it.
    assert (await page(person))["nodes"] == []
    await upgrade(restored.url)
    async with restored.engine.connect() as connection:
        assert await is_settled(connection)
    await settled(person)
    first, second = (await page(person))["nodes"]
    await restored.write("THREE")
    await settled(person)
    # A cursor from before the dump is as good as it was.
    [third] = (await page(person, after=second["cursor"]))["nodes"]
    assert (await page(person, after=first["cursor"]))["nodes"] == [second, third]
    # Nothing is left open that was opened for it.
    sql = sa.text("SELECT relname FROM pg_class WHERE relrowsecurity AND NOT relforcerowsecurity")
    async with restored.admin.connect() as connection:
        assert (await connection.execute(sql)).all() == []


async def test_a_cursor_that_is_younger_than_the_backup_is_refused(restored: Restored) -> None:
    """What came after it was lost; others may stand in its place."""
    person = restored.person
    await restored.write("ONE")
    await restored.write("LOST")
    await settled(person)
    _, lost = (await page(person))["nodes"]
    await restored.execute("DELETE FROM audit_events WHERE after ->> 'key' = 'LOST'")
    await restored.execute("DELETE FROM projects WHERE key = 'LOST'")
    await restored.write("TWO")
    await settled(person)
    answer = await person.execute(PAGE, after=lost["cursor"])
    assert codes(answer["errors"]) == ["BAD_CURSOR"]


async def test_a_feed_that_was_swept_goes_on_behind_what_is_gone(restored: Restored) -> None:
    person = restored.person
    await restored.write("ONE")
    await restored.execute(RESTORE)
    await restored.execute(
        "INSERT INTO swept_events (owner_id, xid, event_id)"
        " SELECT owner_id, xid, id FROM audit_events;\nDELETE FROM audit_events"
    )
    await upgrade(restored.url)
    end = (await page(person))["latestCursor"]
    await restored.write("TWO")
    await settled(person)
    assert len((await page(person, after=end))["nodes"]) == 1


@pytest.mark.parametrize("counted", [0, 1])
async def test_a_server_that_has_counted_more_needs_no_offset(
    restored: Restored, counted: int
) -> None:
    for _ in range(counted):
        await restored.write("ONE")
    await restored.execute(RESTORE.partition(";\n")[2])
    await upgrade(restored.url)
    async with restored.admin.connect() as connection:
        assert await connection.scalar(sa.text("SELECT engram_feed_offset()")) == 0
