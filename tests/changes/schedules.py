"""Transactions that overlap in any way, a step at a time, and readers in between.

A schedule is made from a seed, and is the same whenever it runs: a write that has to wait for a row
is known to wait, and goes on when the transaction that holds the row ends.
"""

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from db.changes import insert, update
from db.models.work import Project
from db.repositories.journal import START, Position, next_events
from db.session import Session, Transaction
from tests.conftest import OpenSession

PROJECTS = Project.__table__
Seen = list[tuple[UUID, int]]
"""Rows and the versions that changes made of them, in the order in which a reader saw them."""


@dataclass
class Writer:
    """A transaction under way."""

    session: Session
    context: Any
    transaction: Transaction
    holds: set[UUID] = field(default_factory=set)
    waiting: tuple[UUID, asyncio.Task[Any]] | None = None


class Schedule:
    """Writers of one owner's rows, most of which want the same ones."""

    def __init__(self, open_session: OpenSession, owner_id: UUID, seed: int) -> None:
        self._open_session = open_session
        self._owner_id = owner_id
        self.random = Random(seed)
        self.rows: list[UUID] = []
        self.writers: list[Writer] = []
        self._made = 0

    async def start(self) -> None:
        """Three rows to fight for."""
        session = self._open_session(self._owner_id)
        async with session.transaction():
            self.rows = [(await self._create(session)) for _ in range(3)]
        await session.close()

    async def step(self) -> None:
        """Something happens: a transaction begins, writes, or ends."""
        able = [writer for writer in self.writers if writer.waiting is None]
        choice = self.random.random()
        if not able or (choice < 0.2 and len(self.writers) < 5):
            await self._begin()
            return
        writer = self.random.choice(able)
        if choice < 0.75:
            await self._write(writer)
        else:
            await self._end(writer, commit=choice < 0.95)

    async def finish(self) -> None:
        """All transactions end."""
        while self.writers:
            able = [writer for writer in self.writers if writer.waiting is None]
            await self._end(self.random.choice(able), commit=True)

    async def _begin(self) -> None:
        session = self._open_session(self._owner_id)
        context = session.transaction()
        self.writers.append(Writer(session, context, await context.__aenter__()))

    async def _write(self, writer: Writer) -> None:
        if self.random.random() < 0.3:
            await self._create(writer.session)
            return
        row = self.random.choice(self.rows)
        holder = next((other for other in self.writers if row in other.holds), writer)
        wanted = any(one.waiting and one.waiting[0] == row for one in self.writers)
        writing = update(writer.session, PROJECTS, row, {"name": f"n{self.random.random()}"})
        if holder is writer:
            await writing
            writer.holds.add(row)
        elif wanted or holder.waiting is not None:
            writing.close()  # two in line would end in an order that nobody knows, or never
        else:
            writer.waiting = (row, asyncio.create_task(writing))
            await self._until_it_waits(writer)

    async def _until_it_waits(self, writer: Writer) -> None:
        opened = writer.session._open
        assert opened is not None
        found = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = :pid"
        waits = sa.text(found)
        async with asyncio.timeout(10), writer.session._engine.connect() as connection:
            while opened._driver is None:  # noqa: ASYNC110
                await asyncio.sleep(0)
            pid = opened._driver.get_server_pid()
            while not await connection.scalar(waits, {"pid": pid}):  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def _end(self, writer: Writer, *, commit: bool) -> None:
        if not commit:
            writer.transaction.refuse()
        await writer.context.__aexit__(None, None, None)
        await writer.session.close()
        self.writers.remove(writer)
        for other in self.writers:
            if other.waiting is not None and other.waiting[0] in writer.holds:
                row, task = other.waiting
                await task
                other.waiting = None
                other.holds.add(row)

    async def _create(self, session: Session) -> UUID:
        self._made += 1
        name = f"K{self._made}"
        [row] = await insert(session, PROJECTS, [{"key": name, "name": name, "next_number": 1}])
        identifier: UUID = row.id
        return identifier


class FeedReader:
    """Reads the feed, a few events at a time."""

    def __init__(self, open_session: OpenSession, owner_id: UUID) -> None:
        self._open_session = open_session
        self._owner_id = owner_id
        self.position: Position = START
        self.seen: Seen = []

    async def read(self, limit: int = 3) -> None:
        """Read all that is settled."""
        async with self._open_session(self._owner_id) as session:
            while True:
                found = await next_events(session, self.position, limit)
                for event in found.settled:
                    assert event.version is not None
                    self.seen.append((UUID(int=event.entity_id.int), event.version))
                    self.position = event.position
                if len(found.settled) < limit:
                    return


class NaiveReader:
    """Reads the same events by a cursor of its own, as superuser."""

    def __init__(self, engine: AsyncEngine, owner_id: UUID, cursor: str, where: str = "true"):
        """`cursor` is an expression that grows from event to event, as a number or a text."""
        self._engine = engine
        self._parameters: dict[str, Any] = {"owner_id": owner_id, "last": ""}
        self._sql = sa.text(f"""
            SELECT entity_id, CAST(after ->> 'version' AS int), {cursor} AS cursor FROM audit_events
            WHERE owner_id = :owner_id AND {cursor} > :last AND {where} ORDER BY 3
        """)
        self.seen: Seen = []

    async def read(self) -> None:
        """Read what comes after the last event that was read."""
        async with self._engine.connect() as connection:
            for row, version, cursor in await connection.execute(self._sql, self._parameters):
                self.seen.append((UUID(int=row.int), version))
                self._parameters["last"] = cursor


async def written(engine: AsyncEngine, owner_id: UUID) -> Seen:
    """What was committed."""
    sql = sa.text(
        "SELECT entity_id, CAST(after ->> 'version' AS int) FROM audit_events"
        " WHERE owner_id = :owner_id"
    )
    async with engine.connect() as connection:
        found = await connection.execute(sql, {"owner_id": owner_id})
        return [(UUID(int=row.int), version) for row, version in found]


def is_in_order(seen: Seen) -> bool:
    """Whether the versions of each row rise."""
    last: dict[UUID, int] = {}
    for row, version in seen:
        if version < last.get(row, 0):
            return False
        last[row] = version
    return True
