"""The Node interface of Relay, and the two root fields that resolve any id."""

from typing import Annotated
from uuid import UUID

import strawberry
from graphql import GraphQLError

from schema import ids
from schema.context import Info
from schema.errors import ErrorCode, RequestError, bad_input
from schema.mirror import Mirror, by_key
from schema.rows import Keys, Row

MAX_NODES = 1_000


@strawberry.interface(description="Anything with a global id (Relay's Node).")
class Node:
    """The base of every mirrored type."""

    @strawberry.field(description="Globally unique; its first part names the type.")
    def id(self) -> strawberry.ID:
        row: Row = self  # type: ignore[assignment]  # a mirrored type's values are rows
        return strawberry.ID(ids.encode(row.level.mirror.key, row.values["id"]))


class NodeQuery:
    """Rows by their ids, of whatever type."""

    @strawberry.field(description="The row with this id; null if there is none.")
    async def node(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="A global id.")],
    ) -> Node | None:
        found: list[Node | GraphQLError | None] = await _nodes(info, [id])
        if isinstance(found[0], GraphQLError):
            raise found[0]
        return found[0]

    @strawberry.field(description="The rows with these ids, in their order; null for missing ones.")
    async def nodes(
        self,
        info: Info,
        ids: Annotated[
            list[strawberry.ID], strawberry.argument(description="Global ids, at most 1,000.")
        ],
    ) -> list[Node | None]:
        if len(ids) > MAX_NODES:
            raise bad_input(f"`ids` has at most {MAX_NODES} items.")
        return await _nodes(info, ids)  # type: ignore[return-value]  # errors become nulls with an error


def decode_any(text: str) -> tuple[Mirror, UUID]:
    """The type that a global id names, and its UUID. Raises RequestError (BAD_ID)."""
    try:
        key, value = ids.decode(text)
    except ids.BadId as error:
        raise RequestError(str(error), ErrorCode.BAD_ID) from None
    mirror = by_key().get(key)
    if mirror is None:
        message = f"There is no type whose ids start with {key}."
        raise RequestError(message, ErrorCode.BAD_ID)
    return mirror, value


async def _nodes(info: Info, texts: list[strawberry.ID]) -> list[Node | GraphQLError | None]:
    """One statement per type that the ids name."""
    loaders = info.context.loaders
    if loaders.names is None:
        loaders.names = info.context.field_names(info)
    wanted: list[tuple[Mirror, UUID] | RequestError] = []
    for text in texts:
        try:
            wanted.append(decode_any(text))
        except RequestError as error:
            wanted.append(error)
    by_mirror: dict[Mirror, list[UUID]] = {}
    for item in wanted:
        if not isinstance(item, RequestError):
            by_mirror.setdefault(item[0], []).append(item[1])
    found = {
        mirror: await loaders.rows(
            mirror, loaders.keys(values[0]) if len(values) == 1 else Keys(values), deleted=False
        )
        for mirror, values in by_mirror.items()
    }
    return [
        item if isinstance(item, RequestError) else found[item[0]].get(item[1])  # type: ignore[misc]  # rows are the values of nodes
        for item in wanted
    ]
