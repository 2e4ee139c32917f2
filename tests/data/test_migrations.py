"""Migrations: what they make is what the models say, whoever runs them and however often."""

import ast
import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

import db.migrate
from db.changes import insert
from db.embedded import EmbeddedServer
from db.engine import create_engine
from db.migrate import ROOT, check, current_revision, downgrade, head_revision, upgrade
from db.models import metadata
from db.session import Session
from tests.conftest import FreshDatabase
from tests.data.rows import CONVERSATIONS, MESSAGES, TASKS, project_with_tasks, sign_up

CATALOG = {
    "columns": """
        SELECT attrelid::regclass::text, attname::text, format_type(atttypid, atttypmod),
            attnotnull, attgenerated::text, pg_get_expr(adbin, adrelid)
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
            AND attnum > 0 AND NOT attisdropped""",
    "constraints": """
        SELECT conrelid::regclass::text, conname::text, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'""",
    "indexes": "SELECT tablename::text, indexname::text, indexdef FROM pg_indexes"
    " WHERE schemaname = 'public'",
}


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[AsyncEngine]:
    """An engine for one test."""
    engine = create_engine(url, pooled=False)
    try:
        yield engine
    finally:
        await engine.dispose()


async def catalog(engine: AsyncEngine, part: str) -> set[tuple[object, ...]]:
    """What PostgreSQL says there is, without Alembic's own table."""
    async with engine.connect() as connection:
        rows = await connection.execute(sa.text(CATALOG[part]))
        return {tuple(row) for row in rows if row[0] != "alembic_version"}


async def live_with_rows(engine: AsyncEngine) -> None:
    """Sign somebody up and let them work, to see that the database serves."""
    async with Session(engine, None) as session:
        await sign_up(session)
        await project_with_tasks(session, 20)
        async with session.transaction():
            (conversation,) = await insert(session, CONVERSATIONS, [{"tags": ["a"]}])
            root = {"conversation_id": conversation.id, "depth": 0, "role": "user"}
            await insert(session, MESSAGES, [root])


async def test_up_down_and_up_again_with_rows(fresh_database: FreshDatabase) -> None:
    url = await fresh_database()
    async with connected(url) as engine:
        await live_with_rows(engine)
        await downgrade(url, "base")
        assert await catalog(engine, "columns") == set()
        async with engine.connect() as connection:
            functions = sa.text("SELECT count(*) FROM pg_proc WHERE proname LIKE 'engram%'")
            assert await connection.scalar(functions) == 0
            assert await current_revision(connection) is None
        await upgrade(url)
        assert await check(url) == []
        await live_with_rows(engine)


A_FUNCTION = "CREATE FUNCTION engram_feed_position() RETURNS xid8 RETURN pg_current_xact_id()"
"""Functions are made by revisions alone; tables need this one to be there."""


