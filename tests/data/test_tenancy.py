"""A row is reachable only by its owner, as PostgreSQL sees it."""

from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine

from db.derivation import OwnedKey
from db.models import metadata
from tests.conftest import OpenSession
from tests.data.rows import TASKS, USERS, WORKERS, project_with_tasks, sign_up

TABLES = sorted(metadata.tables)
RIGHTS = {"DELETE", "INSERT", "SELECT", "UPDATE"}
SHARED = {"embedding_models"}
"""Tables that nobody owns."""
SEARCH = ("search", "SELECT", "true", None)
OTHERS: dict[str, list[tuple[object, ...]]] = {
    "users": [("find_login", "SELECT", "true", None)],
    "generations": [
        (
            "find_abandoned",
            "SELECT",
            "(status = ANY (ARRAY['pending'::text, 'streaming'::text]))",
            None,
        )
    ],
    "tasks": [("find_lapsed", "SELECT", "(status = 'in_progress'::text)", None)],
    "documents": [SEARCH],
    "chunks": [SEARCH],
    "messages": [SEARCH],
    "embeddings": [SEARCH],
    "message_embeddings": [SEARCH],
    "embedding_jobs": [("claim", "ALL", "true", "true")],
    "account_exports": [("find_due", "SELECT", "true", None)],
    "embedding_models": [
        ("everybody_reads", "SELECT", "true", None),
        ("operator_writes", "ALL", "true", "true"),
    ],
}
"""Policies beside the owner's: for the functions that run as the owner of the tables."""


async def rows(engine: AsyncEngine, sql: str, **parameters: object) -> list[tuple[object, ...]]:
    """What a superuser reads."""
    async with engine.connect() as connection:
        return [tuple(row) for row in await connection.execute(sa.text(sql), parameters)]


async def test_every_table_has_forced_row_level_security(admin_engine: AsyncEngine) -> None:
    found = await rows(
        admin_engine,
        """
        SELECT relname::text, relrowsecurity, relforcerowsecurity FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
            AND relname <> 'alembic_version' ORDER BY relname""",
    )
    assert found == [(table, True, True) for table in TABLES]


async def test_every_table_has_the_owners_policy_and_no_other(admin_engine: AsyncEngine) -> None:
    found = await rows(
        admin_engine,
        "SELECT tablename::text, policyname::text, cmd, qual, with_check FROM pg_policies"
        " WHERE schemaname = 'public' ORDER BY 1, 2",
    )
    expected: list[tuple[object, ...]] = []
    for table in TABLES:
        owner = "id" if table == "users" else "owner_id"
        own = (
            f"({owner} = ( SELECT (NULLIF(current_setting('app.owner_id'::text, true),"
            " ''::text))::uuid AS \"nullif\"))"
        )
        expected += [(table, *policy) for policy in OTHERS.get(table, [])]
        if table not in SHARED:
            expected.append((table, "owner_only", "ALL", own, own))
    assert found == sorted(expected)


async def test_the_application_may_do_what_it_needs_and_no_more(admin_engine: AsyncEngine) -> None:
    found = await rows(
        admin_engine,
        """
        SELECT table_name::text, array_agg(privilege_type::text ORDER BY 1)
        FROM information_schema.role_table_grants
        WHERE grantee = 'engram_app' AND table_schema = 'public' GROUP BY table_name""",
    )
    rights = {str(table): set(granted) for table, granted in found}  # type: ignore[call-overload]  # a row of two columns
    expected = dict.fromkeys(TABLES, RIGHTS)
    expected |= {"audit_events": {"SELECT", "INSERT"}, "alembic_version": {"SELECT"}}
    expected |= {table: {"SELECT"} for table in SHARED}
    assert rights == expected


async def test_the_application_role_is_bound(admin_engine: AsyncEngine) -> None:
    (role,) = await rows(
        admin_engine,
        "SELECT rolsuper, rolbypassrls, rolcreaterole FROM pg_roles WHERE rolname = 'engram_app'",
    )
    assert role == (False, False, False)
    owned = "SELECT count(*) FROM pg_class WHERE relowner = 'engram_app'::regrole"
    assert await rows(admin_engine, owned) == [(0,)]


async def test_keys_between_owned_tables_are_composite_and_indexed(
    admin_engine: AsyncEngine,
) -> None:
    keys = await rows(
        admin_engine,
        """
        SELECT conname::text, conrelid::regclass::text, confrelid::regclass::text,
            (SELECT array_agg(attname::text ORDER BY n) FROM unnest(conkey) WITH ORDINALITY k(a, n)
                JOIN pg_attribute ON attrelid = conrelid AND attnum = a),
            (SELECT array_agg(attname::text ORDER BY n) FROM unnest(confkey) WITH ORDINALITY k(a, n)
                JOIN pg_attribute ON attrelid = confrelid AND attnum = a)
        FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace""",
    )
    indexes = await rows(
        admin_engine,
        """
        SELECT indrelid::regclass::text,
            (SELECT array_agg(attname::text ORDER BY n) FROM unnest(indkey) WITH ORDINALITY k(a, n)
                JOIN pg_attribute ON attrelid = indrelid AND attnum = a)
        FROM pg_index WHERE indpred IS NULL AND indexprs IS NULL
            AND indrelid::regclass::text <> 'alembic_version'""",
    )
    assert len(keys) > len(TABLES)
    for name, table, target, columns, referred in keys:
        if target in SHARED:
            continue
        assert isinstance(columns, list)
        assert isinstance(referred, list)
        led = [index for on, index in indexes if on == table and isinstance(index, list)]
        assert columns[0] == "owner_id", name
        if target == "users":
            assert referred == ["id"]
            assert any(index[0] == "owner_id" for index in led), name
        else:
            assert referred[0] == "owner_id", name
            assert any(index[:2] == ["owner_id", columns[-1]] for index in led), name


