"""What is no longer kept goes, in bounded batches; what is kept stays, and so does everybody."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import ProgrammingError

from db import retention
from db.repositories import journal
from db.retention import BATCH_ROWS, Retention
from db.security import verify_row_security
from db.session import Session, SessionOptions
from schema.changes import encode_cursor
from server.sweeper import Sweeper
from tests.care.conftest import Place
from tests.care.exporting import ask_for, exporter, owner_of
from tests.edge.whole import sign_up

START = encode_cursor(journal.START)
KEPT = Retention(logins=timedelta(days=10), events=timedelta(days=100))
COUNTED = ("login_sessions", "idempotency_keys", "audit_events", "account_exports",
           "account_export_parts")  # fmt: skip

LOGINS = """
    INSERT INTO login_sessions (owner_id, token_hash, expires_at, revoked_at, device_name)
    SELECT :id, sha256(random()::text::bytea), now() + expires, now() + revoked, name FROM (VALUES
        ('expired long ago', interval '-11 days', NULL::interval),
        ('revoked long ago', interval '50 days', interval '-11 days'),
        ('expired lately', interval '-9 days', NULL),
        ('revoked lately', interval '50 days', interval '-9 days'),
        ('revoked lately, expired before', interval '-9 days', interval '-8 days')
    ) t (name, expires, revoked)
"""
KEYS = """
    INSERT INTO idempotency_keys (owner_id, operation, key, request_sha256, expires_at)
    SELECT :id, 'x', n::text, sha256(''), now() + make_interval(mins => n - :expired)
    FROM generate_series(1, :count) n
"""
EVENTS = """
    INSERT INTO audit_events (owner_id, actor_kind, actor_id, action, entity_type, entity_id,
        request_id, created_at)
    SELECT :id, 'user', :id, 'update', 'task', uuidv7(), 'r', now() - make_interval(days => :days)
    FROM generate_series(1, :count)