@pytest.mark.parametrize("part", CATALOG)
async def test_migrations_make_what_the_models_say(
    fresh_database: FreshDatabase, admin_engine: AsyncEngine, part: str
) -> None:
    async with connected(await fresh_database(migrated=False)) as engine:
        async with engine.connect() as connection:
            await connection.execute(sa.text(A_FUNCTION))
            await connection.run_sync(metadata.create_all)
        from_models = await catalog(engine, part)
    assert len(from_models) > len(metadata.tables)
    assert await catalog(admin_engine, part) == from_models


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            "ALTER TABLE tasks DROP COLUMN attempts",
            {"'attempts'", "'ck_tasks_attempts'", "ck_tasks_attempts_left"},
        ),
        ("ALTER TABLE tasks DROP CONSTRAINT ck_tasks_priority", {"ck_tasks_priority"}),
        ("DROP POLICY owner_only ON tasks", {"CREATE POLICY owner_only ON public.tasks"}),
        (
            "ALTER POLICY owner_only ON tasks USING (true) WITH CHECK (true)",
            {"DROP POLICY owner_only ON public.tasks", "CREATE POLICY owner_only ON public.tasks"},
        ),
        (
            "CREATE POLICY leak ON documents FOR SELECT USING (true)",
            {"DROP POLICY leak ON public.documents"},
        ),
        ("DROP POLICY find_login ON users", {"CREATE POLICY find_login ON public.users"}),
        ("ALTER TABLE users NO FORCE ROW LEVEL SECURITY", {"users FORCE ROW LEVEL SECURITY"}),
        ("ALTER TABLE chunks DISABLE ROW LEVEL SECURITY", {"chunks ENABLE ROW LEVEL SECURITY"}),
        ("REVOKE UPDATE ON chunks FROM engram_app", {"GRANT UPDATE ON public.chunks"}),
        (
            "GRANT TRUNCATE, UPDATE ON audit_events TO engram_app",
            {"REVOKE TRUNCATE, UPDATE ON public.audit_events"},
        ),
    ],
)
async def test_check_finds_a_difference(
    fresh_database: FreshDatabase, change: str, named: set[str]
) -> None:
    url = await fresh_database()
    assert await check(url) == []
    async with connected(url) as engine, engine.connect() as connection:
        await connection.execute(sa.text(change))
    differences = await check(url)
    assert len(differences) == len(named)
    for part in named:
        assert any(part in difference for difference in differences)


async def test_migrators_wait_for_each_other(fresh_database: FreshDatabase) -> None:
    url = await fresh_database(migrated=False)
    await asyncio.gather(*(upgrade(url) for _ in range(4)))
    async with connected(url) as engine:
        async with engine.connect() as connection:
            assert await current_revision(connection) == head_revision()
        await live_with_rows(engine)


async def test_a_busy_table_is_tried_again(
    fresh_database: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db.migrate, "LOCK_TIMEOUT", "50ms")
    monkeypatch.setattr(db.migrate, "PAUSE_SECONDS", 0.05)
    url = await fresh_database()
    async with connected(url) as engine, engine.connect() as connection:
        await connection.execution_options(isolation_level="READ COMMITTED")
        await connection.execute(sa.select(TASKS.c.id))  # holds its lock until the rollback
        migration = asyncio.create_task(downgrade(url, "base"))
        await asyncio.sleep(0.4)
        assert not migration.done()
        await connection.rollback()
        await migration
        assert await catalog(engine, "columns") == set()


@pytest.mark.parametrize("who", ["owner", "superuser"])
async def test_owner_and_superuser_can_migrate_and_serve(
    fresh_database: FreshDatabase, who: str
) -> None:
    url = await fresh_database(migrated=False, admin=who == "superuser")
    await upgrade(url)
    assert await check(url) == []
    async with connected(url) as engine:
        await live_with_rows(engine)


async def test_a_role_without_rights_over_the_application_role_can_migrate(
    server: EmbeddedServer, fresh_database: FreshDatabase
) -> None:
    url = await fresh_database(migrated=False)
    database = urlsplit(url).path.strip("/")
    role = f"plain_{uuid4().hex[:8]}"
    server.sql(f"CREATE ROLE {role} LOGIN")
    server.sql(f'ALTER DATABASE "{database}" OWNER TO {role}')
    try:
        await upgrade(re.sub(r"//\w+@", f"//{role}@", url))
        async with connected(url) as engine:
            await live_with_rows(engine)
    finally:
        server.drop_database(database)
        server.sql(f"DROP ROLE {role}")


def test_revisions_stand_alone_and_are_dated() -> None:
    files = sorted((ROOT / "migrations" / "versions").glob("*.py"))
    assert files
    for file in files:
        assert re.fullmatch(r"\d{4}_\d\d_\d\d_\d{4}-[0-9a-f]{12}_\w+\.py", file.name)
        imported = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(file.read_text()))
            for name in (
                [one.name for one in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert imported <= {"sqlalchemy", "alembic", "collections", "typing"}, file.name
