"""Conversations, messages and their parts, as GraphQL shows them."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import strawberry
from sqlalchemy import ColumnElement, FromClause, Uuid, and_, bindparam
from strawberry import auto

from db import scope
from db.models import conversations, conversations_generations
from db.repositories.conversations import (
    ADDED_AT_ONCE,
    added_since,
    has_message,
    newest_message_at,
)
from schema.branches import branch
from schema.context import Context, Event, Info
from schema.errors import ErrorCode, RequestError
from schema.mirror import MIRRORS, mirror
from schema.node import Node
from schema.pages import Connection
from schema.relation_fields import RowArgument, decoded
from schema.relations import first, many, one, related, root, root_row

if TYPE_CHECKING:
    from schema.conversations_generations import Citation, Generation

MESSAGES = conversations.Message.__table__


def _is_leaf(message: FromClause, leaf_id: ColumnElement[Any]) -> ColumnElement[bool]:
    return message.c.id == leaf_id


def _is_asked_leaf(message: FromClause, conversation_id: ColumnElement[Any]) -> ColumnElement[bool]:
    asked = message.c.id == bindparam("argument", type_=Uuid)
    return and_(message.c.conversation_id == conversation_id, asked)


def _is_first_root(message: FromClause, conversation_id: ColumnElement[Any]) -> ColumnElement[bool]:
    roots = MESSAGES.alias()
    earliest = (
        scope.readable(roots, roots.c.id)
        .where(roots.c.conversation_id == conversation_id, roots.c.depth == 0)
        .order_by(roots.c.created_at, roots.c.id)
        .limit(1)
    )
    return message.c.id == earliest.correlate_except(roots).scalar_subquery()


def _is_sibling(message: FromClause, sibling_id: ColumnElement[Any]) -> ColumnElement[bool]:
    # All messages of one depth of a conversation are together in an index.
    one_of = MESSAGES.alias()

    def its(column: str) -> ColumnElement[Any]:
        value = scope.readable(one_of, one_of.c[column]).where(one_of.c.id == sibling_id)
        return value.correlate_except(one_of).scalar_subquery()

    return and_(
        message.c.conversation_id == its("conversation_id"),
        message.c.depth == its("depth"),
        message.c.parent_id.is_not_distinct_from(its("parent_id")),
    )


@mirror(
    conversations.Conversation,
    order_by=("last_message_at",),
    default_order=("-last_message_at",),
)
class Conversation(Node):
    title: auto
    metadata: auto
    tags: auto
    pinned_at: auto
    archived_at: auto
    last_message_at: auto
    version: auto
    created_at: auto
    updated_at: auto
    deleted_at: auto
    active_leaf: "Message" = one(conversations.Conversation.active_leaf_id)
    messages: Connection["Message"] = branch(
        key="active_leaf_id",
        start=_is_leaf,
        description="The active branch: its messages from the first to the active leaf.",
    )
    branch: Connection["Message"] = branch(
        key="id",
        start=_is_asked_leaf,
        argument=RowArgument("leaf_id", conversations.Message, "The last message of the branch."),
        description=(
            "Another branch: its messages from the first to a leaf; empty when the leaf is not"
            " a message of this conversation."
        ),
    )
    root: "Message" = first(
        conversations.Message,
        key="id",
        match=_is_first_root,
        default_order=("created_at",),
        description="The message that the conversation started with; null while it has none.",
    )


@mirror(
    conversations.Message,
    private={"search"},
    order_by=("depth", "created_at"),
    default_order=("depth",),
)
class Message(Node):
    role: auto
    status: auto
    content: auto
    metadata: auto
    model: auto
    input_tokens: auto
    output_tokens: auto
    depth: auto
    version: auto
    created_at: auto
    updated_at: auto
    deleted_at: auto
    conversation: Conversation = one(conversations.Message.conversation_id)
    parent: "Message" = one(conversations.Message.parent_id)
    children: Connection["Message"] = many(
        conversations.Message.parent_id, default_order=("created_at",)
    )
    siblings: Connection["Message"] = related(
        conversations.Message,
        key="id",
        match=_is_sibling,
        default_order=("created_at",),
        description="The messages that follow the same one, this one among them: its variants.",
    )
    parts: Connection["MessagePart"] = many(conversations.MessagePart.message_id)
    generation: "Generation" = first(
        conversations_generations.Generation,
        key="id",
        match=lambda generation, message_id: generation.c.assistant_message_id == message_id,
        default_order=("created_at",),
        description="The run of a model that writes it, or wrote it; null when none did.",
    )
    citations: Connection["Citation"] = many(
        conversations_generations.Citation.message_id,
        description="The passages that were put before the model that wrote it.",
    )


@mirror(conversations.MessagePart, default_order=("position",))
class MessagePart(Node):
    position: auto
    type: auto
    text: auto
    data: auto
    tool_call_id: auto
    created_at: auto
    deleted_at: auto
    message: Message = one(conversations.MessagePart.message_id)


class ConversationsQuery:
    conversation: Conversation = root_row(
        conversations.Conversation, description="The conversation with this id."
    )
    conversations: Connection[Conversation] = root(
        conversations.Conversation,
        description="The caller's conversations, those with the newest messages first.",
    )


class ConversationsSubscription:
    @strawberry.subscription(
        description=(
            "Messages added to a conversation, after a message or from now on, each once, in the"
            " order in which they were added. One that was added just before may be among them."
        )
    )
    async def message_added(
        self,
        info: Info,
        conversation_id: Annotated[
            strawberry.ID, strawberry.argument(description="The conversation's id.")
        ],
        after: Annotated[
            strawberry.ID | None,
            strawberry.argument(
                description=(
                    "The newest message that the client has, on whatever branch: those that were"
                    " added after it come first."
                )
            ),
        ] = None,
    ) -> AsyncGenerator[Message, None]:
        """Yields an event for each message.

        Raises:
            RequestError: BAD_ID, or NOT_FOUND when the conversation is not the caller's, or the
                message is none of it.
        """
        context = info.context
        owner_id = context.require("read").owner_id
        identifier = decoded(MIRRORS[conversations.Conversation], conversation_id)
        source = context.services.changes
        assert source is not None, "a process that serves subscriptions listens to changes"
        async with aclosing(source.subscribe(owner_id, "message", identifier)) as changes:
            # Appends to one conversation are committed one after the other. What this does not
            # see was created later, and its announcement is still to come.
            seen: datetime | UUID | None = await newest_message_at(context.session, identifier)
            await context.session.end_snapshot()
            if seen is None:
                raise RequestError("There is no such conversation.", ErrorCode.NOT_FOUND)
            # Read after a gap, and perhaps announced as well.
            read_again: set[UUID] = set()
            if after is not None:
                seen = decoded(MIRRORS[conversations.Message], after)
                if not await has_message(context.session, identifier, seen):
                    message = "There is no such message in this conversation."
                    raise RequestError(message, ErrorCode.NOT_FOUND)
                for message_id in await _missed(context, identifier, seen):
                    seen = message_id
                    read_again.add(message_id)
                    yield Event(MIRRORS[conversations.Message], message_id)  # type: ignore[misc]  # the runner loads it
            async for change in changes:
                added: Sequence[UUID] = ()
                if change.operation == "insert":
                    added = [one for one in change.ids if one not in read_again]
                    read_again.difference_update(change.ids)
                elif change.operation == "gap":
                    added = await _missed(context, identifier, seen)
                    read_again.update(added)
                for message_id in added:
                    seen = message_id
                    yield Event(MIRRORS[conversations.Message], message_id)  # type: ignore[misc]  # the runner loads it


async def _missed(context: Context, conversation_id: UUID, seen: datetime | UUID) -> list[UUID]:
    """All messages added since the last one seen."""
    missed: list[UUID] = []
    while True:
        found = await added_since(context.session, conversation_id, seen)
        missed += found
        if len(found) < ADDED_AT_ONCE:
            await context.session.end_snapshot()
            return missed
        seen = found[-1]