"""


def sweeper(place: Place) -> Sweeper:
    return Sweeper(place.engine, SessionOptions(), KEPT, pause_seconds=0)


async def do(place: Place, statement: str, **parameters: Any) -> None:
    async with place.admin.connect() as connection:
        await connection.execute(sa.text(statement), parameters)


async def counts(place: Place, owner_id: UUID) -> dict[str, int]:
    found = {}
    async with place.admin.connect() as connection:
        for table in COUNTED:
            count = sa.text(f"SELECT count(*) FROM {table} WHERE owner_id = :id")
            found[table] = (await connection.execute(count, {"id": owner_id})).scalar_one()
    return found


async def test_exactly_what_is_old_goes(place: Place, statements: list[str]) -> None:
    anna, bert = await sign_up(place.served), await sign_up(place.served)
    mine, theirs = owner_of(anna), owner_of(bert)
    await do(place, LOGINS, id=mine)
    await do(place, KEYS, id=mine, count=1_210, expired=1_200)
    await do(place, EVENTS, id=mine, count=1_234, days=101)
    await do(place, EVENTS, id=mine, count=7, days=99)
    await do(place, EVENTS, id=theirs, count=3, days=99)
    await ask_for(anna)
    await ask_for(bert)
    assert await exporter(place.engine, part_bytes=1).run() == 2
    await do(place, "UPDATE account_exports SET expires_at = now() WHERE owner_id = :id", id=mine)
    before, untouched = await counts(place, mine), await counts(place, theirs)
    assert before["account_export_parts"] > 3

    statements.clear()
    removed = await sweeper(place).run()
    after = await counts(place, mine)
    assert removed == {
        "login_sessions": 2,
        "idempotency_keys": 1_200,
        "exports": before["account_export_parts"] + 1,
        "audit_events": 1_234,
    }
    assert before["login_sessions"] - after["login_sessions"] == 2
    assert after["idempotency_keys"] == 10
    # An event for each log-in and for the export that went.
    assert after["audit_events"] == before["audit_events"] - 1_234 + 3
    assert (after["account_exports"], after["account_export_parts"]) == (0, 0)
    assert await counts(place, theirs) == untouched
    # 1,234 in batches of 500, and one more that finds nothing.
    assert BATCH_ROWS == 500
    assert sum("engram_sweep_events" in sql for sql in statements) == 4
    assert sum(sql.startswith("DELETE FROM idempotency_keys") for sql in statements) == 4  # 1,200
    names = await anna.ask("{ loginSessions { nodes { deviceName } } }")
    assert not any(
        "long ago" in (node["deviceName"] or "") for node in names["loginSessions"]["nodes"]
    )
    nothing = await sweeper(place).run()
    assert nothing is not None
    assert set(nothing.values()) == {0}


FEED = """query($after: String) {
    changes(after: $after) { nodes { cursor } latestCursor pageInfo { endCursor } }
}"""


async def test_the_feed_begins_after_what_was_swept(place: Place) -> None:
    anna = await sign_up(place.served)
    owner_id = owner_of(anna)
    await do(place, EVENTS, id=owner_id, count=2, days=200)
    await do(place, EVENTS, id=owner_id, count=2, days=150)
    await do(place, EVENTS, id=owner_id, count=2, days=50)
    started_early = EVENTS.replace("INSERT", "INSERT /* begun long before it wrote */")
    await do(place, started_early, id=owner_id, count=1, days=150)
    await do(place, EVENTS, id=owner_id, count=2, days=50)
    await place.settled()
    before = (await anna.ask(FEED))["changes"]
    cursors = [node["cursor"] for node in before["nodes"]]
    kept = cursors[-2:]
    assert len(cursors) == 3 + 9  # of the sign-up as well
    await sweeper(place).run()

    after = (await anna.ask(FEED))["changes"]
    assert [node["cursor"] for node in after["nodes"]][-2:] == kept
    # After each of these something would be missing, and be it one event among those that are kept.
    for cursor in [START, *cursors[:-3]]:
        refused = await anna.execute(FEED, after=cursor)
        (error,) = refused["errors"]
        assert error["extensions"] == {"code": "BAD_CURSOR"}
        assert error["message"].endswith("read everything anew.")
    # The last one that was swept is where the feed begins: who has read it has missed nothing.
    last_swept = cursors[-3]
    for cursor, count in ((last_swept, 2), (kept[0], 1), (kept[1], 0)):
        assert len((await anna.ask(FEED, after=cursor))["changes"]["nodes"]) == count


async def until_settled(place: Place) -> None:
    """Other tests of this run hold transactions on the same server, which hold up the feed."""
    held = sa.text("SELECT count(*) FROM audit_events WHERE xid >= engram_feed_horizon()")
    async with asyncio.timeout(20), place.admin.connect() as connection:
        while await connection.scalar(held):  # noqa: ASYNC110 - it is PostgreSQL's
            await asyncio.sleep(0.01)


async def test_a_feed_of_which_all_was_swept_goes_on(place: Place) -> None:
    anna = await sign_up(place.served)
    await do(place, "UPDATE audit_events SET created_at = now() - interval '1 year'")
    await until_settled(place)
    await place.settled()
    last = (await anna.ask(FEED))["changes"]["latestCursor"]
    await sweeper(place).run()
    swept = (await anna.ask(FEED))["changes"]
    assert (swept["nodes"], swept["latestCursor"]) == ([], last)
    assert (await anna.ask(FEED, after=last))["changes"] == swept


async def test_everybody_is_looked_at_page_by_page(
    place: Place, monkeypatch: pytest.MonkeyPatch, statements: list[str]
) -> None:
    monkeypatch.setattr(retention, "OWNERS_AT_ONCE", 2)
    people = [owner_of(await sign_up(place.served)) for _ in range(5)]
    for owner_id in people:
        await do(place, EVENTS, id=owner_id, count=1, days=365)
    removed = await sweeper(place).run()
    assert removed is not None
    assert removed["audit_events"] == 5
    assert sum("engram_owners_to_sweep" in sql for sql in statements) == 3


async def test_one_process_sweeps_at_a_time(place: Place) -> None:
    anna = await sign_up(place.served)
    await do(place, EVENTS, id=owner_of(anna), count=1, days=365)
    async with Session(place.engine, None) as other, other.transaction():
        assert await retention.alone(other)
        assert await sweeper(place).run() is None
    removed = await sweeper(place).run()
    assert removed is not None
    assert removed["audit_events"] == 1


async def test_the_guard_keeps_no_snapshot(place: Place) -> None:
    anna = await sign_up(place.served)
    held = "SELECT count(backend_xmin) FROM pg_stat_activity WHERE state = 'idle in transaction'"
    async with Session(place.engine, None) as guard, guard.transaction():
        await retention.alone(guard)
        await retention.owners(guard, None, KEPT)
        async with place.admin.connect() as connection:
            mine = f"{held} AND datname = current_database()"
            assert await connection.scalar(sa.text(mine)) == 0
    assert anna.token


async def test_a_row_in_use_is_left_for_the_next_time(place: Place) -> None:
    anna = await sign_up(place.served)
    await do(place, KEYS, id=owner_of(anna), count=3, expired=10)
    async with place.admin.connect() as connection:
        await connection.execution_options(isolation_level="READ COMMITTED")
        async with connection.begin():
            await connection.execute(
                sa.text("SELECT FROM idempotency_keys WHERE key = '2' FOR UPDATE")
            )
            removed = await sweeper(place).run()
    assert removed is not None
    assert removed["idempotency_keys"] == 2
    assert (await counts(place, owner_of(anna)))["idempotency_keys"] == 1


async def test_the_application_cannot_sweep_more_than_it_is_let(place: Place) -> None:
    """Whatever it asks for: no young events, nobody else's, and none without an owner."""
    anna, bert = await sign_up(place.served), await sign_up(place.served)
    mine, theirs = owner_of(anna), owner_of(bert)
    for owner_id in (mine, theirs):
        await do(place, EVENTS, id=owner_id, count=2, days=31)
        await do(place, EVENTS, id=owner_id, count=2, days=29)
    before = await counts(place, mine), await counts(place, theirs)
    greedy = sa.text("SELECT engram_sweep_events(interval '-100 years', 1000000)")
    async with Session(place.engine, None) as session, session.transaction():
        assert await session.scalar(greedy) == 0
    async with Session(place.engine, mine) as session:
        async with session.transaction():
            assert await session.scalar(greedy) == 2
        with pytest.raises(ProgrammingError, match="permission denied"):
            async with session.transaction():
                await session.execute(sa.text("DELETE FROM audit_events"))
    after = await counts(place, mine), await counts(place, theirs)
    assert after[0]["audit_events"] == before[0]["audit_events"] - 2
    assert after[1] == before[1]


async def test_the_search_for_owners_says_only_whose_rows_are_old(place: Place) -> None:
    anna, bert = await sign_up(place.served), await sign_up(place.served)
    await do(place, EVENTS, id=owner_of(bert), count=1, days=365)
    async with Session(place.engine, owner_of(anna)) as session, session.transaction():
        found = await retention.owners(session, None, KEPT)
        assert (found.last_id, list(found.due)) == (None, [owner_of(bert)])
        # The session is its owner's again.
        setting = sa.text("SELECT current_setting('app.owner_id')")
        assert await session.scalar(setting) == str(owner_of(anna))
        assert await session.scalar(sa.text("SELECT count(*) FROM users")) == 1
    await verify_row_security(place.engine)
