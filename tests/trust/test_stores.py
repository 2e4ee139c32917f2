"""Where limits are counted: in a process, and in a real Redis for several."""

from __future__ import annotations

import asyncio
from collections import Counter
from inspect import isawaitable
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.gate import Memory, Rate, Shared, Store
from tests.trust import redis

RATE = Rate(10, 60)
needs_redis = pytest.mark.skipif(redis.REDIS is None, reason="Redis is not installed")


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


async def take(store: Store, key: str, amount: int = 1) -> tuple[int, float, bool]:
    taken = store.take("cost", key, RATE, amount)
    return await taken if isawaitable(taken) else taken


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 12), st.integers(0, 40))))
def test_no_window_gives_more_than_its_amount_and_none_refuses_what_fits(
    steps: list[tuple[str, int, int]],
) -> None:
    clock = Clock()
    memory = Memory(clock=clock)
    used: Counter[str] = Counter()
    ends: dict[str, float] = {}
    for key, amount, pause in steps:
        clock.now += pause
        if ends.get(key, 0.0) <= clock.now:
            used[key], ends[key] = 0, clock.now + RATE.seconds
        fits = used[key] + amount <= RATE.amount
        used[key] += amount if fits else 0
        taken = memory.take("cost", key, RATE, amount)
        assert (taken[0], taken[2]) == (used[key], not fits)
        if used[key]:
            assert taken[1] == ends[key]
        else:
            ends.pop(key)  # nothing was taken: the window has not begun


async def test_what_has_ended_is_forgotten_and_there_is_never_more_than_so_much() -> None:
    clock = Clock()
    memory = Memory(clock=clock, kept_keys=1_000)
    for number in range(5_000):
        memory.take("cost", number, RATE, 1)
        assert len(memory) <= 1_000
    clock.now += 61
    memory.take("cost", "another", RATE, 1)
    assert len(memory) == 1


@needs_redis
async def test_processes_that_share_a_redis_share_the_counts(tmp_path: Path) -> None:
    with redis.running(tmp_path) as url:
        one, other = Shared(url), Shared(url)
        try:
            taken = await asyncio.gather(
                *(take(store, "somebody") for store in (one, other) for _ in range(10))
            )
            assert sum(not refused for _, _, refused in taken) == 10
            assert (await take(one, "somebody"))[0] == 10
            assert len({ends for _, ends, _ in taken}) == 1
            # What did not fit was given back.
            assert (await take(one, "another", 8))[2] is False
            assert (await take(other, "another", 3))[0::2] == (8, True)
            assert (await take(other, "another", 2))[0::2] == (10, False)
            assert await one.add("failures", "x", 60) == 1
            assert await other.add("failures", "x", 60) == 2
            assert 55 < await one.left("failures", "x") <= 60
            assert await other.add("failures", "x", 60, -1) == 1
            await one.clear("failures", "x")
            assert await other.left("failures", "x") == 0
        finally:
            await one.close()
            await other.close()


@needs_redis
async def test_without_its_redis_a_process_counts_by_itself_and_returns_to_it(
    tmp_path: Path,
) -> None:
    clock = Clock()
    key = uuid4().hex
    with redis.running(tmp_path) as url:
        store = Shared(url, clock=clock)
        assert (await take(store, key, 3))[0] == 3
    try:
        assert (await take(store, key, 10))[0::2] == (10, False)
        assert (await take(store, key, 1))[2]
        with redis.running(tmp_path):
            assert (await take(store, key, 1))[2], "it is not asked for a moment"
            clock.now += 10
            assert (await take(store, key, 4))[0::2] == (4, False)
    finally:
        await store.close()