def test_every_key_to_an_owned_table_is_declared_as_one() -> None:
    for table in metadata.sorted_tables:
        for key in table.foreign_key_constraints:
            column = key.column_keys[-1]
            if column != "owner_id" and key.referred_table.name not in SHARED:
                assert {"owner_id", column} <= set(key.column_keys)
    assert OwnedKey.__dataclass_fields__.keys() >= {"table", "ondelete", "within"}


async def test_row_level_security_alone_hides_and_protects_rows(open_session: OpenSession) -> None:
    mine, theirs, nobody = open_session(None), open_session(None), open_session(None)
    await sign_up(mine)
    await project_with_tasks(mine, 3)
    await sign_up(theirs)
    for table in (TASKS, WORKERS, USERS):
        everything = sa.select(table)
        seen = await mine.execute(everything)
        assert {row[0] for row in seen} == {mine.owner_id}
        assert await nobody.execute(everything) == []
    assert await theirs.execute(sa.select(TASKS)) == []
    async with theirs.transaction():
        for write in (sa.update(TASKS).values(title="stolen"), sa.delete(TASKS)):
            assert await theirs.execute(write.returning(TASKS.c.id)) == []
    with pytest.raises(ProgrammingError, match="row-level security"):
        async with theirs.transaction():
            forged = sa.insert(WORKERS).values(owner_id=mine.owner_id, name="spy")
            await theirs.execute(forged)
    with pytest.raises(ProgrammingError, match="row-level security"):
        async with theirs.transaction():
            given = sa.update(USERS).where(USERS.c.id == theirs.owner_id).values(id=uuid4())
            await theirs.execute(given)
    await mine.end_snapshot()
    assert len(await mine.execute(sa.select(TASKS))) == 3


async def test_the_log_is_append_only_for_the_application(open_session: OpenSession) -> None:
    session = open_session(None)
    await sign_up(session)
    for sql in ("UPDATE audit_events SET action = 'x'", "DELETE FROM audit_events"):
        with pytest.raises(ProgrammingError, match="permission denied"):
            async with session.transaction():
                await session.execute(sa.text(sql))


async def test_log_ins_are_found_through_the_function_only(
    open_session: OpenSession, owner_engine: AsyncEngine, admin_engine: AsyncEngine
) -> None:
    session, nobody = open_session(None), open_session(None)
    owner_id = await sign_up(session)
    name = f"P{owner_id.hex.upper()}"
    find = sa.text("SELECT * FROM engram_find_login(:identifier)")
    for identifier in (name, f"{name}@EXAMPLE.ORG"):
        (found,) = await nobody.execute(find, {"identifier": identifier})
        assert tuple(found) == (owner_id, "x", True)
    assert await nobody.execute(find, {"identifier": "%"}) == []
    assert await nobody.execute(sa.select(USERS)) == []
    # The owner of the tables may read whom the function looks for, and nothing else.
    async with owner_engine.connect() as connection:
        assert (await connection.execute(sa.select(USERS).limit(1))).all()
        assert not (await connection.execute(sa.select(WORKERS).limit(1))).all()
        changed = sa.update(USERS).values(password_hash="y").returning(USERS.c.id)
        assert not (await connection.execute(changed)).all()
    async with admin_engine.connect() as connection:
        public = "has_function_privilege('public', 'engram_find_login(text)', 'EXECUTE')"
        assert await connection.scalar(sa.text(f"SELECT {public}")) is False


async def test_a_forgotten_owner_setting_shows_nothing(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="READ COMMITTED")
        await connection.execute(sa.text("SET LOCAL ROLE engram_app"))
        for setting in (None, "", str(uuid4())):
            if setting is not None:
                await connection.execute(
                    sa.text("SELECT set_config('app.owner_id', :value, true)"), {"value": setting}
                )
            for table in metadata.sorted_tables:
                if table.name not in SHARED:
                    assert not (await connection.execute(sa.select(table).limit(1))).all()
        await connection.rollback()


async def test_a_malformed_owner_setting_fails(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="READ COMMITTED")
        await connection.execute(sa.text("SET LOCAL ROLE engram_app"))
        await connection.execute(sa.text("SET LOCAL app.owner_id = 'x'"))
        with pytest.raises(DBAPIError, match="uuid"):
            await connection.execute(sa.select(TASKS).limit(1))
        await connection.rollback()
