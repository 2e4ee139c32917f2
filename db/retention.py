"""What is kept for a while and then removed: of one owner at a time, a bounded batch at a time.

Which owners have such rows is found by a function that looks at many people's rows and says only
whose they are. Whatever is removed is removed in a session of its owner, so that row-level security
binds the removal as it binds everything else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

import sqlalchemy as sa

from db import changes
from db.models.accounts import LoginSession
from db.models.journal import IdempotencyKey
from db.repositories.exports import EXPORTS, remove_parts
from db.scope import predicate, readable
from db.session import Session

LOGINS = LoginSession.__table__
KEYS = IdempotencyKey.__table__

BATCH_ROWS = 500
"""How many rows one transaction removes at most."""
OWNERS_AT_ONCE = 500
"""How many people one statement looks at."""
LEAST_EVENTS = timedelta(days=30)
"""The function that removes audit events leaves younger ones alone, whatever it is told."""
LOCK_KEY = 0x7377656570  # "sweep"

_FORGET = sa.text("SET LOCAL lock_timeout = '1s'")
_ALONE = sa.text("SELECT pg_try_advisory_xact_lock(:key)")
_OWNERS = sa.text(
    "SELECT last_id, due FROM engram_owners_to_sweep("
    "CAST(:after AS uuid), :most, CAST(:logins AS interval), CAST(:events AS interval))"
)
_EVENTS = sa.text("SELECT engram_sweep_events(CAST(:events AS interval), :most)")


@dataclass(frozen=True)
class Retention:
    """How long what is kept."""

    logins: timedelta = timedelta(days=30)
    """Login sessions, after they have ended."""
    events: timedelta = timedelta(days=365)
    """Audit events, after what they tell of; LEAST_EVENTS at least."""


class Owners(NamedTuple):
    """Whom a statement looked at, and who of them has something to be removed."""

    last_id: UUID | None
    """After whom to go on; None when nobody is left."""
    due: Sequence[UUID]


async def alone(session: Session) -> bool:
    """Whether no other process sweeps; none will, before the session's transaction ends."""
    return bool(await session.scalar(_ALONE, {"key": LOCK_KEY}))


async def owners(session: Session, after: UUID | None, retention: Retention) -> Owners:
    """The next people, in the order of their ids."""
    parameters = {
        "after": after,
        "most": OWNERS_AT_ONCE,
        "logins": retention.logins,
        "events": retention.events,
    }
    (row,) = await session.execute(_OWNERS, parameters)
    # The driver keeps what a query read from, and with it a snapshot that vacuum waits for, until
    # the next statement; this one reads nothing.
    await session.execute(_FORGET)
    return Owners(row.last_id, row.due)


# Each of these is one batch, inside a transaction of the owner's session, and says how many rows it
# removed.


async def sweep_logins(session: Session, retention: Retention) -> int:
    """Remove login sessions that ended long ago. Their audit events say that they are gone."""
    ended = sa.func.least(LOGINS.c.expires_at, LOGINS.c.revoked_at)
    old = readable(LOGINS, LOGINS.c.id).where(ended < sa.func.now() - retention.logins)
    rows = await session.execute(old.order_by(LOGINS.c.id).limit(BATCH_ROWS))
    return await changes.remove(session, LOGINS, [row.id for row in rows])


async def sweep_keys(session: Session) -> int:
    """Remove expired idempotency keys."""
    old = readable(KEYS, KEYS.c.id).where(KEYS.c.expires_at < sa.func.now())
    # One that is claimed anew at this moment is not expired any more: it stays.
    some = old.limit(BATCH_ROWS).with_for_update(skip_locked=True).scalar_subquery()
    # As an array, which is made once: a list that is joined may be made again, and have other rows.
    statement = sa.delete(KEYS).where(predicate(KEYS), KEYS.c.id == sa.any_(sa.func.array(some)))
    return len(await session.execute(statement.returning(KEYS.c.id)))


async def sweep_exports(session: Session) -> int:
    """Remove parts of the files of expired exports, then the exports."""
    old = readable(EXPORTS, EXPORTS.c.id).where(EXPORTS.c.expires_at < sa.func.now())
    rows = await session.execute(old.order_by(EXPORTS.c.id).limit(1))
    if not rows:
        return 0
    removed = await remove_parts(session, rows[0].id)
    return removed or await changes.remove(session, EXPORTS, [rows[0].id])


async def sweep_events(session: Session, retention: Retention) -> int:
    """Remove old audit events, and remember the last of them in the order of the change feed."""
    parameters = {"events": retention.events, "most": BATCH_ROWS}
    return int(await session.scalar(_EVENTS, parameters))
