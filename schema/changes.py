"""The change feed: what changed of the caller's rows, as pages and as a subscription."""

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from time import monotonic
from typing import Annotated, Any
from uuid import UUID

import orjson
import strawberry

from db.failures import DatabaseUnavailable
from db.prepared import PreparedSelect
from db.repositories import journal
from db.repositories.journal import START, Position
from schema import (
    accounts,
    accounts_exports,
    conversations,
    conversations_generations,
    ids,
    knowledge,
    work,
)
from schema.context import Context, Info
from schema.errors import ErrorCode, RequestError, bad_input
from schema.loaders import STATEMENTS, rows_select
from schema.mirror import MIRRORS, Mirror, by_key
from schema.node import Node
from schema.pages import DEFAULT_PAGE, MAX_PAGE, PageInfo
from schema.rows import Keys, Level, Row

READ_AT_ONCE = 100
"""Events that a subscription reads at a time, and keeps while its reader takes them."""
FRESH_SECONDS = 1.0
"""How old a node may be that a subscription has read with its events."""
RETRY_SECONDS = 1.0
"""After which a subscription looks again for a database that was not there."""
MAX_CURSOR_CHARS = 200
_SIGNATURE = "changes"


DECLARING = (accounts, accounts_exports, conversations, conversations_generations, knowledge, work)
"""The modules that declare the types whose changes are recorded: they must have been read."""


def _entity_types() -> type[StrEnum]:
    """The types that are served and whose changes are recorded."""
    audited = {mirror.key: mirror.name for mirror in MIRRORS.values() if mirror.audited}
    members = {name.upper(): name for name in sorted(audited)}
    enum = StrEnum("EntityType", members)  # type: ignore[misc]  # made of the types
    strawberry.enum(enum, description="A type of what changes.")
    for value in enum.__strawberry_definition__.values:  # type: ignore[attr-defined]  # set by the line above
        value.description = f"Rows of type {audited[value.value]}."
    return enum


EntityType: Any = _entity_types()


@strawberry.type(description="One change of one row of the caller's, and the row as it is now.")
class Change:
    """An event of the feed, for one reader."""

    event: strawberry.Private[journal.Event]
    keys: strawberry.Private[Keys]
    """The ids of all rows of this type that are asked for together."""
    nodes: strawberry.Private[dict[UUID, Row] | None] = None
    """The rows that were read with the event, None when they are to be read."""

    @strawberry.field(
        description="Where the change stands: the feed goes on after it when this is `after`."
    )
    def cursor(self) -> str:
        return encode_cursor(self.event.position)

    @strawberry.field(
        description="What was done: create, update, delete, restore, or a verb such as claim."
    )
    def action(self) -> str:
        return self.event.action

    @strawberry.field(description="The type of what changed.")
    def entity_type(self) -> EntityType:
        return EntityType(self.event.entity_type)

    @strawberry.field(description="The id of what changed.")
    def entity_id(self) -> strawberry.ID:
        return strawberry.ID(ids.encode(self.event.entity_type, self.event.entity_id))

    @strawberry.field(
        description="The version that this change made; null of what has none, or was erased."
    )
    def version(self) -> int | None:
        return self.event.version

    @strawberry.field(description="When the write began that made the change.")
    def changed_at(self) -> datetime:
        return self.event.created_at

    @strawberry.field(
        description=(
            "The row as it is now, which may be after later changes; null when it is deleted or"
            " gone."
        )
    )
    async def node(self, info: Info) -> Node | None:
        nodes = self.nodes
        if nodes is None:
            mirror = by_key()[self.event.entity_type]
            loaders = info.context.loaders
            loaders.names = info.context.field_names(info)
            nodes = dict(await loaders.rows(mirror, self.keys, deleted=False))
        return nodes.get(self.event.entity_id)  # type: ignore[return-value]  # a mirrored type's values are rows


@strawberry.type(description="A change in a page of the feed.")
class ChangeEdge:
    cursor: str = strawberry.field(description="Where it stands, for `after`.")
    node: Change = strawberry.field(description="The change itself.")


