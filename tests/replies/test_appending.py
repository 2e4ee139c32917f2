"""Deltas of many owners in one transaction: each is bound to its owner and to its run's epoch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from db.locking import lock_one
from db.models.conversations import Message, MessageStatus
from db.models.conversations_generations import DeltaKind, Generation
from db.notifications import Listener
from db.repositories import conversations_runs as runs
from db.repositories.conversations_generations import Lease, follow, stop_generation
from db.repositories.conversations_runs import Delta, Fenced, Outcome, Place
from db.scope import readable
from db.session import SessionOptions
from schema import ids
from server.replies.service import Replies, ReplyOptions
from server.replies.store import Job, Store
from tests.conftest import NewPerson, OpenSession
from tests.conversations.talks import start
from tests.mutations import done
from tests.people import Person

GENERATIONS = Generation.__table__
MESSAGES = Message.__table__


async def ask(person: Person) -> UUID:
    """A generation that nobody runs: it is stored, and that is all."""
    payload = await done(
        person, "sendMessage", "generation { id }",
        conversationId=await start(person), content="Hello",
    )  # fmt: skip
    return ids.decode(payload["generation"]["id"])[1]


def place(person: Person, id: UUID, seq: int, text: str, *, epoch: int = 1) -> Place:
    return Place(person.owner_id, id, epoch, Delta(seq, DeltaKind.TEXT, text))


async def append(open_session: OpenSession, places: Sequence[Place]) -> list[str]:
    session = open_session(None)
    async with session.transaction():
        return await runs.append_all(session, places)


async def text(open_session: OpenSession, person: Person, id: UUID) -> str:
    session = open_session(person.owner_id)
    progress = await follow(session, id, 0)
    await session.end_snapshot()
    assert progress is not None
    return progress.text


async def test_each_has_its_owner_and_its_epoch(
    new_person: NewPerson, open_session: OpenSession
) -> None:
    anna, bert = await new_person(), await new_person()
    hers, his = await ask(anna), await ask(bert)
    outcomes = await append(
        open_session,
        [
            place(anna, hers, 1, "a"),
            place(bert, his, 1, "b"),
            place(anna, hers, 2, "c"),
            place(anna, hers, 3, "old", epoch=0),
            place(anna, his, 9, "foreign"),
            place(bert, uuid4(), 1, "nothing"),
        ],
    )
    assert outcomes == ["stored", "stored", "stored", "fenced", "fenced", "fenced"]
    assert await text(open_session, anna, hers) == "ac"
    assert await text(open_session, bert, his) == "b"


async def test_what_is_sent_again_is_there_once(person: Person, open_session: OpenSession) -> None:
    id = await ask(person)
    for _ in range(2):
        assert await append(open_session, [place(person, id, 1, "once")]) == ["stored"]
    assert await text(open_session, person, id) == "once"


async def test_who_is_locked_keeps_nobody_waiting(
    new_person: NewPerson, open_session: OpenSession
) -> None:
    anna, bert = await new_person(), await new_person()
    hers, his = await ask(anna), await ask(bert)
    places = [place(anna, hers, 1, "a"), place(bert, his, 1, "b")]
    stopping = open_session(anna.owner_id)
    async with stopping.transaction():
        await stop_generation(stopping, hers)
        assert await append(open_session, places) == ["busy", "stored"]
    assert await append(open_session, places) == ["fenced", "stored"]


async def test_the_end_waits_for_who_has_locked_it(
    person: Person, engine: AsyncEngine, open_session: OpenSession
) -> None:
    id = await ask(person)
    looking = open_session(person.owner_id)
    [row] = await looking.execute(readable(GENERATIONS).where(GENERATIONS.c.id == id))
    await looking.end_snapshot()
    store = Store(engine, SessionOptions(), Lease(uuid4(), timedelta(seconds=5)), at_once=2)
    job, outcome = Job.of(row), Outcome(MessageStatus.COMPLETE)
    holding = open_session(person.owner_id)
    async with holding.transaction():
        await runs.hold(holding, id, 1, timedelta(seconds=5))
        ending = asyncio.create_task(
            store.finish(job, [Delta(1, DeltaKind.TEXT, "the last words")], outcome)
        )
        await asyncio.wait({ending}, timeout=0.2)
        assert not ending.done(), "who says that it is alive does not end it"
    await ending
    shown: Any = await person.ask(
        "query($id: ID!) { node(id: $id) { ... on Generation { status"
        " assistantMessage { status content } } } }",
        id=ids.encode("generation", id),
    )
    message = {"status": "COMPLETE", "content": "the last words"}
    assert shown["node"] == {"status": "COMPLETE", "assistantMessage": message}


async def test_a_run_goes_on_in_its_own_name(
    person: Person, open_session: OpenSession, admin_engine: AsyncEngine
) -> None:
    id = await ask(person)
    session = open_session(person.owner_id)
    async with session.transaction():
        await runs.begin(session, id, 1, {})
        await runs.append(session, id, 1, [Delta(1, DeltaKind.TEXT, "whole")])
        await runs.hold(session, id, 1, timedelta(seconds=5))
        await runs.finish(session, id, 1, Outcome(MessageStatus.COMPLETE))
    shown: Any = await person.ask(
        "query($id: ID!) { node(id: $id) { ... on Generation { status lastSeq"
        " assistantMessage { status content } } } }",
        id=ids.encode("generation", id),
    )
    message = {"status": "COMPLETE", "content": "whole"}
    assert shown["node"] == {"status": "COMPLETE", "lastSeq": 1, "assistantMessage": message}
    async with admin_engine.connect() as connection:
        left = sa.text("SELECT count(*) FROM generation_deltas WHERE generation_id = :id")
        assert await connection.scalar(left, {"id": id}) == 0
    writes: list[Callable[[], Awaitable[None]]] = [
        lambda: runs.append(session, id, 1, [Delta(2, DeltaKind.TEXT, "late")]),
        lambda: runs.hold(session, id, 1, timedelta(seconds=5)),
        lambda: runs.finish(session, id, 1, Outcome(MessageStatus.FAILED)),
    ]
    for write in writes:
        with pytest.raises(Fenced):
            async with session.transaction():
                await write()


async def test_a_runner_whose_reply_another_has_begun_anew_is_fenced_out(
    person: Person, open_session: OpenSession, admin_engine: AsyncEngine
) -> None:
    id = await ask(person)
    async with admin_engine.connect() as connection:
        lapse = "UPDATE generations SET lease_expires_at = now() - interval '1 s' WHERE id = :id"
        await connection.execute(sa.text(lapse), {"id": id})
    session, minute = open_session(person.owner_id), timedelta(seconds=60)
    async with session.transaction():
        taken: Any = await runs.take_over(session, id, uuid4(), minute, may_begin=True)
    assert taken.epoch == 2
    writes: list[Callable[[int], Awaitable[None]]] = [
        lambda epoch: runs.begin(session, id, epoch, {}),
        lambda epoch: runs.append(session, id, epoch, [Delta(1, DeltaKind.TEXT, "mine")]),
        lambda epoch: runs.hold(session, id, epoch, minute),
        lambda epoch: runs.finish(session, id, epoch, Outcome(MessageStatus.COMPLETE)),
    ]
    for write in writes:
        with pytest.raises(Fenced):
            async with session.transaction():
                await write(1)
        async with session.transaction():
            await write(2)


async def test_one_that_cannot_be_ended_holds_up_no_other(
    person: Person, engine: AsyncEngine, open_session: OpenSession, admin_engine: AsyncEngine
) -> None:
    stuck, other = await ask(person), await ask(person)
    lapse = (
        "UPDATE generations SET lease_expires_at = now() - interval '1 s' * :n,"
        " status = 'streaming' WHERE id = :id"
    )
    async with admin_engine.connect() as connection:
        await connection.execute(sa.text(lapse), {"id": stuck, "n": 1_000})
        await connection.execute(sa.text(lapse), {"id": other, "n": 1})
    shows = """query($id: ID!) { node(id: $id) { ... on Generation {
        status assistantMessage { id } } } }"""

    async def node(id: UUID) -> dict[str, Any]:
        found: dict[str, Any] = (await person.ask(shows, id=ids.encode("generation", id)))["node"]
        return found

    message = ids.decode((await node(stuck))["assistantMessage"]["id"])[1]
    options = SessionOptions(lock_timeout_ms=50)
    replies = Replies(engine, options, ReplyOptions(lease_seconds=0.5), Listener(engine))
    holding = open_session(person.owner_id)
    async with holding.transaction():
        await lock_one(holding, MESSAGES, message)
        replies.open()
        async with asyncio.timeout(20):
            while (await node(other))["status"] != "INTERRUPTED":  # noqa: ASYNC110 - there is nothing to wait on
                await asyncio.sleep(0.02)
        assert (await node(stuck))["status"] == "STREAMING"
    async with asyncio.timeout(20):
        while (await node(stuck))["status"] != "INTERRUPTED":  # noqa: ASYNC110 - there is nothing to wait on
            await asyncio.sleep(0.02)
    await replies.close(0)


async def test_only_what_was_abandoned_is_taken_over(
    person: Person, open_session: OpenSession, admin_engine: AsyncEngine
) -> None:
    id, runner = await ask(person), uuid4()
    session = open_session(person.owner_id)

    async def take(*, may_begin: bool = True) -> Any:
        async with session.transaction():
            return await runs.take_over(
                session, id, runner, timedelta(seconds=60), may_begin=may_begin
            )

    async def abandon(age: timedelta = timedelta()) -> None:
        async with admin_engine.connect() as connection:
            await connection.execute(
                sa.text(
                    "UPDATE generations SET lease_expires_at = now() - interval '1 second',"
                    " created_at = created_at - cast(:age AS interval) WHERE id = :id"
                ),
                {"id": id, "age": age},
            )

    assert await take() is None, "its lease holds"
    await abandon()
    nobody = open_session(None)
    assert (person.owner_id, id) in await runs.abandoned(nobody, 1_000)
    taken = await take()
    assert (taken.epoch, taken.runner_id) == (2, runner)
    assert (person.owner_id, id) not in await runs.abandoned(open_session(None), 1_000)
    await abandon(timedelta(hours=1))
    assert await take() is None, "nobody waits for it any more"
    shown: Any = await person.ask(
        "query($id: ID!) { node(id: $id) { ... on Generation { status error } } }",
        id=ids.encode("generation", id),
    )
    assert shown["node"]["status"] == "INTERRUPTED"
    assert shown["node"]["error"]["code"] == "interrupted"
