"""Which PostgreSQL server counted the transactions that the change feed's positions are made of.

A dump that is restored elsewhere brings events of another server's count. If this server has
counted fewer transactions, what is written next would stand before what is there, and readers would
never see it. So positions are raised by an offset then: the feed goes on behind its last event, and
cursors stay good.
"""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

_IS_KNOWN = sa.text("SELECT to_regprocedure('public.engram_feed_origin()') IS NOT NULL")
# Everybody may ask, unless an operator has taken that right away.
_MAY_ASK = sa.text("SELECT has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')")
_HERE = sa.text("SELECT system_identifier::text FROM pg_control_system()")
_ORIGIN = sa.text("SELECT public.engram_feed_origin()")
# Where a feed ends, and how far those have been swept that have no events left.
_TABLES = ("audit_events", "swept_events")
_OFFSET = sa.text(
    """
    SELECT greatest(
        0,
        coalesce(max(xid)::text::bigint, 0) + 1
            - pg_snapshot_xmax(pg_current_snapshot())::text::bigint
    )
    FROM (
        SELECT xid FROM public.audit_events UNION ALL SELECT xid FROM public.swept_events
    ) AS stood
    """
)


def settle(connection: sa.Connection) -> None:
    """Let the feed go on at this server, if its events are another's. As the tables' owner."""
    if not connection.scalar(_IS_KNOWN) or not connection.scalar(_MAY_ASK):
        return
    here = str(connection.scalar(_HERE))
    if connection.scalar(_ORIGIN) == here:
        return
    # Row-level security binds the tables' owner too, as long as it is forced.
    for name in _TABLES:
        connection.execute(sa.text(f"ALTER TABLE public.{name} NO FORCE ROW LEVEL SECURITY"))
    offset = int(connection.scalar(_OFFSET))
    for name in _TABLES:
        connection.execute(sa.text(f"ALTER TABLE public.{name} FORCE ROW LEVEL SECURITY"))
    for name, kind, value in (("offset", "bigint", f"{offset}"), ("origin", "text", f"'{here}'")):
        connection.execute(
            sa.text(
                f"CREATE OR REPLACE FUNCTION public.engram_feed_{name}() RETURNS {kind}"
                f" LANGUAGE sql IMMUTABLE RETURN {value}"
            )
        )


async def is_settled(connection: AsyncConnection) -> bool:
    """Whether the feed goes on at this server, as far as one may know."""
    if not await connection.scalar(_MAY_ASK):
        return True
    return bool(await connection.scalar(_HERE) == await connection.scalar(_ORIGIN))
