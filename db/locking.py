"""Rows held still until a transaction ends, for writes that depend on what they find."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Table

from db.changes import Record, update_one
from db.recording import shown
from db.refusals import Missing, Stale
from db.scope import readable
from db.session import Session


async def lock_one(
    session: Session,
    table: Table,
    identifier: UUID,
    *,
    expected_version: int | None = None,
    path: tuple[str, ...] = ("id",),
) -> Record:
    """A live row, which other writers leave alone until the transaction ends.

    Raises Missing, whose path is `path`, and Stale when it is at another version.
    """
    statement = readable(table, *shown(table)).where(table.c.id == identifier)
    # Rows may still be added that refer to it; it must only not change or be deleted.
    rows = await session.execute(statement.with_for_update(key_share=True))
    entity = table.info["entity"]
    if not rows:
        raise Missing(entity, path)
    if expected_version is not None and rows[0].version != expected_version:
        raise Stale(entity, rows[0]._asdict())
    return rows[0]


async def change_one(
    session: Session,
    table: Table,
    identifier: UUID,
    values: Mapping[str, Any],
    *,
    expected_version: int | None = None,
    action: str = "update",
) -> Record:
    """`update_one`, which without values gives the row as it is. Raises Missing and Stale."""
    if not values:
        return await lock_one(session, table, identifier, expected_version=expected_version)
    return await update_one(
        session, table, identifier, values, expected_version=expected_version, action=action
    )
