"""`changes` as a subscription: each change, at least once, in order, from a cursor on."""

import asyncio
import gc
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

import schema.changes
from db.notifications import Listener
from schema import ids
from schema.context import Actor, Context
from tests.changes.feed import (
    FOLLOW,
    codes,
    first_answer,
    following,
    latest,
    next_change,
    page,
    settled,
    short,
)
from tests.conftest import NewPerson, OpenSession
from tests.edge.waiting import until
from tests.people import Person
from tests.watching import subscribe, watching
from tests.work.asking import done, new_project, new_task, new_tasks

CUT = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND query ILIKE 'LISTEN%'
"""


async def test_a_subscriber_gets_every_change_with_the_row(
    person: Person, listener: Listener
) -> None:
    async with following(person, listener) as watch:
        project = await new_project(person)
        change = await next_change(watch)
        node = {"__typename": "Project", "id": project}
        assert change == {
            "cursor": change["cursor"],
            "action": "create",
            "entityType": "PROJECT",
            "entityId": project,
            "version": 1,
            "node": node,
        }
        await done(person, "updateProject", "project { id }", id=project, name="Other")
        change = await next_change(watch)
        assert (change["action"], change["version"], change["node"]) == ("update", 2, node)
        await done(person, "deleteProject", "project { id }", id=project)
        change = await next_change(watch)
        assert (change["action"], change["version"], change["node"]) == ("delete", 3, None)
        assert watch.answers.empty()


async def test_what_the_query_shows_the_subscription_gives(
    person: Person, listener: Listener
) -> None:
    start = await latest(person)
    project = await new_project(person)
    await new_tasks(person, project, *({} for _ in range(250)))
    await settled(person)
    shown = (await page(person, after=start, first=1000))["nodes"]
    async with following(person, listener, after=start) as watch:
        assert [await next_change(watch) for _ in range(251)] == shown
        last = await new_task(person, project)
        assert (await next_change(watch))["entityId"] == last
    middle = shown[100]["cursor"]
    async with following(person, listener, after=middle) as watch:
        assert [await next_change(watch) for _ in range(150)] == shown[101:]


async def test_relations_of_the_row_can_be_asked_for(person: Person, listener: Listener) -> None:
    document = """subscription {
        changes(entityTypes: [TASK]) {
            node { ... on Task { title project { name tasks { totalCount } } } }
        }
    }"""
    project = await new_project(person)
    await settled(person)
    async with watching(person, listener, document) as watch:
        await new_tasks(person, project, {}, {})
        answers = [(await watch.next())["changes"]["node"] for _ in range(2)]
    shown = {"project": {"name": "ENG", "tasks": {"totalCount": 2}}}
    assert answers == [{"title": "task 0", **shown}, {"title": "task 1", **shown}]


async def test_it_begins_where_the_feed_ends(person: Person, listener: Listener) -> None:
    await new_project(person, "OLD")
    await settled(person)
    async with watching(person, listener, FOLLOW) as watch:
        # It begins a moment after it was asked for; what is done before that is not heard of.
        made: list[str] = []
        while watch.answers.empty():
            made.append(await new_project(person, f"NEW{len(made)}"))
            await asyncio.sleep(0.1)
        assert (await next_change(watch))["entityId"] in made


async def test_types_are_chosen(person: Person, listener: Listener) -> None:
    async with following(person, listener, types=["WORKER", "PROJECT"]) as watch:
        project = await new_project(person)
        await new_task(person, project)
        await done(person, "createWorker", "worker { id }", name="Agent")
        seen = [short(await next_change(watch)) for _ in range(2)]
        assert seen == [("create", "PROJECT"), ("create", "WORKER")]


async def test_changes_of_all_tables_are_heard_of(person: Person, listener: Listener) -> None:
    """Also of those that have no subscription of their own."""
    async with following(person, listener) as watch:
        await done(person, "createConversation", "conversation { id }", title="T")
        await done(person, "createDocument", "document { id }", title="D", content="text")
        seen = [(await next_change(watch))["entityType"] for _ in range(2)]
        assert seen == ["CONVERSATION", "DOCUMENT"]


async def test_others_changes_are_not_heard_of(
    person: Person, new_person: NewPerson, listener: Listener
) -> None:
    stranger = await new_person()
    async with following(person, listener) as watch:
        await new_project(stranger)
        project = await new_project(person)
        assert (await next_change(watch))["entityId"] == project


async def test_a_bad_cursor_is_refused(person: Person, listener: Listener) -> None:
    answer = await first_answer(person, listener, after="nonsense")
    assert (codes(answer.errors), answer.executed) == (["BAD_CURSOR"], False)


async def test_a_key_hears_of_what_it_may_see(person: Person, listener: Listener) -> None:
    services = replace(person.services, changes=listener)
    actor = Actor(person.owner_id, "key", uuid4(), frozenset({"read"}))
    context = Context(services, actor, request_id="test")
    assert "LOGIN_SESSION" not in schema.changes.permitted(context, None)
    await context.__aexit__()


async def test_a_lost_connection_loses_nothing(
    person: Person, listener: Listener, admin_engine: AsyncEngine
) -> None:
    async with following(person, listener) as watch:
        for round_ in range(2):
            async with admin_engine.connect() as connection:
                await connection.execute(sa.text(CUT))
            project = await new_project(person, f"P{round_}")
            assert (await next_change(watch))["entityId"] == project


async def test_what_was_held_up_comes_when_it_has_settled(
    person: Person, listener: Listener, open_session: OpenSession, new_person: NewPerson
) -> None:
    stranger = await new_person()
    foreign = await new_project(stranger)
    async with following(person, listener) as watch:
        session = open_session(stranger.owner_id)
        async with session.transaction():
            await session.execute(
                sa.text("UPDATE projects SET name = 'x' WHERE owner_id = :owner_id AND id = :id"),
                {"id": ids.decode(foreign)[1]},
            )
            project = await new_project(person)
            await until(lambda: listener._horizon._waiting)
            assert watch.answers.empty()
        assert (await next_change(watch))["entityId"] == project


async def test_a_node_that_was_read_long_ago_is_read_again(
    person: Person, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema.changes, "FRESH_SECONDS", -1.0)
    async with following(person, listener) as watch:
        project = await new_project(person)
        change = await next_change(watch)
        assert change["node"] == {"__typename": "Project", "id": project}


async def test_a_slow_reader_gets_everything_and_nothing_is_kept_for_it(
    person: Person, listener: Listener
) -> None:
    """What it has not taken is in the database, however much that is."""
    start = await latest(person)
    project = await new_project(person)
    answers: Any = subscribe(person, listener, FOLLOW, after=start)
    seen = [(await anext(answers)).data["changes"]["entityId"]]
    made = [project]
    for _ in range(3):
        made += await new_tasks(person, project, *({} for _ in range(400)))
    await settled(person)
    gc.collect()
    kept = [one for one in gc.get_objects() if type(one) is schema.changes.Change]
    assert len(kept) <= schema.changes.READ_AT_ONCE
    seen += [(await anext(answers)).data["changes"]["entityId"] for _ in made[1:]]
    assert seen == made
    await answers.aclose()


async def test_a_subscription_holds_no_connection_while_it_waits(
    person: Person, listener: Listener, engine: AsyncEngine
) -> None:
    async with following(person, listener) as watch:
        await new_project(person)
        await next_change(watch)
        pool: Any = engine.pool
        await until(lambda: pool.checkedout() == 1)  # the listener's own


async def test_who_goes_is_forgotten(person: Person, listener: Listener) -> None:
    async with following(person, listener) as watch:
        await new_project(person)
        await next_change(watch)
        assert len(listener._watches[person.owner_id]) == 1
    gc.collect()
    listener._forget_gone()
    assert person.owner_id not in listener._watches
