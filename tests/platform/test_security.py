"""The server refuses to start where row-level security would not bind, and says what to do."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from db.engine import create_engine
from db.security import RowSecurityError, verify_row_security
from db.session import SessionOptions
from tests.conftest import FreshDatabase, NewOwner


async def test_it_binds_with_the_one_url_a_platform_gives(
    engine: AsyncEngine, new_owner: NewOwner
) -> None:
    await new_owner()
    await verify_row_security(engine)


async def test_it_binds_for_a_superuser_who_takes_the_role(admin_engine: AsyncEngine) -> None:
    await verify_row_security(admin_engine)


@pytest.mark.parametrize(
    ("admin", "role", "reason"),
    [
        (True, None, "goes past row-level security"),
        (False, None, "owns the table"),
        (False, "nobody_here", "does not exist"),
        (False, "pg_monitor", "may not act as"),
    ],
)
async def test_roles_that_it_does_not_bind(
    engine: AsyncEngine, admin_engine: AsyncEngine, admin: bool, role: str | None, reason: str
) -> None:
    with pytest.raises(RowSecurityError, match=reason):
        await verify_row_security(admin_engine if admin else engine, SessionOptions(role=role))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("ALTER TABLE tasks DISABLE ROW LEVEL SECURITY", "table tasks"),
        ("ALTER TABLE tasks NO FORCE ROW LEVEL SECURITY", "table tasks"),
        ("DROP POLICY owner_only ON chunks", "table chunks"),
        ("CREATE POLICY open ON users FOR SELECT USING (true)", "table users has the policy open"),
        ("CREATE POLICY leak ON documents FOR SELECT USING (true)", "DROP POLICY leak ON public.d"),
        ("CREATE POLICY leak ON tasks TO engram_app USING (true)", "table tasks has the policy"),
        ("ALTER POLICY owner_only ON tasks USING (true) WITH CHECK (true)", "tasks has a policy"),
        ("ALTER POLICY owner_only ON chunks WITH CHECK (true)", "chunks has a policy"),
        ("ALTER POLICY owner_only ON chunks TO engram_app", "chunks has a policy"),
        ("ALTER POLICY find_login ON users TO PUBLIC", "find_login that was changed"),
        ("DROP POLICY find_login ON users", "lacks the policy find_login"),
        ("CREATE TABLE added (id int)", "table added"),
        (
            "CREATE FUNCTION leak() RETURNS SETOF documents LANGUAGE sql SECURITY DEFINER"
            " AS 'SELECT * FROM documents'",
            "The function leak goes past",
        ),
        ("ALTER TABLE projects OWNER TO engram_app", "owns the table projects"),
    ],
)
async def test_damage_by_hand_is_found(
    fresh_database: FreshDatabase, damage: str, reason: str
) -> None:
    admin = create_engine(await fresh_database(admin=True), pooled=False)
    person = "INSERT INTO users (username, email, password_hash) VALUES ('per', 'p@e.org', 'x')"
    async with admin.connect() as connection:
        await connection.execute(text(person))
    await verify_row_security(admin)
    async with admin.connect() as connection:
        await connection.execute(text(damage))
    with pytest.raises(RowSecurityError, match=reason):
        await verify_row_security(admin)


async def test_what_it_says_to_run_mends_it(fresh_database: FreshDatabase) -> None:
    admin = create_engine(await fresh_database(admin=True), pooled=False)
    async with admin.connect() as connection:
        await connection.execute(text("ALTER POLICY owner_only ON users USING (true)"))
        with pytest.raises(RowSecurityError) as refused:
            await verify_row_security(admin)
        _, said = str(refused.value).removesuffix(".").split(" run ")
        for statement in said.split("; "):
            await connection.execute(text(statement))
    await verify_row_security(admin)


async def test_an_empty_database_is_refused(fresh_database: FreshDatabase) -> None:
    engine = create_engine(await fresh_database(migrated=False), pooled=False)
    with pytest.raises(RowSecurityError, match="server migrate"):
        await verify_row_security(engine)
