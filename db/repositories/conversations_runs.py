"""Replies as their runners write them: every write is fenced by the epoch of the run.

Deltas and leases are written all the time and by themselves are no change worth an event; what the
message becomes is one. Whoever writes a delta locks the generation against a new epoch, so what an
old runner still writes is either before the new one looks, or refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by

from db.announcements import notice
from db.changes import Record, update
from db.models.conversations import Message, MessageStatus, PartType
from db.models.conversations_generations import DeltaKind, Generation, GenerationDelta
from db.prepared import PreparedSelect
from db.recording import shown
from db.repositories.conversations import store_parts
from db.scope import OWNER, predicate, readable
from db.session import Session

MESSAGES = Message.__table__
GENERATIONS = Generation.__table__
DELTAS = GenerationDelta.__table__

RUNNING = (MessageStatus.PENDING, MessageStatus.STREAMING)
"""The statuses of what is still being written."""
MAX_RUNS = 3
"""How often a generation of which nothing was written is begun in all."""
RESTARTED_WITHIN = timedelta(minutes=10)
"""How old it may be then: nobody waits for longer."""

Values = Mapping[str, Any]


class Fenced(Exception):
    """The run is over: it was stopped or deleted, or another runner has it."""


@dataclass(frozen=True)
class Delta:
    """A piece of a reply."""

    seq: int
    kind: DeltaKind
    text: str


@dataclass(frozen=True)
class Place:
    """A delta, and the run it is of."""

    owner_id: UUID
    id: UUID
    epoch: int
    delta: Delta


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    status: MessageStatus
    parts: Sequence[Values] = ()
    """The tools that were called, as parts of the message."""
    facts: Values = field(default_factory=dict)
    """Columns of the generation: why it ended, what it cost, what went wrong."""


async def append_all(session: Session, places: Sequence[Place]) -> list[str]:
    """Store deltas of many runs, whoever's they are, and tell whoever follows them.

    Returns for each whether it is `stored`, `fenced`, or `busy`, as somebody else holds its row.
    """
    rows = await session.fetch(
        _APPEND,
        {
            "owners": [place.owner_id for place in places],
            "generations": [place.id for place in places],
            "epochs": [place.epoch for place in places],
            "seqs": [place.delta.seq for place in places],
            "kinds": [place.delta.kind.value for place in places],
            "texts": [place.delta.text for place in places],
            "notices": [
                notice(place.owner_id, "generation", place.id, [place.id.hex], "update")
                for place in places
            ],
        },
    )
    return [row["outcome"] for row in sorted(rows, key=lambda row: int(row["place"]))]


async def append(session: Session, id: UUID, epoch: int, deltas: Sequence[Delta]) -> None:
    """Store deltas in a transaction that has locked the generation by a write. Raises Fenced."""
    owner_id = session.owner_id
    assert owner_id is not None, "a run is somebody's"
    outcomes = await append_all(session, [Place(owner_id, id, epoch, one) for one in deltas])
    if any(outcome != "stored" for outcome in outcomes):
        raise Fenced


async def begin(session: Session, id: UUID, epoch: int, facts: Values) -> None:
    """Mark a generation and its message as being streamed. Raises Fenced."""
    values = {
        **facts,
        "status": MessageStatus.STREAMING.value,
        "first_delta_at": sa.func.clock_timestamp(),
    }
    rows = await update(session, GENERATIONS, id, values, where=_of(epoch))
    if not rows:
        raise Fenced
    status = {"status": MessageStatus.STREAMING.value}
    await update(session, MESSAGES, rows[0].assistant_message_id, status)


async def hold(session: Session, id: UUID, epoch: int, lease: timedelta) -> None:
    """Lengthen a lease, from now on. Raises Fenced."""
    if not await session.fetch(_HOLD, {"id": id, "epoch": epoch, "lease": lease}):
        raise Fenced


async def finish(
    session: Session, id: UUID, epoch: int, outcome: Outcome, deltas: Sequence[Delta] = ()
) -> None:
    """End a run with the last of its deltas. Raises Fenced."""
    statement = readable(GENERATIONS, *shown(GENERATIONS)).where(GENERATIONS.c.id == id, _of(epoch))
    # Waits for whoever has it locked, as deltas by themselves do not: a heartbeat is no fence.
    rows = await session.execute(statement.with_for_update(key_share=True))
    if not rows:
        raise Fenced
    if deltas:
        await append(session, id, epoch, deltas)
    await end(session, rows[0], outcome.status, outcome.facts, outcome.parts)


async def take_over(
    session: Session, id: UUID, runner_id: UUID, lease: timedelta, *, may_begin: bool
) -> Record | None:
    """Take a generation whose lease has expired: the generation, if it is to be run from its start.

    One of which nothing was written is begun anew, unless that was tried too often or is too long
    ago; any other is interrupted, with its text kept.
    """
    expired = GENERATIONS.c.lease_expires_at < sa.func.now()
    young = GENERATIONS.c.created_at > sa.func.now() - RESTARTED_WITHIN
    columns = [*shown(GENERATIONS), young.label("young")]
    statement = readable(GENERATIONS, *columns).where(GENERATIONS.c.id == id, _IS_RUNNING, expired)
    rows = await session.execute(statement.with_for_update(key_share=True, skip_locked=True))
    if not rows:
        return None
    found = rows[0]
    untouched = found.status == MessageStatus.PENDING and found.epoch < MAX_RUNS and found.young
    values: dict[str, Any] = {"epoch": GENERATIONS.c.epoch + 1}
    if untouched and may_begin:
        values |= {"runner_id": runner_id, "lease_expires_at": sa.func.now() + lease}
        return (await update(session, GENERATIONS, id, values))[0]
    values["error"] = {"code": "interrupted", "message": "The server that wrote it went away."}
    await end(session, found, MessageStatus.INTERRUPTED, values)
    return None


async def end(
    session: Session,
    generation: Record,
    status: MessageStatus,
    facts: Values,
    parts: Sequence[Values] = (),
) -> tuple[Record, Record]:
    """End a locked generation: its text goes into its message once, and its deltas go.

    The generation and the message as they are then.
    """
    deltas = readable(DELTAS).where(DELTAS.c.generation_id == generation.id).subquery()
    text = _joined(deltas, DeltaKind.TEXT)
    counts = {name: facts[name] for name in ("input_tokens", "output_tokens") if name in facts}
    [message] = await update(
        session,
        MESSAGES,
        generation.assistant_message_id,
        {**counts, "content": sa.func.coalesce(text, ""), "status": status.value},
    )
    reasoning = await session.scalar(sa.select(_joined(deltas, DeltaKind.REASONING)))
    thought = [{"type": PartType.REASONING.value, "text": reasoning}] if reasoning else []
    await store_parts(session, message.id, [*thought, *parts])
    last = sa.select(sa.func.coalesce(sa.func.max(deltas.c.seq), 0)).scalar_subquery()
    values = {
        **facts,
        "status": status.value,
        "last_seq": last,
        "finished_at": sa.func.clock_timestamp(),
        "runner_id": None,
        "lease_expires_at": None,
    }
    [ended] = await update(session, GENERATIONS, generation.id, values)
    await session.execute(
        sa.delete(DELTAS).where(DELTAS.c.owner_id == OWNER, DELTAS.c.generation_id == generation.id)
    )
    return ended, message


async def abandoned(session: Session, most: int) -> list[tuple[UUID, UUID]]:
    """Owners and ids of generations whose lease has expired, whoever's they are."""
    found = sa.func.engram_abandoned_generations(most).table_valued("owner_id", "id")
    statement = sa.select(sa.type_coerce(found.c.owner_id, sa.Uuid()), found.c.id)
    return [(row[0], row[1]) for row in await session.execute(statement)]


