"""What a new embedded database holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from db.engine import create_engine
from db.session import SessionOptions
from server import demo
from tests.conftest import FreshDatabase


@pytest_asyncio.fixture
async def loaded(fresh_database: FreshDatabase) -> AsyncIterator[AsyncEngine]:
    """As superuser, after two processes found the database empty at the same time."""
    engine = create_engine(await fresh_database(admin=True), pooled=False)
    await asyncio.gather(*(demo.load(engine, SessionOptions()) for _ in range(2)))
    yield engine
    await engine.dispose()


async def test_the_demo_has_something_of_everything(loaded: AsyncEngine) -> None:
    async with loaded.connect() as connection:

        async def count(sql: str) -> int:
            found: int = (
                await connection.execute(text(f"SELECT count(*) FROM {sql}"))
            ).scalar_one()
            return found

        assert await count("users") == 1
        assert await count("workers") == 2
        assert await count("messages WHERE status = 'stopped'") == 1
        # branches: an edit, and an answer that was asked for again
        variants = (
            "(SELECT FROM messages GROUP BY conversation_id, parent_id HAVING count(*) > 1) v"
        )
        assert await count(variants) == 2
        calls = "message_parts c JOIN message_parts r USING (tool_call_id)"
        assert await count(f"{calls} WHERE c.type = 'tool_call' AND r.type = 'tool_result'") == 1
        for kind in ("note", "post", "web", "file"):
            assert await count(f"documents WHERE kind = '{kind}' AND deleted_at IS NULL") == 1
        for table in ("conversations", "documents", "tasks"):
            assert await count(f"{table} WHERE deleted_at IS NOT NULL")
        levels = "tasks a JOIN tasks b ON b.parent_id = a.id JOIN tasks c ON c.parent_id = b.id"
        assert await count(levels)
        assert await count("task_dependencies")
        claimed = "tasks WHERE claim_epoch = 1 AND status"
        for status in ("done", "pending", "in_progress"):
            assert await count(f"{claimed} = '{status}'") == 1


async def test_chunks_are_the_text_between_their_offsets(loaded: AsyncEngine) -> None:
    sql = """
        SELECT d.content, c.start, c."end", c.content FROM chunks c
        JOIN documents d ON d.owner_id = c.owner_id AND d.id = c.document_id
        ORDER BY d.id, c.position"""
    async with loaded.connect() as connection:
        chunks = (await connection.execute(text(sql))).all()
        waiting = text("SELECT count(*) FROM documents WHERE status <> 'ready'")
        assert (await connection.execute(waiting)).scalar_one() == 0
    for whole, start, end, content in chunks:
        assert whole[start:end] == content
    words = "".join("".join(content.split()) for *_, content in chunks)
    assert words == "".join("".join(whole.split()) for whole in dict.fromkeys(c[0] for c in chunks))


async def test_every_row_of_the_demo_has_its_event(loaded: AsyncEngine) -> None:
    tables = "users workers conversations messages message_parts documents projects tasks"
    async with loaded.connect() as connection:
        for table in [*tables.split(), "task_dependencies"]:
            sql = f"""
                SELECT count(*) FROM {table} WHERE id NOT IN
                (SELECT entity_id FROM audit_events WHERE action = 'create')"""
            assert (await connection.execute(text(sql))).scalar_one() == 0, table
