"""messageAdded: every message that is added from now on, once, also across a lost connection."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from db.notifications import Listener
from schema import ids
from schema.context import Changes
from tests import watching
from tests.conftest import NewPerson
from tests.conversations.talks import edit, say, start, talk
from tests.mutations import done
from tests.people import Person
from tests.watching import ByHand

ADDED = """subscription($id: ID!) {
    messageAdded(conversationId: $id) { content depth conversation { title } parent { content } }
}"""


def put(changes: ByHand, operation: str, *messages: str) -> None:
    """Announce messages by hand."""
    changes.put(operation, *(ids.decode(message)[1] for message in messages))


class Watch:
    """What a subscriber gets, without the messages it knew before."""

    def __init__(self, watch: watching.Watch, known: Collection[str]) -> None:
        self._watch = watch
        self._known = known

    async def next(self) -> dict[str, Any]:
        """The next message."""
        while True:
            message: dict[str, Any] = (await self._watch.next())["messageAdded"]
            if message["content"] not in self._known:
                return message

    async def contents(self, count: int) -> list[str]:
        """The texts of the next messages."""
        return [(await self.next())["content"] for _ in range(count)]

    @property
    def waiting(self) -> int:
        return self._watch.answers.qsize()


@asynccontextmanager
async def watch_added(
    person: Person, changes: Changes, conversation: str, known: Collection[str] = ()
) -> AsyncIterator[Watch]:
    """A subscription as the server runs it. What was just added before may still be announced."""
    async with watching.watching(person, changes, ADDED, id=conversation) as watch:
        yield Watch(watch, known)


async def test_a_subscriber_gets_what_is_added(person: Person, listener: Listener) -> None:
    conversation = await start(person, title="T")
    first = await say(person, conversation, "a")
    async with watch_added(person, listener, conversation, known="a") as watch:
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
    async with watch_added(person, listener, conversation, known="ab") as watch:
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
    async with watch_added(person, listener, conversation) as watch:
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
        answers = [
            answer async for answer in watching.subscribe(person, listener, ADDED, id=identifier)
        ]
        assert [error["extensions"]["code"] for error in answers[0].errors] == [code]
        assert len(answers) == 1


async def test_a_lost_connection_loses_no_message(
    person: Person, listener: Listener, admin_engine: AsyncEngine
) -> None:
    conversation, _ = await talk(person, "a")
    async with watch_added(person, listener, conversation, known="a") as watch:
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


async def test_who_comes_back_gets_what_was_missed(person: Person, listener: Listener) -> None:
    conversation, (_, b) = await talk(person, "a", "b")
    await edit(person, b, "B")
    await say(person, conversation, "c")
    document = ADDED.replace("($id: ID!)", "($id: ID!, $after: ID)").replace(
        "conversationId: $id", "conversationId: $id, after: $after"
    )
    async with watching.watching(person, listener, document, id=conversation, after=b) as watch:
        missed = [(await watch.next())["messageAdded"]["content"] for _ in range(2)]
        assert missed == ["B", "c"]
        await say(person, conversation, "d")
        assert (await watch.next())["messageAdded"]["content"] == "d"
    _, (foreign,) = await talk(person, "elsewhere")
    for after, code in ((foreign, "NOT_FOUND"), (conversation, "BAD_ID")):
        given = {"id": conversation, "after": after}
        answers = [one async for one in watching.subscribe(person, listener, document, **given)]
        assert [error["extensions"]["code"] for error in answers[0].errors] == [code]


async def test_what_a_gap_read_again_is_not_announced_twice(person: Person) -> None:
    changes = ByHand()
    conversation, _ = await talk(person, "old")
    async with watch_added(person, changes, conversation) as watch:
        b = await say(person, conversation, "b")
        put(changes, "insert", b)
        assert await watch.contents(1) == ["b"]
        c, d = await say(person, conversation, "c"), await say(person, conversation, "d")
        put(changes, "gap")
        put(changes, "gap")
        put(changes, "insert", c, d)
        assert await watch.contents(2) == ["c", "d"]
        e = await say(person, conversation, "e")
        put(changes, "insert", e)
        assert await watch.contents(1) == ["e"]
        assert watch.waiting == 0


async def test_a_gap_before_anything_was_announced(person: Person) -> None:
    changes = ByHand()
    conversation, _ = await talk(person, "old")
    async with watch_added(person, changes, conversation) as watch:
        # Once it has given this one, it has looked where it starts from.
        put(changes, "insert", await say(person, conversation, "b"))
        assert await watch.contents(1) == ["b"]
        added = [f"{n}" for n in range(3)]
        for content in added:
            await say(person, conversation, content)
        put(changes, "gap")
        put(changes, "gap")
        assert await watch.contents(3) == added
        await asyncio.sleep(0.1)
        assert watch.waiting == 0


async def test_a_subscription_holds_no_connection_while_it_waits(
    person: Person, listener: Listener, engine: AsyncEngine
) -> None:
    conversation = await start(person)
    async with watch_added(person, listener, conversation) as watch:
        await say(person, conversation, "a")
        await watch.next()
        await asyncio.sleep(0.05)
        pool: Any = engine.pool
        assert pool.checkedout() == 1, "the listener's own"
