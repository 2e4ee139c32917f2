"""Replies as callers ask for them: sent for, written anew, stopped, followed.

A message, the placeholder of its answer and the generation that is to write it are stored in one
transaction. The generation is leased to the process that stored it, which runs it after the commit;
should that process die before, the lease expires as that of any other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypedDict
from uuid import UUID

import sqlalchemy as sa

from db.changes import Record, insert_one
from db.locking import lock_one
from db.models.conversations import Message, MessageRole, MessageStatus
from db.models.conversations_generations import DeltaKind, Generation, GenerationDelta
from db.prepared import PreparedSelect
from db.recording import shown
from db.refusals import Missing, invalid
from db.repositories.conversations import (
    CONVERSATIONS,
    find_place,
    make_leaf,
    message_now,
    store_message,
)
from db.repositories.conversations_citations import Passage, cite
from db.repositories.conversations_runs import RUNNING, Delta, end
from db.scope import OWNER, predicate, readable
from db.session import Session

MESSAGES = Message.__table__
GENERATIONS = Generation.__table__
DELTAS = GenerationDelta.__table__

READ_AT_ONCE = 500
"""How many deltas `follow` reads at most."""
_AFTER_IT = timedelta(microseconds=1)
"""By how much a reply is later than what it answers: messages are in the order of their times."""

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Lease:
    """Who runs what is asked for, and for how long before it has to say that it is alive."""

    runner_id: UUID
    duration: timedelta


@dataclass(frozen=True)
class Asked:
    """What came of asking for a reply."""

    message: Record
    """What is answered."""
    reply: Record
    """The placeholder that the answer is written into."""
    generation: Record
    conversation: Record


async def send_message(
    session: Session,
    conversation_id: UUID,
    values: Values,
    parts: Sequence[Values],
    options: Values,
    lease: Lease,
    *,
    id: UUID | None = None,
    reply_id: UUID | None = None,
    passages: Sequence[Passage] = (),
) -> Asked:
    """Add a message as `append_message` does, and ask for the answer to it.

    `options` are columns of the generation, the model among them. Raises Missing, and Invalid as
    `append_message`, and when the message before is still being written.
    """
    place = await find_place(session, conversation_id, values)
    if place.parent is not None and place.parent.status in RUNNING:
        text = "The message before is still being written: stop it, or wait for its end."
        raise invalid("parent_id", "finished", text)
    message = await store_message(session, {**values, **place.values}, parts, place.moment, id=id)
    return await _ask(session, message, place.moment, options, lease, reply_id, passages)


async def regenerate_message(
    session: Session,
    message_id: UUID,
    options: Values,
    lease: Lease,
    *,
    reply_id: UUID | None = None,
    passages: Sequence[Passage] = (),
) -> Asked:
    """Ask for another answer beside an assistant's message, or for one to any other message.

    Raises Missing, and Invalid when there is no message before it.
    """
    found = readable(MESSAGES, MESSAGES.c.conversation_id).where(MESSAGES.c.id == message_id)
    conversation_id = await session.scalar(found)
    try:
        await lock_one(session, CONVERSATIONS, conversation_id)
    except Missing:
        raise Missing("message") from None
    moment, message = await message_now(session, conversation_id, message_id, shown(MESSAGES))
    if message is not None and message.role == MessageRole.ASSISTANT:
        if message.parent_id is None:
            raise invalid("id", "answer", "There is no message before this one to answer.")
        moment, message = await message_now(
            session, conversation_id, message.parent_id, shown(MESSAGES)
        )
    if message is None:
        raise Missing("message")
    if message.status in RUNNING:
        raise invalid("id", "finished", "This message is still being written: wait for its end.")
    return await _ask(session, message, moment, options, lease, reply_id, passages)


async def stop_generation(session: Session, id: UUID) -> tuple[Record, Record]:
    """End a generation with what was written so far: it and its message, as they are now.

    Whoever runs it is fenced out by a new epoch. One that has ended stays as it is. Raises Missing.
    """
    generation = await lock_one(session, GENERATIONS, id)
    if generation.status in RUNNING:
        return await end(
            session,
            generation,
            MessageStatus.STOPPED,
            {"epoch": GENERATIONS.c.epoch + 1, "stop_requested_at": sa.func.now()},
        )
    statement = readable(MESSAGES, *shown(MESSAGES))
    rows = await session.execute(statement.where(MESSAGES.c.id == generation.assistant_message_id))
    return generation, rows[0]


async def _ask(
    session: Session,
    message: Record,
    moment: datetime,
    options: Values,
    lease: Lease,
    reply_id: UUID | None,
    passages: Sequence[Passage],
) -> Asked:
    """Store the placeholder and the generation of an answer in a locked conversation."""
    moment = moment + _AFTER_IT
    placeholder = {
        "conversation_id": message.conversation_id,
        "parent_id": message.id,
        "depth": message.depth + 1,
        "role": MessageRole.ASSISTANT.value,
        "status": MessageStatus.PENDING.value,
        "model": options["model"],
    }
    reply = await store_message(session, placeholder, (), moment, id=reply_id, id_field="reply_id")
    generation = await insert_one(
        session,
        GENERATIONS,
        {
            **options,
            "conversation_id": message.conversation_id,
            "user_message_id": message.id,
            "assistant_message_id": reply.id,
            "runner_id": lease.runner_id,
            "lease_expires_at": moment + lease.duration,
        },
    )
    await cite(session, reply.id, passages)
    return Asked(message, reply, generation, await make_leaf(session, reply, moment))


@dataclass(frozen=True)
class Progress:
    """What there is of a reply after some delta."""

    running: bool
    message_id: UUID
    last_seq: int
    """The number of the last delta in it; of the last there ever was, when it has ended."""
    text: str
    reasoning: str
    more: bool
    """Whether there may be more to read at once."""


_KINDS = {kind.value: kind for kind in DeltaKind}


class _Told(TypedDict):
    last_seq: int
    text: str
    reasoning: str


_FOLLOW = PreparedSelect(
    sa.select(
        GENERATIONS.c.status,
        GENERATIONS.c.assistant_message_id,
        GENERATIONS.c.last_seq,
        DELTAS.c.seq,
        DELTAS.c.kind,
        DELTAS.c.text,
    )
    .select_from(
        GENERATIONS.outerjoin(
            DELTAS,
            sa.and_(
                DELTAS.c.owner_id == OWNER,
                DELTAS.c.generation_id == GENERATIONS.c.id,
                DELTAS.c.seq > sa.bindparam("after_seq", type_=sa.Integer()),
            ),
        )
    )
    .where(predicate(GENERATIONS), GENERATIONS.c.id == sa.bindparam("id", type_=sa.Uuid()))
    .order_by(DELTAS.c.seq)
    .limit(READ_AT_ONCE)
)


async def follow(session: Session, id: UUID, after_seq: int) -> Progress | None:
    """What was written of a reply after a delta, the oldest first; None if there is no such."""
    rows = await session.fetch(_FOLLOW, {"id": id, "after_seq": after_seq})
    if not rows:
        return None
    first = rows[0]
    known = (row for row in rows if row["seq"] is not None)
    deltas = [Delta(row["seq"], _KINDS[row["kind"]], row["text"]) for row in known]
    return Progress(
        running=first["status"] in RUNNING,
        message_id=UUID(int=first["assistant_message_id"].int),
        more=len(rows) == READ_AT_ONCE,
        **told(deltas, first["last_seq"]),
    )


def told(deltas: Sequence[Delta], last_seq: int = 0) -> _Told:
    """What deltas say together; without any, where the reply has ended."""

    def joined(kind: DeltaKind) -> str:
        return "".join(delta.text for delta in deltas if delta.kind == kind)

    return {
        "last_seq": deltas[-1].seq if deltas else last_seq,
        "text": joined(DeltaKind.TEXT),
        "reasoning": joined(DeltaKind.REASONING),
    }
