"""Where nothing can be heard by LISTEN, changes are looked for; and silence is found out."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine

import db.notifications
from db.notifications import Change, Listener
from server.app import listening_engine
from tests.changes.feed import following, next_change
from tests.conversations.talks import say, start
from tests.edge.conftest import MakeSettings
from tests.edge.conftest import make_settings as make_settings
from tests.edge.waiting import until
from tests.people import Person
from tests.watching import watching
from tests.work.asking import done, new_project, new_task


@pytest_asyncio.fixture
async def polling(engine: AsyncEngine) -> AsyncIterator[Listener]:
    """A listener with nothing to listen on."""
    listener = Listener(None, reading=engine, poll_seconds=0.05)
    await listener.start()
    assert not listener.connected
    yield listener
    await listener.stop()


async def test_changes_are_found(person: Person, polling: Listener) -> None:
    async with following(person, polling) as watch:
        for n in range(3):
            project = await new_project(person, f"P{n}")
            assert (await next_change(watch))["entityId"] == project
        assert watch.answers.empty()


async def test_messages_and_tasks_are_found_once(person: Person, polling: Listener) -> None:
    project, conversation = await new_project(person), await start(person)
    tasks = "subscription($id: ID!) { taskChanged(projectId: $id) { title } }"
    messages = "subscription($id: ID!) { messageAdded(conversationId: $id) { content } }"
    async with (
        watching(person, polling, tasks, id=project) as task_watch,
        watching(person, polling, messages, id=conversation) as message_watch,
    ):
        for n in range(3):
            id = await new_task(person, project, f"{n}")
            assert await task_watch.next() == {"taskChanged": {"title": f"{n}"}}
            await done(person, "updateTask", "task { id }", id=id, title=f"{n}!")
            assert await task_watch.next() == {"taskChanged": {"title": f"{n}!"}}
            await say(person, conversation, f"{n}")
            assert await message_watch.next() == {"messageAdded": {"content": f"{n}"}}
        assert task_watch.answers.empty()
        assert message_watch.answers.empty()


async def test_a_connection_that_hears_nothing_is_given_up(
    engine: AsyncEngine, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db.notifications, "HEARD_SECONDS", 0.3)
    listener = Listener(engine, poll_seconds=0.05)
    monkeypatch.setattr(listener, "_on_notice", lambda *_: None)  # as behind a pooler
    await listener.start(seconds=0.5)
    assert not listener.connected
    async with following(person, listener) as watch:
        project = await new_project(person)
        assert (await next_change(watch))["entityId"] == project
    monkeypatch.undo()
    await until(lambda: listener.connected)
    await listener.stop()


async def test_a_connection_that_falls_silent_is_replaced(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db.notifications, "CHECK_SECONDS", 0.05)
    listener = Listener(engine)
    await listener.start()
    owner = uuid4()
    subscription = listener.subscribe(owner, "task", owner)
    monkeypatch.setattr(db.notifications, "HEARD_SECONDS", 0.0)
    await until(lambda: not listener.connected)
    monkeypatch.undo()
    async with asyncio.timeout(10):
        assert await anext(subscription) == Change("gap")
    await until(lambda: listener.connected)
    await listener.stop()


def test_who_listens_where(make_settings: MakeSettings) -> None:
    """Never through a pooler that was not named for it."""

    def url(**settings: Any) -> str | None:
        engine = listening_engine(make_settings(**settings))
        return None if engine is None else engine.url.database

    direct = "postgresql://x@127.0.0.1/direct"
    assert url(database_url=direct) == "direct"
    pooled = {"database_url": "postgresql://x@127.0.0.1/pooled", "database_pooler": "transaction"}
    assert url(**pooled) is None
    assert url(**pooled, database_migration_url=direct) == "direct"
    assert url(**pooled, database_listen_url=direct) == "direct"


async def test_gaps_do_not_pile_up(engine: AsyncEngine) -> None:
    listener = Listener(None, reading=engine, queue_size=3)
    owner = uuid4()
    subscription = listener.subscribe(owner, "task", owner)
    for _ in range(10):
        listener._tell_all()
    subscription.put(Change("update", (owner,)))
    assert await anext(subscription) == Change("gap")
    assert await anext(subscription) == Change("update", (owner,))
    listener._tell_all()
    assert await anext(subscription) == Change("gap")
