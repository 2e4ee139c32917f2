"""messageAdded: every message that is added from now on, once, also across a lost connection."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest_asyncio
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from db.notifications import Change, Listener, Subscription
from schema import build_schema, ids
from schema.context import Actor, Changes, Context
from server.documents import Documents
from server.execution import Answer, Planned, Runner
from server.guard import Limits
from server.requests import GraphQLRequest
from tests.conftest import NewPerson
from tests.conversations.talks import edit, say, start, talk
from tests.mutations import done
from tests.people import Person

SECONDS = 5
ADDED = """subscription($id: ID!) {
    messageAdded(conversationId: $id) { content depth conversation { title } parent { content } }
}"""


class Announcing:
    """Changes, and the news that somebody has subscribed to them."""

    def __init__(self, source: Changes) -> None:
        self.source = source
        self.subscribed = asyncio.Event()

    def subscribe(self, owner_id: UUID, entity_type: str, scope_id: UUID) -> Subscription:
        subscription = self.source.subscribe(owner_id, entity_type, scope_id)
        self.subscribed.set()
        return subscription


class ByHand:
    """Changes that a test makes up."""

    def __init__(self) -> None:
        self.subscription: Subscription | None = None

    def subscribe(self, owner_id: UUID, entity_type: str, scope_id: UUID) -> Subscription:
        self.subscription = Subscription((owner_id, entity_type, scope_id), 100)
        return self.subscription

    def put(self, operation: str, *messages: str) -> None:
        assert self.subscription is not None
        keys = tuple(ids.decode(message)[1] for message in messages)
        self.subscription.put(Change(operation, keys))


@pytest_asyncio.fixture
async def listener(engine: AsyncEngine) -> AsyncIterator[Listener]:
    """The one listener of a process, connected."""
    listener = Listener(engine)
    await listener.start()
    yield listener
    await listener.stop()


class Watch:
    """What a subscriber gets, without the messages it knew before."""

    def __init__(self, answers: asyncio.Queue[Answer], known: Collection[str]) -> None:
        self._answers = answers
        self._known = known

    async def next(self) -> dict[str, Any]:
        """The message of the next answer, which must have no errors."""
        while True:
            async with asyncio.timeout(SECONDS):
                answer = await self._answers.get()
            assert not answer.errors, answer.errors
            assert isinstance(answer.data, dict)
            message: dict[str, Any] = answer.data["messageAdded"]
            if message["content"] not in self._known:
                return message

    async def contents(self, count: int) -> list[str]:
        """The texts of the next messages."""
        return [(await self.next())["content"] for _ in range(count)]

    @property
    def waiting(self) -> int:
        return self._answers.qsize()


@asynccontextmanager
async def watching(
    person: Person, changes: Changes, conversation: str, known: Collection[str] = ()
) -> AsyncIterator[Watch]:
    """A subscription as the server runs it. What was just added before may still be announced."""
    source = Announcing(changes)
    answers: asyncio.Queue[Answer] = asyncio.Queue()

    async def collect() -> None:
        async for answer in subscribe(person, source, conversation):
            answers.put_nowait(answer)

    task = asyncio.create_task(collect())
    async with asyncio.timeout(SECONDS):
        await source.subscribed.wait()
    yield Watch(answers, known)
    task.cancel()
    await asyncio.wait({task})


def subscribe(person: Person, changes: Changes, conversation: str) -> AsyncIterator[Answer]:
    """The answers to a subscription."""
    schema = build_schema()
    runner = Runner(schema, Documents(schema._schema, Limits()))
    planned = runner.plan(GraphQLRequest(ADDED, variables={"id": conversation}))
    assert isinstance(planned, Planned), planned
    services = replace(person.services, changes=changes)
    actor = Actor(owner_id=person.owner_id, kind="user", id=uuid4())
    return runner.subscribe(planned, lambda: Context(services, actor, request_id="test"))


async def test_a_subscriber_gets_what_is_added(person: Person, listener: Listener) -> None:
    conversation = await start(person, title="T")
    first = await say(person, conversation, "a")
    async with watching(person, listener, conversation, known="a") as watch:
        await say(person, conversation, "b")
        parent = {"content": "a"}
        shown = {"content": "b", "depth": 1, "conversation": {"title": "T"}, "parent": parent}
        assert await watch.next() == shown
        await edit(person, first, "A")
        assert await watch.next() == {
            "content": "A",
            "depth": 0,
            "conversation": {"title": "T"},
            "parent": None,
        }


async def test_nothing_else_is_an_addition(person: Person, listener: Listener) -> None:
    conversation, (first, _) = await talk(person, "a", "b")
    elsewhere = await start(person)
    async with watching(person, listener, conversation, known="ab") as watch:
        await say(person, elsewhere, "not here")
        await done(
            person,
            "setActiveLeaf",
            "conversation { id }",
            conversationId=conversation,
            messageId=first,
        )
        for mutation in ("deleteConversation", "restoreConversation"):
            await done(person, mutation, "conversation { id }", id=conversation)
        await say(person, conversation, "c")
        assert await watch.contents(1) == ["c"]
        assert watch.waiting == 0


async def test_additions_at_once_come_in_their_order(person: Person, listener: Listener) -> None:
    conversation = await start(person)
    async with watching(person, listener, conversation) as watch:
        await asyncio.gather(*(say(person, conversation, f"{n}") for n in range(10)))
        assert [(await watch.next())["depth"] for _ in range(10)] == list(range(10))


async def test_a_conversation_that_is_not_the_callers_cannot_be_watched(
    person: Person, new_person: NewPerson, listener: Listener
) -> None:
    foreign = await start(await new_person())
    deleted = await start(person)
    await done(person, "deleteConversation", "conversation { id }", id=deleted)
    bad = foreign.replace("conversation", "message")
    for identifier, code in ((foreign, "NOT_FOUND"), (deleted, "NOT_FOUND"), (bad, "BAD_ID")):
        answers = [answer async for answer in subscribe(person, listener, identifier)]
        assert [error["extensions"]["code"] for error in answers[0].errors] == [code]
        assert len(answers) == 1


async def test_a_lost_connection_loses_no_message(
    person: Person, listener: Listener, admin_engine: AsyncEngine
) -> None:
    conversation, _ = await talk(person, "a")
    async with watching(person, listener, conversation, known="a") as watch:
        await say(person, conversation, "b")
        assert await watch.contents(1) == ["b"]
        for round_ in ("c", "d"):
            async with admin_engine.connect() as connection:
                ended = await connection.execute(
                    sa.text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE"
                        " datname = current_database() AND query ILIKE 'LISTEN%'"
                    )
                )
                assert len(ended.all()) >= 1
            expected = [f"{round_}{n}" for n in range(3)]
            for content in expected:
                await say(person, conversation, content)
            assert await watch.contents(3) == expected
        assert watch.waiting == 0


async def test_what_a_gap_read_again_is_not_announced_twice(person: Person) -> None:
    changes = ByHand()
    conversation, _ = await talk(person, "old")
    async with watching(person, changes, conversation) as watch:
        b = await say(person, conversation, "b")
        changes.put("insert", b)
        assert await watch.contents(1) == ["b"]
        c, d = await say(person, conversation, "c"), await say(person, conversation, "d")
        changes.put("gap")
        changes.put("gap")
        changes.put("insert", c, d)
        assert await watch.contents(2) == ["c", "d"]
        e = await say(person, conversation, "e")
        changes.put("insert", e)
        assert await watch.contents(1) == ["e"]
        assert watch.waiting == 0


async def test_a_gap_before_anything_was_announced(person: Person) -> None:
    changes = ByHand()
    conversation, _ = await talk(person, "old")
    async with watching(person, changes, conversation) as watch:
        # Once it has given this one, it has looked where it starts from.
        changes.put("insert", await say(person, conversation, "b"))
        assert await watch.contents(1) == ["b"]
        added = [f"{n}" for n in range(3)]
        for content in added:
            await say(person, conversation, content)
        changes.put("gap")
        changes.put("gap")
        assert await watch.contents(3) == added
        await asyncio.sleep(0.1)
        assert watch.waiting == 0


async def test_a_subscription_holds_no_connection_while_it_waits(
    person: Person, listener: Listener, engine: AsyncEngine
) -> None:
    conversation = await start(person)
    async with watching(person, listener, conversation) as watch:
        await say(person, conversation, "a")
        await watch.next()
        await asyncio.sleep(0.05)
        pool: Any = engine.pool
        assert pool.checkedout() == 1, "the listener's own"
