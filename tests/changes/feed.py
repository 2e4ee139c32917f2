"""Reading the change feed in tests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from db.notifications import Listener
from schema.context import Actor, Context
from server.execution import Answer
from tests.people import Person, answer_in
from tests.watching import Watch, subscribe

PAGE = """query($after: String, $types: [EntityType!], $first: Int) {
    changes(after: $after, entityTypes: $types, first: $first) {
        latestCursor
        nodes { cursor action entityType entityId version node { __typename id } }
        pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
    }
}"""
FOLLOW = """subscription($after: String, $types: [EntityType!]) {
    changes(after: $after, entityTypes: $types) {
        cursor action entityType entityId version node { __typename id }
    }
}"""
LATEST = "{ changes(first: 0) { latestCursor } }"
SECONDS = 30


async def page(person: Person, **variables: Any) -> dict[str, Any]:
    """A page of the feed as it is now."""
    found: dict[str, Any] = (await person.ask(PAGE, **variables))["changes"]
    return found


async def latest(person: Person) -> str:
    """The end of the feed, once all that was written has settled."""
    await settled(person)
    return str((await person.ask(LATEST))["changes"]["latestCursor"])


async def settled(person: Person) -> None:
    """Wait until nothing of the feed is held back: other tests of this run may be writing."""
    held = sa.text(
        "SELECT count(*) FROM audit_events WHERE owner_id = :owner AND xid >= engram_feed_horizon()"
    )
    async with asyncio.timeout(SECONDS), person.engine.connect() as connection:
        # as the tables' owner, whom row-level security binds
        owner = {"owner": person.owner_id}
        setting = sa.text("SELECT set_config('app.owner_id', :owner, false)")
        await connection.execute(setting, {"owner": str(person.owner_id)})
        try:
            while await connection.scalar(held, owner):  # noqa: ASYNC110 - it is PostgreSQL's
                await asyncio.sleep(0.01)
        finally:
            await connection.execute(setting, {"owner": ""})


def short(change: dict[str, Any]) -> tuple[str, str]:
    """The action and the type."""
    return change["action"], change["entityType"]


@asynccontextmanager
async def following(
    person: Person, listener: Listener, document: str = FOLLOW, **variables: Any
) -> AsyncIterator[Watch]:
    """A subscription to the feed, from the end of what is there unless told otherwise."""
    variables.setdefault("after", await latest(person))
    watch = Watch()

    async def collect() -> None:
        async for answer in subscribe(person, listener, document, **variables):
            watch.answers.put_nowait(answer)

    task = asyncio.create_task(collect())
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.wait({task})


async def next_change(watch: Watch) -> dict[str, Any]:
    """The next change that a subscriber gets."""
    change: dict[str, Any] = (await watch.next())["changes"]
    return change


async def first_answer(person: Person, listener: Listener, **variables: Any) -> Answer:
    """The first thing that a subscriber hears."""
    async with asyncio.timeout(SECONDS):
        async for answer in subscribe(person, listener, FOLLOW, **variables):
            return answer
    raise AssertionError("nothing was heard")


async def ask_as_key(person: Person, document: str, *scopes: str, **variables: Any) -> Any:
    """The answer to an API key with some scopes."""
    actor = Actor(owner_id=person.owner_id, kind="key", id=uuid4(), scopes=frozenset(scopes))
    context = Context(replace(person.services), actor, request_id="test")
    return await answer_in(context, document, variables)


def codes(errors: list[Any]) -> list[str]:
    """The codes of errors."""
    return [error["extensions"]["code"] for error in errors]
