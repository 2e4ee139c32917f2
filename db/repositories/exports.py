"""Exports of accounts: asked for, written by one process at a time, kept for a while.

Whoever writes one holds a lease, and the number of the attempt fences out whoever held it before:
a process that was only slow finds out that it has lost, and leaves nothing behind.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from db import changes
from db.changes import Record
from db.locking import lock_one
from db.models.accounts import AccountExport, AccountExportPart, ExportStatus, User
from db.scope import OWNER, predicate, readable
from db.session import Session

EXPORTS = AccountExport.__table__
PARTS = AccountExportPart.__table__

LEASE = timedelta(seconds=60)
"""How long a process may be silent about an export before another one begins it anew."""
MAX_ATTEMPTS = 5
MAX_FINISHED = 3
"""How many exports of one account are kept; the next one takes the place of the oldest."""
PARTS_AT_ONCE = 50
"""How many parts are removed in one transaction."""

_UNFINISHED = EXPORTS.c.status.in_([ExportStatus.PENDING.value, ExportStatus.RUNNING.value])
_ATTEMPT = sa.bindparam("attempt", type_=sa.Integer())
_EXPORT = sa.bindparam("export_id", type_=sa.Uuid())
_DUE = sa.text("SELECT owner_id, id FROM engram_due_exports(:most)")


class Overtaken(Exception):
    """Another process writes the export by now, or it is gone."""


@dataclass(frozen=True)
class Attempt:
    """The right to write an export, until the lease ends."""

    export_id: UUID
    number: int


@dataclass(frozen=True)
class Part:
    """Where a part lies in the file."""

    position: int
    start: int
    size: int


async def request(session: Session) -> Record:
    """A new export, or the one that is unfinished; of too many finished ones the oldest expires."""
    assert session.owner_id is not None
    await lock_one(session, User.__table__, session.owner_id)  # one request after the other
    unfinished = await session.execute(readable(EXPORTS).where(_UNFINISHED))
    if unfinished:
        return unfinished[0]
    kept = readable(EXPORTS, EXPORTS.c.id).where(EXPORTS.c.expires_at > sa.func.now())
    finished = [row.id for row in await session.execute(kept.order_by(EXPORTS.c.id))]
    if len(finished) >= MAX_FINISHED:
        too_many = finished[: len(finished) - MAX_FINISHED + 1]
        await changes.update(
            session, EXPORTS, too_many, {"expires_at": sa.func.now()}, action="expire"
        )
    (export,) = await changes.insert(session, EXPORTS, [{}])
    return export


async def due(session: Session, most: int) -> Sequence[tuple[UUID, UUID]]:
    """Exports that nobody writes, whoever's they are: the owner and the id of each."""
    return [(row.owner_id, row.id) for row in await session.execute(_DUE, {"most": most})]


async def claim(session: Session, export_id: UUID) -> Attempt | None:
    """The right to write an export; None when another process was quicker.

    After too many attempts it fails instead.
    """
    free = sa.and_(_UNFINISHED, EXPORTS.c.lease_expires_at <= sa.func.now())
    given_up = await changes.update(
        session,
        EXPORTS,
        export_id,
        {"status": ExportStatus.FAILED.value, "expires_at": sa.func.now()},
        where=sa.and_(free, EXPORTS.c.attempts >= MAX_ATTEMPTS),
        action="fail",
    )
    if given_up:
        return None
    claimed = await changes.update(
        session,
        EXPORTS,
        export_id,
        {
            "status": ExportStatus.RUNNING.value,
            "attempts": EXPORTS.c.attempts + 1,
            "lease_expires_at": sa.func.now() + LEASE,
            "rows": 0,
            "bytes": 0,
        },
        where=free,
        action="begin",
    )
    return Attempt(export_id, claimed[0].attempts) if claimed else None


