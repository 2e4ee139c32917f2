"""Subscriptions, watched as the server runs them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

from db.notifications import Change, Subscription
from db.notifications import Watch as Waking
from schema import build_schema
from schema.context import Actor, Changes, Context
from server.documents import Documents
from server.execution import Answer, Planned, Runner
from server.guard import Limits
from server.requests import GraphQLRequest
from tests.people import Person

SECONDS = 30


class _Announcing:
    """Changes, and the news that somebody has subscribed to them."""

    def __init__(self, source: Changes) -> None:
        self.source = source
        self.subscribed = asyncio.Event()

    def subscribe(self, owner_id: UUID, entity_type: str, scope_id: UUID) -> Subscription:
        subscription = self.source.subscribe(owner_id, entity_type, scope_id)
        self.subscribed.set()
        return subscription

    def watch(self, owner_id: UUID) -> Waking:
        watch = self.source.watch(owner_id)
        self.subscribed.set()
        return watch

    def wake_past(self, position: int, watch: Waking) -> None:
        self.source.wake_past(position, watch)


class ByHand:
    """Changes that a test makes up."""

    def __init__(self) -> None:
        self.subscription: Subscription | None = None

    def subscribe(self, owner_id: UUID, entity_type: str, scope_id: UUID) -> Subscription:
        self.subscription = Subscription((owner_id, entity_type, scope_id), 100)
        return self.subscription

    def watch(self, owner_id: UUID) -> Waking:
        return Waking(owner_id)

    def wake_past(self, position: int, watch: Waking) -> None:
        watch.wake()

    def put(self, operation: str, *ids: UUID) -> None:
        assert self.subscription is not None
        self.subscription.put(Change(operation, ids))


class Watch:
    """What a subscriber gets."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[Answer] = asyncio.Queue()

    async def next(self) -> dict[str, Any]:
        """The data of the next answer, which must have no errors."""
        async with asyncio.timeout(SECONDS):
            answer = await self.answers.get()
        assert not answer.errors, answer.errors
        assert isinstance(answer.data, dict)
        return answer.data


@asynccontextmanager
async def watching(
    person: Person, changes: Changes, document: str, **variables: Any
) -> AsyncIterator[Watch]:
    """A subscription that has begun."""
    source, watch = _Announcing(changes), Watch()

    async def collect() -> None:
        async for answer in subscribe(person, source, document, **variables):
            watch.answers.put_nowait(answer)

    task = asyncio.create_task(collect())
    async with asyncio.timeout(SECONDS):
        await source.subscribed.wait()
    yield watch
    task.cancel()
    await asyncio.wait({task})


def subscribe(
    person: Person, changes: Changes, document: str, **variables: Any
) -> AsyncIterator[Answer]:
    """The answers to a subscription."""
    schema = build_schema()
    runner = Runner(schema, Documents(schema._schema, Limits()))
    planned = runner.plan(GraphQLRequest(document, variables=variables))
    assert isinstance(planned, Planned), planned
    services = replace(person.services, changes=changes)
    actor = Actor(owner_id=person.owner_id, kind="user", id=uuid4())
    return runner.subscribe(planned, lambda: Context(services, actor, request_id="test"))
