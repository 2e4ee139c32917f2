"""Idempotency keys: claimed, kept and found at a cost that does not grow with their number."""

from hashlib import sha256
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from db import idempotency
from db.engine import create_engine
from db.session import Session
from tests.conftest import FreshDatabase

KEYS, WRITES = 2_000, 12
READ = text(
    "SELECT sum(seq_tup_read) + sum(idx_tup_fetch) FROM pg_stat_user_tables"
    " WHERE relname = 'idempotency_keys'"
)
MANY = text(
    "INSERT INTO idempotency_keys (owner_id, operation, key, request_sha256, expires_at)"
    " SELECT :owner_id, 'write', 'k' || n, sha256(n::text::bytea), now() + interval '1 day'"
    " FROM generate_series(1, :keys) AS n"
)


async def write(engine: AsyncEngine, owner_id: UUID, key: str) -> dict[str, object] | None:
    """What a keyed write does about its key; the answer if there was one."""
    asked = sha256(key.encode()).digest()
    async with Session(engine, owner_id) as session, session.transaction():
        found = await idempotency.claim(session, "write", key, asked)
        if found is None:
            await idempotency.keep(session, "write", key, asked, {"key": key})
            return None
        return dict(found)


async def test_what_a_key_costs_does_not_depend_on_their_number(
    fresh_database: FreshDatabase,
) -> None:
    url = await fresh_database()
    engine = create_engine(url, pool_size=1)
    owner_id = uuid4()
    async with engine.connect() as owner:
        await owner.execute(
            text("SELECT set_config('app.owner_id', :id, false)"), {"id": str(owner_id)}
        )
        await owner.execute(
            text(
                "INSERT INTO users (id, username, email, password_hash)"
                " VALUES (:id, 'person', 'p@example.org', 'none')"
            ),
            {"id": owner_id},
        )
        # PostgreSQL remembers a table that was empty, as it is after all keys were swept.
        await owner.execute(text("VACUUM (ANALYZE) idempotency_keys"))
    for n in range(WRITES):  # from the sixth on it may keep the plans that it made for that table
        assert await write(engine, owner_id, f"early-{n}") is None
    async with engine.connect() as owner:
        await owner.execute(
            text("SELECT set_config('app.owner_id', :id, false)"), {"id": str(owner_id)}
        )
        await owner.execute(MANY, {"owner_id": owner_id, "keys": KEYS})
        await owner.execute(text("SELECT pg_stat_force_next_flush()"))
        before = (await owner.execute(READ)).scalar_one()
    for n in range(WRITES):
        assert await write(engine, owner_id, f"late-{n}") is None
        assert await write(engine, owner_id, f"late-{n}") == {"key": f"late-{n}"}
    async with engine.connect() as owner:
        await owner.execute(text("SELECT pg_stat_force_next_flush()"))
        read = (await owner.execute(READ)).scalar_one() - before
    await engine.dispose()
    assert read <= 10 * WRITES
