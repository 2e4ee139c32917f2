"""Puts away tasks whose last attempt ended without a word, also when nobody claims any more.

A claim does so for its own person. Here any process does it for everybody; what another one is
putting away at the moment is passed over.
"""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncEngine

from db.repositories.work_claims import owners_of_lapsed, put_away_lapsed
from db.session import Author, Session, SessionOptions

__all__ = ["Lapses"]


class Lapses:
    """Looks for such tasks of all people."""

    def __init__(self, engine: AsyncEngine, options: SessionOptions) -> None:
        self._engine = engine
        self._options = options

    async def run(self) -> int:
        """Put them away once: how many there were.

        Raises DatabaseUnavailable, and what fails in the database.
        """
        async with Session(self._engine, None, self._options) as session:
            owners = await owners_of_lapsed(session)
        found = 0
        for owner_id in owners:
            author = Author("user", owner_id, "lapses")
            session = Session(self._engine, owner_id, self._options, author=author)
            async with session, session.transaction():
                found += await put_away_lapsed(session)
        return found
