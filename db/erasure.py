"""Erasing an account: everything of its owner goes, for good, and is counted before and after."""

from functools import cache
from typing import Any

import sqlalchemy as sa

from db.models import metadata
from db.models.accounts import User
from db.scope import OWNER, is_owned, predicate, readable
from db.session import Session

USERS = User.__table__


async def erase_account(session: Session) -> dict[str, int]:
    """Delete the session's owner and everything of theirs; how many rows each table had.

    Every change has an event, and an event needs its owner: once the owner is locked, nothing that
    is counted changes any more. Afterwards all is counted again, and must be nothing, or nothing is
    erased. No event is left: the events go too. Raises RuntimeError when rows are left.
    """
    await session.execute(sa.select(USERS.c.id).where(predicate(USERS)).with_for_update())
    counts = await _counts(session)
    # Tasks and the workers they name go in one statement, in no order that the keys could ask for.
    await session.execute(sa.text("SET CONSTRAINTS ALL DEFERRED"))
    await session.execute(sa.delete(USERS).where(USERS.c.id == OWNER))
    left = {name: rows for name, rows in (await _counts(session)).items() if rows}
    if left:
        raise RuntimeError(f"Rows are left of an account that was erased: {left}")
    return counts


async def _counts(session: Session) -> dict[str, int]:
    rows = await session.execute(_count())
    return {row.name: row.rows for row in rows}


@cache
def _count() -> sa.CompoundSelect[*tuple[Any, ...]]:
    return sa.union_all(
        *(
            readable(
                table,
                sa.literal_column(f"'{table.name}'", sa.Text()).label("name"),
                sa.func.count().label("rows"),
                deleted=None,
            )
            for table in metadata.sorted_tables
            if is_owned(table)
        )
    )
