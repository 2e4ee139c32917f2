"""Writes of conversations and their messages.

Whoever changes the tree of a conversation locks its row first. So appends come one after the other,
each sees the active leaf that the one before it left, and the time a message was created is also
its place in the order in which messages were committed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from db.changes import Record, insert, insert_one, update_one
from db.locking import change_one, lock_one
from db.models.conversations import Conversation, Message, MessagePart
from db.recording import shown
from db.refusals import Missing, Stale, invalid
from db.scope import predicate, readable
from db.session import Session
from db.trees import delete_tree, restore_tree

CONVERSATIONS = Conversation.__table__
MESSAGES = Message.__table__
PARTS = MessagePart.__table__

_PLACE = ("conversation_id", "parent_id", "depth", "role")
KEPT_BY_EDITS = (*_PLACE, "content", "metadata", "model")
"""What an edited message has of its original unless it is given."""

ADDED_AT_ONCE = 1_000
"""How many ids `added_since` reads at most."""

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Added:
    """What came of adding a message."""

    message: Record
    conversation: Record


async def create_conversation(
    session: Session, values: Values, *, id: UUID | None = None
) -> Record:
    """Store a conversation without messages. Raises Invalid when its id is taken."""
    return await insert_one(session, CONVERSATIONS, values, id=id)


async def update_conversation(
    session: Session, id: UUID, values: Values, expected_version: int | None
) -> Record:
    """Change a conversation; `pinned` is a value of its own. Raises Missing and Stale."""
    changed = dict(values)
    if "pinned" in changed:
        changed["pinned_at"] = _since(CONVERSATIONS.c.pinned_at, changed.pop("pinned"))
    return await change_one(session, CONVERSATIONS, id, changed, expected_version=expected_version)


async def archive_conversation(
    session: Session, id: UUID, archived: bool, expected_version: int | None
) -> Record:
    """Put a conversation away, or back. Raises Missing and Stale."""
    values = {"archived_at": _since(CONVERSATIONS.c.archived_at, archived)}
    return await update_one(session, CONVERSATIONS, id, values, expected_version=expected_version)


async def delete_conversation(session: Session, id: UUID, expected_version: int | None) -> Record:
    """Delete a conversation with its messages and their parts. Raises Missing and Stale."""
    return await delete_tree(session, CONVERSATIONS, id, expected_version)


async def restore_conversation(session: Session, id: UUID, expected_version: int | None) -> Record:
    """Bring back a conversation and all that was deleted with it. Raises Missing and Stale."""
    return await restore_tree(session, CONVERSATIONS, id, expected_version)


async def append_message(
    session: Session,
    conversation_id: UUID,
    values: Values,
    parts: Sequence[Values],
    *,
    id: UUID | None = None,
) -> Added:
    """Add a message after its `parent_id`, or without one after the active leaf.

    It becomes the active leaf. Raises Missing, and Invalid when the parent is not a message of the
    conversation, when it is null although there are messages, or when the id is taken.
    """
    place = await find_place(session, conversation_id, values)
    message = await store_message(session, {**values, **place.values}, parts, place.moment, id=id)
    return Added(message, await make_leaf(session, message, place.moment))


@dataclass(frozen=True)
class Place:
    """Where a new message goes in a conversation that is locked, and when."""

    values: Values
    moment: datetime
    parent: Record | None


async def find_place(session: Session, conversation_id: UUID, values: Values) -> Place:
    """Lock a conversation, and find where `append_message` puts the next message.

    Raises Missing, and Invalid for a bad `parent_id`.
    """
    path = ("conversation_id",)
    conversation = await lock_one(session, CONVERSATIONS, conversation_id, path=path)
    parent_id = values.get("parent_id", conversation.active_leaf_id)
    if parent_id is None and conversation.active_leaf_id is not None:
        raise invalid("parent_id", "first", "Only the first message of a conversation has none.")
    columns = (MESSAGES.c.id, MESSAGES.c.depth, MESSAGES.c.status)
    moment, parent = await message_now(session, conversation_id, parent_id, columns)
    if parent is None and parent_id is not None:
        raise _stranger("parent_id")
    placed = {
        "conversation_id": conversation_id,
        "parent_id": parent_id,
        "depth": parent.depth + 1 if parent else 0,
    }
    return Place(placed, moment, parent)


async def edit_message(
    session: Session,
    original_id: UUID,
    values: Values,
    parts: Sequence[Values] | None,
    *,
    id: UUID | None = None,
    expected_version: int | None = None,
) -> Added:
    """Add a variant of a message beside it; it becomes the active leaf.

    What `values` and `parts` leave out is taken from the original, which stays as it is. Raises
    Missing, Stale, and Invalid when the new id is taken.
    """
    found = readable(MESSAGES, MESSAGES.c.conversation_id).where(MESSAGES.c.id == original_id)
    conversation_id = await session.scalar(found)
    try:
        await lock_one(session, CONVERSATIONS, conversation_id)
    except Missing:
        raise Missing("message") from None
    moment, original = await message_now(session, conversation_id, original_id, shown(MESSAGES))
    if original is None:
        raise Missing("message")
    if expected_version is not None and original.version != expected_version:
        raise Stale("message", original._asdict())
    if parts is None:
        parts = await _parts_of(session, original_id)
    kept = {name: original._mapping[name] for name in KEPT_BY_EDITS}
    message = await store_message(
        session, {**kept, **values}, parts, moment, id=id, id_field="new_id"
    )
    return Added(message, await make_leaf(session, message, moment))


async def set_active_leaf(
    session: Session, conversation_id: UUID, message_id: UUID, expected_version: int | None
) -> Record:
    """Make the branch up to a message the active one.

    Raises Missing, Stale, and Invalid when it is not a message of the conversation.
    """
    await lock_one(
        session,
        CONVERSATIONS,
        conversation_id,
        expected_version=expected_version,
        path=("conversation_id",),
    )
    _, message = await message_now(session, conversation_id, message_id)
    if message is None:
        raise _stranger("message_id")
    return await update_one(session, CONVERSATIONS, conversation_id, {"active_leaf_id": message_id})


async def newest_message_at(session: Session, conversation_id: UUID) -> datetime | None:
    """When the newest message of a live conversation was added; None if there is no such one."""
    statement = readable(CONVERSATIONS, CONVERSATIONS.c.last_message_at)
    moment: datetime | None = await session.scalar(
        statement.where(CONVERSATIONS.c.id == conversation_id)
    )
    return moment


async def has_message(session: Session, conversation_id: UUID, id: UUID) -> bool:
    """Whether a message is one of a conversation, deleted or not."""
    found = readable(MESSAGES, MESSAGES.c.id, deleted=None)
    found = found.where(MESSAGES.c.id == id, MESSAGES.c.conversation_id == conversation_id)
    return bool(await session.execute(found))


async def added_since(
    session: Session, conversation_id: UUID, since: datetime | UUID
) -> Sequence[UUID]:
    """The messages added after a moment or after another message: the oldest `ADDED_AT_ONCE`."""
    if isinstance(since, UUID):
        seen = MESSAGES.alias("seen")
        mark = readable(seen, seen.c.created_at, seen.c.id, deleted=None).where(seen.c.id == since)
        later = sa.tuple_(MESSAGES.c.created_at, MESSAGES.c.id) > mark.scalar_subquery()
    else:
        later = MESSAGES.c.created_at > since
    statement = (
        readable(MESSAGES, MESSAGES.c.id)
        .where(MESSAGES.c.conversation_id == conversation_id, later)
        .order_by(MESSAGES.c.created_at, MESSAGES.c.id)
        .limit(ADDED_AT_ONCE)
    )
    return [row.id for row in await session.execute(statement)]


def _since(column: sa.Column[Any], on: bool) -> sa.ColumnElement[Any] | None:
    """Since when something holds: the moment it first did, null when it does not."""
    return sa.func.coalesce(column, sa.func.now()) if on else None


def _stranger(field: str) -> Exception:
    return invalid(field, "reference", "There is no such message in this conversation.")


async def message_now(
    session: Session,
    conversation_id: UUID,
    message_id: UUID | None,
    columns: Sequence[sa.Column[Any]] = (MESSAGES.c.id, MESSAGES.c.depth),
) -> tuple[datetime, Record | None]:
    """The time, and a live message of a locked conversation if there is such a one.

    The time is asked for under the lock: the start of the transaction, which is what now() tells,
    may lie before the writes of whoever held the lock until then.
    """
    theirs = sa.and_(
        predicate(MESSAGES),
        MESSAGES.c.conversation_id == CONVERSATIONS.c.id,
        MESSAGES.c.id == message_id,
    )
    moment = sa.func.clock_timestamp().label("moment")
    statement = (
        readable(CONVERSATIONS, moment, *columns)
        .select_from(CONVERSATIONS.outerjoin(MESSAGES, theirs))
        .where(CONVERSATIONS.c.id == conversation_id)
    )
    row = (await session.execute(statement))[0]
    return row.moment, row if row.id is not None else None


async def _parts_of(session: Session, message_id: UUID) -> list[Values]:
    columns = (PARTS.c.type, PARTS.c.text, PARTS.c.data, PARTS.c.tool_call_id)
    statement = readable(PARTS, *columns).where(PARTS.c.message_id == message_id)
    rows = await session.execute(statement.order_by(PARTS.c.position))
    return [row._asdict() for row in rows]


async def store_message(
    session: Session,
    values: Values,
    parts: Sequence[Values],
    moment: datetime,
    *,
    id: UUID | None = None,
    id_field: str = "id",
) -> Record:
    """Store a message with its parts in a locked conversation.

    Raises Invalid when the id is taken.
    """
    times = {"created_at": moment, "updated_at": moment}
    message = await insert_one(session, MESSAGES, {**values, **times}, id=id, id_field=id_field)
    await store_parts(session, message.id, parts)
    return message


async def store_parts(session: Session, message_id: UUID, parts: Sequence[Values]) -> None:
    """Store the parts of a message that has none."""
    await insert(
        session,
        PARTS,
        [
            {**part, "message_id": message_id, "position": position}
            for position, part in enumerate(parts)
        ],
    )


async def make_leaf(session: Session, message: Record, moment: datetime) -> Record:
    """Make the newest message of a locked conversation its active leaf; the conversation."""
    leaf = {"active_leaf_id": message.id, "last_message_at": moment}
    return await update_one(session, CONVERSATIONS, message.conversation_id, leaf)