@strawberry.type(description="A page of the change feed.")
class ChangeConnection:
    """A page; where the feed ends is looked up when it is asked for."""

    edges: list[ChangeEdge] = strawberry.field(description="The changes with their cursors.")
    nodes: list[Change] = strawberry.field(description="The changes.")
    after: strawberry.Private[Position | None]
    more: strawberry.Private[bool]
    latest: strawberry.Private[Callable[[], Awaitable[Position]]]

    @strawberry.field(
        description=(
            "Where this page stands. `endCursor` is never null: when no more changes follow, it"
            " stands at the end of the feed, past changes of other types too."
        )
    )
    async def page_info(self) -> PageInfo:
        shown = self.nodes
        end = shown[-1].event.position if shown else self.after or START
        if not self.more:
            end = max(end, await self.latest())
        return PageInfo(
            has_next_page=self.more,
            has_previous_page=self.after is not None,
            start_cursor=self.edges[0].cursor if shown else None,
            end_cursor=encode_cursor(end),
        )

    @strawberry.field(
        description=(
            "The end of the feed as it is now. Who asks for this together with rows, and follows"
            " the changes after it, misses none."
        )
    )
    async def latest_cursor(self) -> str:
        return encode_cursor(await self.latest())


_AFTER = strawberry.argument(
    description=(
        "A cursor of this feed: only changes after it. It is good at every server, for as long as"
        " the feed keeps the change; else the error is BAD_CURSOR, and everything is to be read"
        " anew."
    )
)
_TYPES = strawberry.argument(
    description="Of which types; by default of all that the caller may read."
)


class ChangesQuery:
    """The feed, a page at a time."""

    @strawberry.field(
        description=(
            "The changes of the caller's rows, in an order in which no change comes before one it"
            " was made after. None is ever put in before a cursor that was given out: a change is"
            " shown once all writes have ended that began before it did."
        )
    )
    async def changes(
        self,
        info: Info,
        after: Annotated[str | None, _AFTER] = None,
        entity_types: Annotated[list[EntityType] | None, _TYPES] = None,
        first: Annotated[
            int | None,
            strawberry.argument(description=f"How many, between 0 and {MAX_PAGE}; 20 by default."),
        ] = None,
    ) -> ChangeConnection:
        size = DEFAULT_PAGE if first is None else first
        if not 0 <= size <= MAX_PAGE:
            raise bad_input(f"`first` must be between 0 and {MAX_PAGE}.")
        context = info.context
        types = permitted(context, entity_types)
        position = None if after is None else await position_of(context, after)
        found = await journal.events_page(context.session, position or START, types, size + 1)
        changes = list(changes_of(found[:size]))
        edges = [ChangeEdge(cursor=encode_cursor(c.event.position), node=c) for c in changes]
        end: asyncio.Future[Position] | None = None

        def latest() -> asyncio.Future[Position]:
            nonlocal end
            if end is None:
                end = asyncio.ensure_future(journal.latest_position(context.session))
            return end

        return ChangeConnection(
            edges=edges, nodes=changes, after=position, more=len(found) > size, latest=latest
        )


class ChangesSubscription:
    """The feed, as it grows."""

    @strawberry.subscription(
        description=(
            "The changes of the caller's rows, each at least once, those of one row in their"
            " order: after a cursor, or from now on. After an interruption, at any server, it goes"
            " on with the cursor of the last change received. One that was made just before may be"
            " the first."
        )
    )
    async def changes(
        self,
        info: Info,
        after: Annotated[str | None, _AFTER] = None,
        entity_types: Annotated[list[EntityType] | None, _TYPES] = None,
    ) -> AsyncGenerator[Change, None]:
        """Yields an event for each change.

        Raises:
            RequestError: BAD_CURSOR or FORBIDDEN.
        """
        context = info.context
        types = frozenset(permitted(context, entity_types))
        source = context.services.changes
        assert source is not None, "a process that serves subscriptions listens to changes"
        watch = source.watch(context.loaders.owner_id)
        if after is None:
            position = await journal.latest_position(context.session)
        else:
            position = await position_of(context, after)
        with_nodes = "node" in context.field_names(info)
        context.loaders.names = context.field_names(info)
        while True:
            try:
                events = await journal.next_events(context.session, position, READ_AT_ONCE)
                chosen = [event for event in events.settled if event.entity_type in types]
                nodes = await _nodes(context, chosen) if with_nodes else {}
            except DatabaseUnavailable:
                # Nothing is lost: it goes on from here when the database is there again.
                await context.renew()
                await watch.wait(RETRY_SECONDS)
                continue
            await context.renew()
            read_at = monotonic()
            for change in changes_of(chosen):
                yield ChangeEvent(change, nodes, read_at)  # type: ignore[misc]  # the runner loads it
            if events.settled:
                position = events.settled[-1].position
            if len(events.settled) == READ_AT_ONCE:
                continue
            if events.unsettled is not None:
                source.wake_past(events.unsettled, watch)
            await watch.wait()


