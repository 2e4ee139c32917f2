"""What two connections tell about two servers: whether one is a standby of the other."""

from __future__ import annotations

from typing import Any, NamedTuple

import asyncpg

from db.lsn import read_lsn

__all__ = ["NotAReplica", "WrongReplica", "place", "prove_standby", "replayed"]

PLACE = "SELECT pg_catalog.pg_current_wal_insert_lsn()::text"
REPLAYED = "SELECT pg_catalog.pg_last_wal_replay_lsn()::text WHERE pg_catalog.pg_is_in_recovery()"
# A standby writes down its timeline with what it has replayed, a primary has it in the names of
# its WAL files.
PRIMARY = """
SELECT system_identifier AS system,
       ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int AS timeline
  FROM pg_control_system()
"""
STANDBY = """
SELECT system_identifier AS system,
       greatest(timeline_id, min_recovery_end_timeline) AS timeline
  FROM pg_control_system(), pg_control_checkpoint(), pg_control_recovery()
"""
MAY_NOT = "42501"


class NotAReplica(Exception):
    """It is not to be asked, as it is no standby of the primary now; the message says why."""


class WrongReplica(NotAReplica):
    """It never was one."""


class Identity(NamedTuple):
    """Which history of which cluster a server has."""

    system: int
    timeline: int


async def place(primary: Any) -> int:
    """Where the primary's WAL ends. Takes a driver's connection; raises what the driver raises."""
    return read_lsn(await primary.fetchval(PLACE))


async def replayed(standby: Any) -> int:
    """Up to where a standby has replayed. Raises NotAReplica, and what the driver raises."""
    lsn = await standby.fetchval(REPLAYED)
    if lsn is None:
        raise NotAReplica("The replica is a primary itself: it has been promoted, or is the same.")
    return read_lsn(lsn)


async def prove_standby(primary: Any, standby: Any) -> None:
    """Refuse a server of another cluster, or one that follows another primary of the same.

    A promoted server begins a new timeline, and so do those that follow it: its WAL has the same
    places with other things in them. A standby is on the old one until its next restartpoint, and
    left alone until then. Raises WrongReplica, NotAReplica, and what the driver raises.
    """
    one, other = await _identity(primary, PRIMARY), await _identity(standby, STANDBY)
    if one.system != other.system:
        raise WrongReplica("DATABASE_REPLICA_URL leads to a server of another cluster.")
    if one.timeline != other.timeline:
        raise NotAReplica(
            f"The replica is on the timeline {other.timeline} and the primary on {one.timeline}."
        )


async def _identity(driver: Any, sql: str) -> Identity:
    try:
        row = await driver.fetchrow(sql)
    except asyncpg.PostgresError as error:
        if error.sqlstate != MAY_NOT:
            raise
        raise WrongReplica(
            "That it is a standby of the primary cannot be proven: the role of the URL needs"
            " EXECUTE on pg_control_system, pg_control_checkpoint, pg_control_recovery and"
            " pg_walfile_name, which everybody has by default."
        ) from error
    return Identity(row["system"], row["timeline"])
