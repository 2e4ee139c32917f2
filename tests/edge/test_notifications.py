"""One LISTEN connection: who is told of what, and what happens when it breaks."""

import asyncio
import gc
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from db.announcements import Operation
from db.engine import create_engine
from db.notifications import Change, FellBehind, Listener, Subscription
from tests.conftest import NewOwner, OpenSession
from tests.edge.waiting import until


@pytest_asyncio.fixture
async def listener(database_url: str) -> AsyncIterator[Listener]:
    engine = create_engine(database_url, pooled=False)
    listener = Listener(engine, queue_size=10)
    await listener.start()
    yield listener
    await listener.stop()
    await engine.dispose()


@pytest_asyncio.fixture
async def owner(new_owner: NewOwner) -> UUID:
    return await new_owner()


async def announce(
    open_session: OpenSession,
    owner: UUID,
    entity_type: str,
    scope: UUID,
    ids: list[UUID],
    operation: Operation = "update",
) -> None:
    async with open_session(owner) as session, session.transaction():
        session.notify(entity_type, scope, ids, operation)


async def take(subscription: Subscription) -> Change:
    async with asyncio.timeout(5):
        return await anext(subscription)


async def test_subscribers_hear_of_their_own(
    listener: Listener, open_session: OpenSession, owner: UUID, new_owner: NewOwner
) -> None:
    project, other, stranger = uuid4(), uuid4(), await new_owner()
    subscription = listener.subscribe(owner, "task", project)
    one, two, three = uuid4(), uuid4(), uuid4()
    await announce(open_session, stranger, "task", project, [one])
    await announce(open_session, owner, "message", project, [one])
    await announce(open_session, owner, "task", other, [one])
    await announce(open_session, owner, "task", project, [two, three], "insert")
    await announce(open_session, owner, "task", project, [two], "delete")
    assert await take(subscription) == Change("insert", (two, three))
    assert await take(subscription) == Change("delete", (two,))


async def test_what_is_rolled_back_is_not_told(
    listener: Listener, open_session: OpenSession, owner: UUID
) -> None:
    scope, told = uuid4(), uuid4()
    subscription = listener.subscribe(owner, "task", scope)
    async with open_session(owner) as session, session.transaction() as transaction:
        session.notify("task", scope, [uuid4()], "insert")
        transaction.refuse()
    await announce(open_session, owner, "task", scope, [told])
    assert await take(subscription) == Change("update", (told,))


async def test_many_ids_come_in_parts(
    listener: Listener, open_session: OpenSession, owner: UUID
) -> None:
    scope, ids = uuid4(), [uuid4() for _ in range(1_000)]
    subscription = listener.subscribe(owner, "task", scope)
    await announce(open_session, owner, "task", scope, ids)
    told: list[UUID] = []
    while len(told) < len(ids):
        told.extend((await take(subscription)).ids)
    assert told == ids


async def test_a_change_is_kept_from_the_subscription_on(
    listener: Listener, open_session: OpenSession, owner: UUID
) -> None:
    scope, one = uuid4(), uuid4()
    subscription = listener.subscribe(owner, "task", scope)
    await announce(open_session, owner, "task", scope, [one])
    await until(lambda: not subscription._waiting.empty())  # nobody iterates yet
    assert await take(subscription) == Change("update", (one,))


async def test_a_subscriber_that_falls_behind_is_told_and_nobody_else(
    listener: Listener, open_session: OpenSession, owner: UUID
) -> None:
    scope = uuid4()
    slow, quick = (listener.subscribe(owner, "task", scope) for _ in range(2))
    for _ in range(15):
        await announce(open_session, owner, "task", scope, [uuid4()])
        await take(quick)
    for _ in range(10):
        await take(slow)
    with pytest.raises(FellBehind, match="More than 10 changes were waiting"):
        await take(slow)
    with pytest.raises(StopAsyncIteration):
        await take(slow)


async def test_subscribers_that_go_are_forgotten(
    listener: Listener, open_session: OpenSession, owner: UUID
) -> None:
    scope = uuid4()
    closed = listener.subscribe(owner, "task", scope)
    await closed.aclose()
    with pytest.raises(StopAsyncIteration):
        await take(closed)
    del closed
    listener.subscribe(owner, "task", scope)  # and dropped at once
    gc.collect()
    await announce(open_session, owner, "task", scope, [uuid4()])
    await until(lambda: (owner, "task", scope) not in listener._subscriptions)


@pytest.mark.parametrize(
    "payload", ["", "{}", "[]", "nonsense", '{"o": 1}', '{"o":"","t":"","s":""}']
)
async def test_notices_of_others_do_no_harm(
    listener: Listener,
    open_session: OpenSession,
    owner: UUID,
    admin_engine: AsyncEngine,
    payload: str,
) -> None:
    async with admin_engine.connect() as admin:
        await admin.execute(text("SELECT pg_notify('engram_changes', :p)"), {"p": payload})
    scope, one = uuid4(), uuid4()
    subscription = listener.subscribe(owner, "task", scope)
    await announce(open_session, owner, "task", scope, [one])
    assert await take(subscription) == Change("update", (one,))


async def test_a_lost_connection_is_replaced_and_the_gap_is_told(
    listener: Listener, open_session: OpenSession, owner: UUID, admin_engine: AsyncEngine
) -> None:
    scope, one = uuid4(), uuid4()
    subscription = listener.subscribe(owner, "task", scope)
    async with admin_engine.connect() as admin:
        found = await admin.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
            )
        )
        assert found.all()
    assert await take(subscription) == Change("gap")
    await announce(open_session, owner, "task", scope, [one])
    assert await take(subscription) == Change("update", (one,))


async def test_it_starts_without_a_database_and_keeps_trying() -> None:
    engine = create_engine("postgresql://nobody@127.0.0.1:1/nothing", pooled=False)
    listener = Listener(engine)
    await listener.start(seconds=0.5)
    assert not listener.connected
    await listener.stop()
    await engine.dispose()
