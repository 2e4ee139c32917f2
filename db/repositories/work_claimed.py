"""What workers write about the tasks they have claimed, one or many, each under its claim's epoch.

A task whose claim is another by now, or none, is left as it is and refused; each stands for itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.dialects.postgresql import JSONB

from db.changes import IDS, Record, update
from db.models.work import Task, TaskStatus
from db.recording import shown
from db.refusals import Missing, Refused, Stale
from db.repositories.work_claims import has_status, note_signs_of_life, pause
from db.scope import readable
from db.session import Session

TASKS = Task.__table__

Outcomes = list[Record | Refused]
"""For each claim the task as it became, or Missing or Stale, in the order given."""


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A task as the worker who has claimed it names it, and what came of it."""

    id: UUID
    epoch: int
    path: tuple[str, ...] = ()
    """Where it stands in the input."""
    result: Mapping[str, Any] | None = None
    pause: timedelta | None = None
    """How long to wait before the next attempt, when the worker says so."""


async def heartbeat(session: Session, claims: Sequence[Claimed], lease: timedelta) -> Outcomes:
    """Hold claimed tasks for longer, from now on."""
    values = {"lease_expires_at": sa.func.now() + lease}
    tasks = await _write(session, claims, values, "heartbeat")
    workers = {task.claimed_by_id for task in tasks if not isinstance(task, Refused)}
    await note_signs_of_life(session, list(workers - {None}))
    return tasks


async def complete(session: Session, claims: Sequence[Claimed]) -> Outcomes:
    """Mark claimed tasks as done."""
    values = {
        "status": TaskStatus.DONE.value,
        "lease_expires_at": None,
        "result": _each({one.id: one.result for one in claims}, as_text=False),
    }
    return await _write(session, claims, values, "complete")


async def fail(session: Session, claims: Sequence[Claimed]) -> Outcomes:
    """Give claimed tasks back after a failure, to be claimed again after a pause.

    The pause doubles with every attempt unless one is given; after the last attempt a task has
    failed, with a reason in its result if the worker gives none.
    """
    last = TASKS.c.attempts >= TASKS.c.max_attempts
    given = {one.id: one.pause.total_seconds() for one in claims if one.pause is not None}
    wait = sa.func.coalesce(_seconds(sa.cast(_each(given), sa.Double())), pause(TASKS))
    result = _each({one.id: one.result for one in claims}, as_text=False)
    given_up = _reason(
        sa.func.format("Attempt %s of %s failed.", TASKS.c.attempts, TASKS.c.max_attempts)
    )
    values = {
        "status": sa.case((last, TaskStatus.FAILED.value), else_=TaskStatus.PENDING.value),
        "run_after": sa.case((last, TASKS.c.run_after), else_=sa.func.now() + wait),
        "claimed_by_id": sa.case((last, TASKS.c.claimed_by_id), else_=sa.null()),
        "lease_expires_at": None,
        "result": sa.func.coalesce(result, sa.case((last, given_up))),
    }
    return await _write(session, claims, values, "fail")


async def release(session: Session, claims: Sequence[Claimed]) -> Outcomes:
    """Give claimed tasks back undone, as if they had not been claimed.

    One that has had all the attempts that it is allowed by now even so has failed.
    """
    attempts = sa.func.greatest(TASKS.c.attempts - 1, 0)
    spent = attempts >= TASKS.c.max_attempts
    given_up = _reason(sa.literal("It was released, and no attempts are left."))
    values = {
        "status": sa.case((spent, TaskStatus.FAILED.value), else_=TaskStatus.PENDING.value),
        "claimed_by_id": None,
        "lease_expires_at": None,
        "attempts": attempts,
        "result": sa.case((spent, given_up), else_=TASKS.c.result),
    }
    return await _write(session, claims, values, "release")


def _reason(text: ColumnElement[str]) -> ColumnElement[Any]:
    return sa.func.jsonb_build_object(sa.literal_column("'reason'"), text)


def _seconds(number: ColumnElement[float]) -> ColumnElement[Any]:
    return number * sa.literal_column("interval '1 second'", sa.Interval())


def _each(values: Mapping[UUID, Any], *, as_text: bool = True) -> ColumnElement[Any]:
    """The value that is given for a task; null where none is. As text, or as the JSON it is."""
    given = {str(id): value for id, value in values.items() if value is not None}
    known: Any = sa.literal(given, JSONB())
    key = sa.cast(TASKS.c.id, sa.Text())
    found: ColumnElement[Any] = known.op("->>" if as_text else "->")(key)
    return sa.type_coerce(found, sa.Text()) if as_text else found


async def _write(
    session: Session, claims: Sequence[Claimed], values: Mapping[str, Any], action: str
) -> Outcomes:
    """Change the tasks that are claimed under these epochs."""
    epochs = sa.cast(_each({one.id: one.epoch for one in claims}), sa.BigInteger())
    claimed = sa.and_(
        has_status(TASKS.c.status, TaskStatus.IN_PROGRESS),
        TASKS.c.lease_expires_at.is_not(None),
        TASKS.c.claim_epoch == epochs,
    )
    ids = [one.id for one in claims]
    rows = await update(session, TASKS, ids, values, where=claimed, action=action)
    done: dict[UUID, Record | Refused] = {row.id: row for row in rows}
    left = [one for one in claims if one.id not in done]
    if left:
        done |= await _reasons(session, left)
    return [done[id] for id in ids]


async def _reasons(session: Session, claims: Sequence[Claimed]) -> dict[UUID, Missing | Stale]:
    """Why nothing was written under these claims."""
    found = await session.execute(_CURRENT, {"ids": [one.id for one in claims]})
    current = {row.id: row for row in found}
    return {
        one.id: _lost(one, current[one.id])
        if one.id in current
        else Missing("task", (*one.path, "id"))
        for one in claims
    }


_CURRENT = readable(TASKS, *shown(TASKS)).where(TASKS.c.id == sa.any_(IDS))


def _lost(claim: Claimed, current: Record) -> Stale:
    if current.status == TaskStatus.IN_PROGRESS and current.lease_expires_at is not None:
        message = f"This task is claimed under epoch {current.claim_epoch}, not {claim.epoch}."
    else:
        message = f"This task is not claimed any more: it is {current.status.replace('_', ' ')}."
    return Stale("task", current._asdict(), (*claim.path, "claim_epoch"), message=message)
