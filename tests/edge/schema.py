"""A schema made to be served: fields that are slow, that fail, that stream."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Annotated, Any, cast

import strawberry
from sqlalchemy import text
from strawberry.scalars import JSON

from schema.context import Context
from schema.errors import ErrorCode, RequestError

Info = strawberry.Info[Context, None]
SECRET = "SELECT password FROM /etc/shadow"  # what a leak would show

done: Counter[str] = Counter()
"""How often something has happened, by name: what a test looks at from outside."""


@strawberry.type
class Thing:
    name: str

    @strawberry.field
    def things(self, first: int | None = None, last: int | None = None) -> "ThingConnection":
        return ThingConnection(nodes=[Thing(name="inner")] * min(first or 1, 3))


@strawberry.type
class PageInfo:
    has_next_page: bool = False


@strawberry.type
class ThingConnection:
    nodes: list[Thing]
    page_info: PageInfo = strawberry.field(default_factory=PageInfo)


@strawberry.input
class EchoInput:
    text: str
    count: int = 1
    json: JSON | None = None


@strawberry.input(one_of=True)
class Choice:
    left: strawberry.Maybe[str]
    right: strawberry.Maybe[int]


@strawberry.type
class Query:
    @strawberry.field
    def hello(self, name: str = "world") -> str:
        return f"Hello, {name}!"

    @strawberry.field
    def echo(self, input: EchoInput) -> str:
        return input.text * input.count

    @strawberry.field
    def choose(self, choice: Choice) -> str:
        return "left" if choice.left else "right"

    @strawberry.field
    def number(self, value: int) -> int:
        return value

    @strawberry.field
    def json(self, value: JSON | None = None) -> JSON | None:
        return value

    @strawberry.field
    def things(self, first: int | None = None, last: int | None = None) -> ThingConnection:
        return ThingConnection(nodes=[Thing(name=f"thing {n}") for n in range(min(first or 20, 5))])

    @strawberry.field
    def nodes(self, ids: list[strawberry.ID]) -> list[Thing]:
        return [Thing(name=str(identifier)) for identifier in ids]

    @strawberry.field
    def strangers(self) -> list[Thing]:
        return []

    @strawberry.field
    async def sleep(self, info: Info, seconds: float, name: str = "sleep") -> str:
        """Sleeps in PostgreSQL."""
        done[f"{name} started"] += 1
        await info.context.anonymous_session.execute(
            text("SELECT pg_sleep(:seconds)"), {"seconds": seconds}
        )
        done[f"{name} finished"] += 1
        return "slept"

    @strawberry.field
    async def statements(self, info: Info, count: int = 2) -> int:
        for _ in range(count):
            await info.context.anonymous_session.execute(text("SELECT 1 AS one"))
        return count

    @strawberry.field
    def whoami(self, info: Info) -> str | None:
        actor = info.context.actor
        return f"{actor.kind} {actor.owner_id}" if actor else None

    @strawberry.field
    def request_id(self, info: Info) -> str:
        return info.context.request_id

    @strawberry.field
    def boom(self) -> str | None:
        raise RuntimeError(SECRET)

    @strawberry.field
    def boom_non_null(self) -> str:
        raise RuntimeError(SECRET)

    @strawberry.field
    def bad_id(self) -> str | None:
        raise RequestError("This is no id.", ErrorCode.BAD_ID)

    @strawberry.field
    def too_big(self) -> int | None:
        return 2**40

    @strawberry.field
    def no_json(self) -> JSON | None:
        value: Any = object()
        return cast(JSON, value)

    @strawberry.field
    def surrogate(self) -> str | None:
        return "\ud800"


@strawberry.type
class Mutation:
    @strawberry.mutation
    async def write(self, name: str, seconds: float = 0.0) -> str:
        done[f"{name} started"] += 1
        await asyncio.sleep(seconds)
        done[f"{name} finished"] += 1
        return name

    @strawberry.mutation
    def log_out(self) -> bool:
        """One of those after which tokens are looked up anew; by its name, and it does nothing."""
        return True

    @strawberry.mutation
    def note(self, value: JSON | None = None) -> JSON | None:
        return value


@dataclass(frozen=True)
class Loaded:
    """An event that is read again by the subscriber; odd ones are not theirs."""

    number: int

    async def load(self, context: Context) -> int | None:
        await context.anonymous_session.execute(text("SELECT 1"))
        done[f"context {id(context)}"] += 1
        return self.number if self.number % 2 == 0 else None


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def count(
        self, to: int, every: float = 0.0, name: str = "count"
    ) -> AsyncGenerator[int, None]:
        try:
            for number in range(to):
                yield number
                await asyncio.sleep(every)
        finally:
            done[f"{name} closed"] += 1

    @strawberry.subscription
    async def loaded(self, to: int) -> AsyncGenerator[int, None]:
        for number in range(to):
            event: Any = Loaded(number)
            yield event

    @strawberry.subscription
    async def refused(self, allowed: bool = False) -> AsyncGenerator[int, None]:
        if not allowed:
            raise RequestError("Not for you.", ErrorCode.FORBIDDEN)
        yield 0

    @strawberry.subscription
    async def breaks(self, after: int = 2) -> AsyncGenerator[int, None]:
        for number in range(after):
            yield number
        raise RuntimeError(SECRET)

    @strawberry.subscription
    async def too_big(self) -> AsyncGenerator[int, None]:
        yield 2**40
        yield 1

    @strawberry.subscription
    async def flood(
        self, size: Annotated[int, strawberry.argument(description="bytes")], name: str = "flood"
    ) -> AsyncGenerator[str, None]:
        try:
            while True:
                yield "x" * size
                done[f"{name} sent"] += 1
                await asyncio.sleep(0)
        finally:
            done[f"{name} closed"] += 1


edge_schema = strawberry.Schema(query=Query, mutation=Mutation, subscription=Subscription)
