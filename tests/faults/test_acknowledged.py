"""What was acknowledged stays, whatever happens to the server, the database and the network.

`make test-faults` repeats every fault; `make test` has each once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from tests.faults.database import alive
from tests.faults.world import OURS, WRITERS, World, world
from tests.properties import IS_LONG

ROUNDS = 10 if IS_LONG else 1
STALL_SECONDS = 5 if IS_LONG else 1.5
FAULT_SECONDS = 1.5 if IS_LONG else 0.5
RECOVERY_SECONDS = 5
"""How long after the database the service is back, by itself."""
WRITES = 60 if IS_LONG else 25
"""Acknowledged before a fault, and again after it."""

LOG_SEGMENT_BYTES = 16 * 2**20
"""How large PostgreSQL makes a file of its log."""
LONG_TABLE = """
    INSERT INTO audit_events
    SELECT (jsonb_populate_record(NULL::audit_events, to_jsonb(one) || jsonb_build_object(
        'id', uuidv7(), 'entity_type', 'document', 'after', long
    ))).*
    FROM (SELECT * FROM audit_events LIMIT 1) AS one,
        LATERAL (
            SELECT n, jsonb_build_object('text', string_agg(md5((n * 50 + m)::text), '')) AS long
            FROM generate_series(1, 14000) AS n, generate_series(1, 45) AS m GROUP BY n
        ) AS documents
"""

Fault = Callable[[World], Awaitable[None]]


async def kill_server(world: World) -> None:
    """As a power cut would end it; its platform starts another."""
    await asyncio.to_thread(world.serving.kill)
    await world.serve()


async def kill_database(world: World) -> None:
    """All processes of PostgreSQL at once."""
    await asyncio.to_thread(world.database.kill)
    await asyncio.sleep(FAULT_SECONDS)
    await asyncio.to_thread(world.database.start)


async def kill_a_backend(world: World) -> None:
    """One process of PostgreSQL, whose memory the others then trust no longer."""
    await asyncio.to_thread(world.database.kill_a_backend)


async def terminate_backends(world: World) -> None:
    """Connections end, one here and one there, again and again."""
    admin = await world.admin()
    for _ in range(20):
        await admin.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE {OURS} AND random() < 0.4"
        )
        await asyncio.sleep(FAULT_SECONDS / 20)
    await admin.close()


async def restart_database(world: World) -> None:
    """In order, as for an update."""
    await asyncio.to_thread(world.database.stop)
    await asyncio.to_thread(world.database.start)


async def exhaust_pool(world: World) -> None:
    """All connections wait for a lock, longer than the pool lets others wait."""
    admin = await world.admin()
    async with admin.transaction():
        await admin.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        await asyncio.sleep(1 + FAULT_SECONDS)
    await admin.close()


async def stall_database(world: World) -> None:
    """It stands still, and goes on as if nothing had been."""
    frozen = await asyncio.to_thread(world.database.freeze)
    try:
        await asyncio.sleep(STALL_SECONDS)
    finally:
        world.database.thaw(frozen)


async def fill_tables(world: World) -> None:
    """No room for rows: what needs a new page of a table fails, and PostgreSQL goes on."""
    admin = await world.admin()
    # The limit is for all files: a table is to be longer than a segment of the log.
    if await admin.fetchval("SELECT pg_relation_size('audit_events')") < LOG_SEGMENT_BYTES:
        await admin.execute(LONG_TABLE)
    await admin.close()
    failures = world.ledger.failures
    world.database.limit_files(LOG_SEGMENT_BYTES)
    try:
        await world.until(lambda: world.ledger.failures >= failures + 2 * WRITERS)
    finally:
        world.database.limit_files("unlimited")


async def fill_log(world: World) -> None:
    """No room for the log: PostgreSQL ends, and cannot start until there is some."""
    postmaster = world.database.processes()[0]
    world.database.limit_files(8192)
    await world.until(lambda: not alive(postmaster))
    await asyncio.to_thread(world.database.start)


async def slow_network(world: World) -> None:
    """Everything takes a while."""
    world.proxy.delay_seconds = 0.05
    await asyncio.sleep(4 * FAULT_SECONDS)
    world.proxy.delay_seconds = 0


async def cut_network(world: World) -> None:
    """All connections end, and new ones are refused."""
    await world.proxy.cut()
    await asyncio.sleep(FAULT_SECONDS)
    await world.proxy.open()


async def reset_network(world: World) -> None:
    """All connections are reset, again and again."""
    for _ in range(5):
        world.proxy.reset()
        await asyncio.sleep(FAULT_SECONDS / 5)


async def silent_network(world: World) -> None:
    """Nothing gets through; then what was under way is lost, and the connections with it."""
    world.proxy.silence()
    await asyncio.sleep(STALL_SECONDS)
    world.proxy.reset()
    world.proxy.resume()


FAULTS: list[Fault] = [
    kill_server,
    kill_database,
    kill_a_backend,
    terminate_backends,
    restart_database,
    exhaust_pool,
    stall_database,
    fill_tables,
    fill_log,
    slow_network,
    cut_network,
    reset_network,
    silent_network,
]


@pytest_asyncio.fixture(scope="module")
async def harmed() -> AsyncIterator[World]:
    """The world that all faults happen to, one after the other."""
    async with world() as made:
        yield made


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_nothing_acknowledged_is_lost(
    harmed: World, fault: Fault, record_property: Callable[[str, object], None]
) -> None:
    before, failures, slowest = harmed.ledger.acknowledged, harmed.ledger.failures, 0.0
    for _ in range(ROUNDS):
        await harmed.load()
        await harmed.acknowledged(WRITES)
        await fault(harmed)
        # the database is there once it answers past all that stood between
        await (await harmed.admin()).close()
        since = time.monotonic()
        await harmed.acknowledged(1)
        slowest = max(slowest, time.monotonic() - since)
        await harmed.acknowledged(WRITES)
        await harmed.rest()
        found = await harmed.compare()
        assert found.nothing, found
        await harmed.prove_pool()
    record_property("rounds", ROUNDS)
    record_property("acknowledged", harmed.ledger.acknowledged - before)
    record_property("missing", len(found.missing))
    record_property("sent again", harmed.ledger.failures - failures)
    record_property("s until served again, at most", round(slowest, 2))
    assert slowest < RECOVERY_SECONDS


async def test_the_ledger_notices_what_is_lost_and_what_is_half_done() -> None:
    """A database that acknowledges before it has written loses writes, and the ledger tells."""
    async with world() as unsafe:
        admin = await unsafe.admin()
        await admin.execute("ALTER SYSTEM SET synchronous_commit = off")
        await admin.execute("SELECT pg_reload_conf()")
        await unsafe.load()
        await unsafe.acknowledged(1)
        await asyncio.to_thread(unsafe.database.freeze_wal_writer)
        await unsafe.acknowledged(WRITES)
        for writer in unsafe.writers:
            await writer.abandon()
        assert (await unsafe.compare()).nothing
        await admin.execute(
            "DELETE FROM audit_events WHERE id = (SELECT id FROM audit_events"
            " WHERE entity_type = 'task' LIMIT 1)"
        )
        await admin.execute("UPDATE projects SET next_number = next_number + 1 WHERE key = 'ENG'")
        assert len((await unsafe.compare()).half) >= 2
        await admin.close()
        await asyncio.to_thread(unsafe.database.kill)
        await asyncio.to_thread(unsafe.database.start)
        assert (await unsafe.compare()).missing