@dataclass(frozen=True)
class ChangeEvent:
    """A subscription's event: the row was read with it, and is read again if that is long ago."""

    change: Change
    nodes: dict[UUID, Row] = field(repr=False)
    read_at: float

    async def load(self, context: Context) -> Change:
        """The change, with a row that is no older than it may be."""
        context.require("read")
        if monotonic() - self.read_at > FRESH_SECONDS:
            return Change(event=self.change.event, keys=Keys((self.change.event.entity_id,)))
        return Change(event=self.change.event, keys=self.change.keys, nodes=self.nodes)


def changes_of(events: Sequence[journal.Event]) -> Iterator[Change]:
    """Changes whose rows are asked for together, by type."""
    by_type: dict[str, list[UUID]] = {}
    for event in events:
        by_type.setdefault(event.entity_type, []).append(event.entity_id)
    keys = {entity: Keys(values) for entity, values in by_type.items()}
    for event in events:
        yield Change(event=event, keys=keys[event.entity_type])


async def _nodes(context: Context, events: Sequence[journal.Event]) -> dict[UUID, Row]:
    """The live rows that events are about, each as a level of its own: they go out one by one."""
    nodes: dict[UUID, Row] = {}
    loaders = context.loaders
    for entity in {event.entity_type for event in events}:
        mirror = by_key()[entity]
        keys = {event.entity_id for event in events if event.entity_type == entity}
        select = _live_rows(mirror, tuple(mirror.loaded(loaders.names)))
        loaders.permit(mirror)
        for record in await context.session.fetch(select, {"keys": list(keys)}):
            nodes[record["id"]] = Level(mirror, [dict(record)]).rows[0]
    return nodes


@lru_cache(STATEMENTS)
def _live_rows(mirror: Mirror, columns: tuple[str, ...]) -> PreparedSelect:
    return PreparedSelect(rows_select(mirror, columns, False))


def permitted(context: Context, asked: Collection[str] | None) -> list[str]:
    """The types to read: those asked for, or all that the caller may see.

    Raises:
        RequestError: UNAUTHENTICATED, or FORBIDDEN for a type that was asked for.
    """
    actor = context.require("read")
    mirrors = by_key()
    if asked is None:
        return [one.value for one in EntityType if actor.may(mirrors[one.value].access)]
    for name in asked:
        context.require(mirrors[str(name)].access)
    return [str(name) for name in asked]


def encode_cursor(position: Position) -> str:
    """The opaque text that stands for a position."""
    content = orjson.dumps([_SIGNATURE, position.xid, position.id.hex])
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


async def position_of(context: Context, cursor: str) -> Position:
    """What a cursor stands for.

    Raises:
        RequestError: BAD_CURSOR when it is none of this feed, or the feed has lost its place.
    """
    try:
        position = decode_cursor(cursor)
    except (ValueError, TypeError):
        raise RequestError("`after` is not a cursor of changes.", ErrorCode.BAD_CURSOR) from None
    if not await journal.is_position(context.session, position):
        message = "The feed no longer holds the change of `after`: read everything anew."
        raise RequestError(message, ErrorCode.BAD_CURSOR)
    return position


def decode_cursor(text: str) -> Position:
    """The position in a cursor. Raises ValueError or TypeError."""
    if len(text) > MAX_CURSOR_CHARS:
        raise ValueError("too long")
    try:
        content = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    signature, xid, identifier = orjson.loads(content)
    if signature != _SIGNATURE or type(xid) is not int or not 0 <= xid < 2**63:
        raise ValueError("another cursor")
    if type(identifier) is not str:
        raise ValueError("no id")
    return Position(xid, UUID(hex=identifier))
