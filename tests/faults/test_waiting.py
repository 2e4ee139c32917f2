"""Waiting for a connection: who came first is served first, and those who leave leave nothing."""

from __future__ import annotations

import asyncio
import random

from sqlalchemy import select, text

from db.engine import create_engine
from db.session import Session
from tests.conftest import NewOwner


async def test_those_who_wait_are_not_overtaken_for_ever(
    database_url: str, new_owner: NewOwner
) -> None:
    """Operations that come one after the other without a pause would leave nothing to others."""
    owner = await new_owner()
    engine = create_engine(database_url, pool_size=1, pool_timeout_seconds=20)
    served = [0] * 4
    done = asyncio.Event()

    async def greedy(number: int) -> None:
        while not done.is_set():
            async with Session(engine, owner) as session:
                await session.execute(select(1))
            served[number] += 1
            if sum(served) >= 400:
                done.set()

    async with asyncio.timeout(60):
        await asyncio.gather(*(greedy(number) for number in range(4)))
    await engine.dispose()
    assert min(served) >= 50, served


async def test_places_in_the_line_are_given_up(database_url: str, new_owner: NewOwner) -> None:
    """Tasks that are cancelled while they wait, or just as they are served, lose no connection."""
    owner = await new_owner()
    engine = create_engine(database_url, pool_size=2, pool_timeout_seconds=5)
    chance = random.Random(5)

    async def ask() -> None:
        async with Session(engine, owner) as session:
            await session.execute(text("SELECT pg_sleep(0.001)"))

    for _ in range(10):
        tasks = [asyncio.create_task(ask()) for _ in range(20)]
        while not all(task.done() for task in tasks):
            chance.choice(tasks).cancel()
            await asyncio.sleep(chance.random() * 0.002)
        for task in tasks:
            assert task.cancelled() or task.exception() is None
        assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # known at run time
    async with asyncio.timeout(10):
        await asyncio.gather(*(ask() for _ in range(10)))
    await engine.dispose()
