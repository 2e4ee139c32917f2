"""The change feed: an owner's audit events in the order of their positions.

A reader takes what stands before the horizon, where nothing can be added any more: a transaction
that ends late, whatever it began with, finds its events behind it. What has been committed but
stands at the horizon or behind it is *unsettled*, and is read again when the horizon has moved.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from db.models.journal import AuditEvent, SweptEvents, Xid8
from db.prepared import PreparedSelect
from db.scope import readable
from db.session import Session

EVENTS = AuditEvent.__table__
SWEPT = SweptEvents.__table__
HORIZON = sa.func.engram_feed_horizon(type_=Xid8())


class Position(NamedTuple):
    """Where an event stands in its owner's feed."""

    xid: int
    id: UUID


START = Position(0, UUID(int=0))
"""Before all events."""


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one row, without what it was and became."""

    position: Position
    entity_type: str
    entity_id: UUID
    action: str
    version: int | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Events:
    """The next events of a feed."""

    settled: Sequence[Event]
    unsettled: int | None
    """The position of the first event that is committed and may not be told yet."""


_COLUMNS = (
    EVENTS.c.xid,
    EVENTS.c.id,
    EVENTS.c.entity_type,
    EVENTS.c.entity_id,
    EVENTS.c.action,
    EVENTS.c.after["version"].as_integer().label("version"),
    EVENTS.c.created_at,
)
_ORDER = (EVENTS.c.xid, EVENTS.c.id)
_LIMIT = sa.bindparam("limit", type_=sa.Integer())
_LATER = sa.tuple_(*_ORDER) > sa.tuple_(
    sa.bindparam("xid", type_=Xid8()), sa.bindparam("id", type_=sa.Uuid())
)
_SETTLED = EVENTS.c.xid < HORIZON
_NEXT = PreparedSelect(
    readable(EVENTS, *_COLUMNS, _SETTLED.label("settled"))
    .where(_LATER)
    .order_by(*_ORDER)
    .limit(_LIMIT)
)
_PAGE = PreparedSelect(
    readable(EVENTS, *_COLUMNS)
    .where(
        _LATER,
        _SETTLED,
        EVENTS.c.entity_type == sa.any_(sa.bindparam("types", type_=ARRAY(sa.Text()))),
    )
    .order_by(*_ORDER)
    .limit(_LIMIT)
)
_NEWEST = (
    readable(EVENTS, *_ORDER)
    .where(_SETTLED)
    .order_by(EVENTS.c.xid.desc(), EVENTS.c.id.desc())
    .limit(1)
)
_ENDS = sa.union_all(
    sa.select(_NEWEST.subquery("newest")), readable(SWEPT, SWEPT.c.xid, SWEPT.c.event_id)
).subquery("ends")
_LATEST = PreparedSelect(
    sa.select(_ENDS.c.xid, _ENDS.c.id).order_by(_ENDS.c.xid.desc(), _ENDS.c.id.desc()).limit(1)
)
_SWEPT_LATER = (
    readable(SWEPT, sa.literal(1))
    .where(sa.tuple_(SWEPT.c.xid, SWEPT.c.event_id) > sa.tuple_(*_ORDER))
    .correlate(EVENTS)
    .exists()
)
# After a restore there may be events that stand where this server has not counted to.
_FOUND = PreparedSelect(
    readable(EVENTS, EVENTS.c.id).where(
        EVENTS.c.xid == sa.bindparam("xid", type_=Xid8()),
        EVENTS.c.id == sa.bindparam("id", type_=sa.Uuid()),
        _SETTLED,
        ~_SWEPT_LATER,
    )
)
_SWEPT = PreparedSelect(readable(SWEPT, SWEPT.c.xid, SWEPT.c.event_id))


async def next_events(session: Session, after: Position, limit: int) -> Events:
    """The events after a position, of whatever type: at most so many."""
    rows = await session.fetch(_NEXT, {**after._asdict(), "limit": limit})
    settled = [_event(row) for row in rows if row["settled"]]
    unsettled = rows[len(settled)]["xid"] if len(settled) < len(rows) else None
    return Events(settled, unsettled)


async def events_page(
    session: Session, after: Position, types: Collection[str], limit: int
) -> list[Event]:
    """The settled events of these types after a position: at most so many."""
    parameters = {**after._asdict(), "types": list(types), "limit": limit}
    return [_event(row) for row in await session.fetch(_PAGE, parameters)]


async def latest_position(session: Session) -> Position:
    """The position of the newest settled event, or where the feed begins if there is none."""
    rows = await session.fetch(_LATEST, {})
    return Position(*rows[0]) if rows else START


async def first_position(session: Session) -> Position:
    """Where the feed begins: after the last event that was swept, if any was."""
    rows = await session.fetch(_SWEPT, {})
    return Position(*rows[0]) if rows else START


async def is_position(session: Session, position: Position) -> bool:
    """Whether the feed goes on after what a cursor says was read, without a gap.

    It does not after what was swept, or before it. A feed that was restored from a backup may lack
    what was read: then what came after it was lost as well, and others may stand in its place.
    """
    if position != START and await session.fetch(_FOUND, position._asdict()):
        return True
    return position == await first_position(session)


def _event(row: Mapping[str, Any]) -> Event:
    return Event(
        Position(row["xid"], row["id"]),
        row["entity_type"],
        row["entity_id"],
        row["action"],
        row["version"],
        row["created_at"],
    )
