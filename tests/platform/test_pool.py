"""Connections of the pool: in the order of asking, and none is lost on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from db.engine import create_engine
from db.failures import DatabaseUnavailable
from db.pool import ReadyPool
from db.session import Session

NOTHING = text("SELECT 1")


@pytest_asyncio.fixture
async def one(database_url: str) -> AsyncIterator[AsyncEngine]:
    """A pool of one connection."""
    engine = create_engine(database_url, pool_size=1, pool_timeout_seconds=30)
    yield engine
    await engine.dispose()


def pool_of(engine: AsyncEngine) -> ReadyPool:
    pool = engine.sync_engine.pool
    assert isinstance(pool, ReadyPool)
    return pool


async def test_who_comes_first_is_served_first(one: AsyncEngine) -> None:
    served: list[int] = []

    async def ask(number: int) -> None:
        async with Session(one, uuid4()) as session:
            await session.execute(NOTHING)
            served.append(number)
            if number < 20:  # whoever comes while others wait goes to the end
                late.append(asyncio.create_task(ask(number + 20)))

    late: list[asyncio.Task[None]] = []
    await asyncio.gather(*(ask(number) for number in range(20)))
    await asyncio.gather(*late)
    assert served == list(range(40))


async def test_turns_that_nobody_takes_go_to_the_next(one: AsyncEngine) -> None:
    random = Random(7)

    async def ask() -> None:
        async with Session(one, uuid4()) as session:
            await session.execute(NOTHING)

    for _ in range(20):
        tasks = [asyncio.create_task(ask()) for _ in range(12)]
        await asyncio.sleep(random.random() / 100)
        for task in random.sample(tasks, 6):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await ask()
    assert pool_of(one).checkedout() == 0
    assert pool_of(one).waiting == 0
    assert pool_of(one)._free == 1


async def test_who_waits_too_long_is_told_so_and_leaves_the_line(database_url: str) -> None:
    engine = create_engine(database_url, pool_size=1, pool_timeout_seconds=0.05)
    async with Session(engine, uuid4()) as holder:
        await holder.execute(NOTHING)
        for _ in range(3):
            async with Session(engine, uuid4()) as session:
                with pytest.raises(DatabaseUnavailable, match="busy"):
                    await session.execute(NOTHING)
    assert pool_of(engine).timeouts == 3
    async with Session(engine, uuid4()) as session:
        await session.execute(NOTHING)
    assert pool_of(engine)._free == 1
    await engine.dispose()


async def test_connections_that_cannot_be_made_keep_no_place() -> None:
    engine = create_engine("postgresql://nobody@127.0.0.1:1/none", pool_size=2)
    for _ in range(5):
        async with Session(engine, uuid4()) as session:
            with pytest.raises(DatabaseUnavailable, match="does not answer"):
                await session.execute(NOTHING)
    assert pool_of(engine)._free == 2
    await engine.dispose()


async def test_a_check_out_that_fails_keeps_no_place(database_url: str) -> None:
    engine = create_engine(database_url, pool_size=1, pool_timeout_seconds=0.5)
    async with Session(engine, uuid4()) as session:
        await session.execute(NOTHING)

    def refuse(*_: object) -> None:
        raise OSError("no")

    event.listen(engine.sync_engine, "checkout", refuse)
    async with Session(engine, uuid4()) as session:
        with pytest.raises(DatabaseUnavailable):
            await session.execute(NOTHING)
    event.remove(engine.sync_engine, "checkout", refuse)
    async with Session(engine, uuid4()) as session:
        assert await session.scalar(NOTHING) == 1
    assert pool_of(engine)._free == 1
    await engine.dispose()


async def test_who_comes_through_sqlalchemy_finds_no_transaction(one: AsyncEngine) -> None:
    for _ in range(3):
        async with Session(one, uuid4()) as session:
            await session.execute(NOTHING)
        async with one.connect() as connection:
            await connection.execution_options(isolation_level="READ COMMITTED")
            async with connection.begin():
                assert await connection.scalar(text("SHOW transaction_read_only")) == "off"


@pytest.mark.parametrize("pooled", [True, False])
async def test_a_snapshot_ends_once(database_url: str, *, pooled: bool) -> None:
    engine = create_engine(database_url, pooled=pooled)
    warnings: list[str] = []

    def listen(connection: Any, _record: object) -> None:
        connection.driver_connection.add_log_listener(
            lambda _, message: warnings.append(message.message)
        )

    event.listen(engine.sync_engine, "connect", listen)
    for _ in range(2):
        async with Session(engine, None) as session:
            await session.execute(text("SELECT 1"))
            await session.execute(text("SELECT 2"))
    async with engine.connect() as connection:
        await connection.execute(text("DO $$ BEGIN RAISE WARNING 'heard'; END $$"))
    await engine.dispose()
    assert set(warnings) == {"heard"}