def _joined(deltas: sa.Subquery, kind: DeltaKind) -> sa.ScalarSelect[Any]:
    nothing = sa.literal_column("''", sa.Text())
    pieces = sa.func.string_agg(deltas.c.text, aggregate_order_by(nothing, deltas.c.seq))
    return sa.select(pieces).where(deltas.c.kind == kind.value).scalar_subquery()


# In literal words, as the predicate of the partial index needs it.
_IS_RUNNING = GENERATIONS.c.status.in_(
    [sa.literal_column(f"'{status.value}'", sa.Text()) for status in RUNNING]
)


def _of(epoch: int) -> sa.ColumnElement[bool]:
    """Whether a generation is in this epoch and still runs."""
    return sa.and_(GENERATIONS.c.epoch == epoch, _IS_RUNNING)


def _hold_statement() -> PreparedSelect:
    until = sa.func.now() + sa.bindparam("lease", type_=sa.Interval())
    held = (
        sa.update(GENERATIONS)
        .values(lease_expires_at=until)
        .where(
            predicate(GENERATIONS),
            GENERATIONS.c.id == sa.bindparam("id", type_=sa.Uuid()),
            GENERATIONS.c.epoch == sa.bindparam("epoch", type_=sa.Integer()),
            _IS_RUNNING,
        )
        .returning(GENERATIONS.c.id)
        .cte("held")
    )
    return PreparedSelect(sa.select(held.c.id))


_HOLD = _hold_statement()
_APPEND = PreparedSelect(
    sa.select(sa.column("place"), sa.column("outcome")).select_from(
        sa.func.engram_append_deltas(
            sa.bindparam("owners", type_=ARRAY(sa.Uuid())),
            sa.bindparam("generations", type_=ARRAY(sa.Uuid())),
            sa.bindparam("epochs", type_=ARRAY(sa.Integer())),
            sa.bindparam("seqs", type_=ARRAY(sa.Integer())),
            sa.bindparam("kinds", type_=ARRAY(sa.Text())),
            sa.bindparam("texts", type_=ARRAY(sa.Text())),
            sa.bindparam("notices", type_=ARRAY(sa.Text())),
        )
    )
)