async def append(session: Session, attempt: Attempt, part: Part, content: bytes, rows: int) -> None:
    """Store the next part of the file, and hold the lease longer. Raises Overtaken."""
    held = (
        sa.update(EXPORTS)
        .where(predicate(EXPORTS), EXPORTS.c.id == _EXPORT, EXPORTS.c.attempts == _ATTEMPT)
        .where(EXPORTS.c.status == ExportStatus.RUNNING.value)
        .values(lease_expires_at=sa.func.now() + LEASE, rows=rows, bytes=part.start + part.size)
        .returning(EXPORTS.c.id)
    )
    parameters = {"export_id": attempt.export_id, "attempt": attempt.number}
    if not await session.execute(held, parameters):
        raise Overtaken
    # Not by db.changes, which is for rows that have events: bytes would travel as JSON, doubled.
    await session.execute(
        sa.insert(PARTS).values(
            owner_id=OWNER,
            export_id=attempt.export_id,
            position=part.position,
            start=part.start,
            size=part.size,
            content=content,
        )
    )


async def complete(session: Session, attempt: Attempt, taken_at: datetime, keep: timedelta) -> None:
    """The file is whole. Raises Overtaken."""
    done = await changes.update(
        session,
        EXPORTS,
        attempt.export_id,
        {
            "status": ExportStatus.COMPLETE.value,
            "taken_at": taken_at,
            "expires_at": sa.func.now() + keep,
        },
        where=_held(attempt),
        action="complete",
    )
    if not done:
        raise Overtaken


async def release(session: Session, attempt: Attempt) -> None:
    """Leave an export for another process to begin anew at once."""
    await session.execute(
        sa.update(EXPORTS)
        .where(predicate(EXPORTS), EXPORTS.c.id == attempt.export_id, _held(attempt))
        .values(lease_expires_at=sa.func.now())
    )


def _held(attempt: Attempt) -> sa.ColumnElement[bool]:
    return sa.and_(
        EXPORTS.c.attempts == attempt.number, EXPORTS.c.status == ExportStatus.RUNNING.value
    )


async def remove_parts(session: Session, export_id: UUID) -> int:
    """Remove some parts of an export, and say how many; 0 when none was left."""
    some = (
        readable(PARTS, PARTS.c.id)
        .where(PARTS.c.export_id == _EXPORT)
        .order_by(PARTS.c.position)
        .limit(PARTS_AT_ONCE)
        .scalar_subquery()
    )
    # As an array, which is made once: a list that is joined may be made again, and have other rows.
    ids = sa.any_(sa.func.array(some))
    statement = sa.delete(PARTS).where(predicate(PARTS), PARTS.c.id == ids).returning(PARTS.c.id)
    return len(await session.execute(statement, {"export_id": export_id}))


# What a download reads.


async def ready(session: Session, export_id: UUID) -> Record | None:
    """An export that has not expired, complete or not; None when there is none."""
    statement = readable(EXPORTS).where(
        EXPORTS.c.id == _EXPORT,
        sa.or_(EXPORTS.c.expires_at.is_(None), EXPORTS.c.expires_at > sa.func.now()),
    )
    rows = await session.execute(statement, {"export_id": export_id})
    return rows[0] if rows else None


async def position_at(session: Session, export_id: UUID, offset: int) -> tuple[int, int] | None:
    """The part that holds a byte of the file: its position, and where it begins."""
    statement = (
        readable(PARTS, PARTS.c.position, PARTS.c.start)
        .where(PARTS.c.export_id == _EXPORT)
        .where(PARTS.c.start <= sa.bindparam("offset", type_=sa.BigInteger()))
        .order_by(PARTS.c.position.desc())
        .limit(1)
    )
    rows = await session.execute(statement, {"export_id": export_id, "offset": offset})
    return (rows[0].position, rows[0].start) if rows else None


async def content_of(session: Session, export_id: UUID, position: int) -> bytes | None:
    """A part of the file; None when there is none."""
    statement = readable(PARTS, PARTS.c.content).where(
        PARTS.c.export_id == _EXPORT, PARTS.c.position == sa.bindparam("position")
    )
    rows = await session.execute(statement, {"export_id": export_id, "position": position})
    return rows[0].content if rows else None
