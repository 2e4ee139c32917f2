"""A task cancelled at every one of its awaits, one after the other, leaves nothing behind.

What an operation leaves is looked for on the connection that the next one gets: a transaction, a
role, an owner, an answer that belongs to somebody else, a statement that still runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from db.engine import create_engine
from db.failures import StatementCancelled
from db.models.work import Project
from db.prepared import PreparedSelect
from db.scope import OWNER, readable
from db.session import Session
from tests.conftest import NewOwner

PROJECTS = Project.__table__
STATE = "current_user, current_setting('app.owner_id', true)"
MOST_AWAITS = 200
Operation = Callable[[AsyncEngine, UUID], Coroutine[Any, Any, None]]


class InterruptedAt(Awaitable[None]):
    """A coroutine whose task is cancelled when it waits for the n-th time.

    At once, `later` by some seconds, or with None when what it waits for is there already.
    """

    def __init__(self, work: Coroutine[Any, Any, None], wait: int, later: float | None) -> None:
        self._work = work
        self._wait = wait
        self._later = later
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, None]:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        steps = self._work.__await__()
        try:
            waited_for = next(steps)
            while True:
                self.waits += 1
                if self.waits == self._wait:
                    if self._later is not None:
                        loop.call_later(self._later, task.cancel)
                    elif waited_for is not None:
                        waited_for.add_done_callback(lambda _: task.cancel())
                try:
                    value = yield waited_for
                except BaseException as error:
                    waited_for = steps.throw(error)
                else:
                    waited_for = steps.send(value)
        except StopIteration:
            return


async def read_alone(engine: AsyncEngine, owner: UUID) -> None:
    async with Session(engine, owner) as session:
        await session.fetch(PreparedSelect(readable(PROJECTS)), {}, alone=True)


async def read_alone_what_was_never_read(engine: AsyncEngine, owner: UUID) -> None:
    lone = PreparedSelect(select(text(f"'{uuid4()}', pg_sleep(0.002)")))
    async with Session(engine, owner) as session:
        await session.fetch(lone, {}, alone=True)


async def read_twice(engine: AsyncEngine, owner: UUID) -> None:
    async with Session(engine, owner) as session:
        await session.execute(text(f"SELECT '{uuid4()}'"))
        await session.execute(readable(PROJECTS))


async def read_at_once(engine: AsyncEngine, owner: UUID) -> None:
    async with Session(engine, owner) as session:
        await asyncio.gather(*(session.execute(readable(PROJECTS)) for _ in range(3)))


async def write(engine: AsyncEngine, owner: UUID) -> None:
    async with Session(engine, owner) as session, session.transaction():
        for _ in range(2):
            key = f"P{uuid4().hex[:8].upper()}"
            values = {"owner_id": OWNER, "key": key, "name": key}
            await session.execute(insert(PROJECTS).values(values))
        session.notify("project", owner, [owner], "insert")


async def fail(engine: AsyncEngine, owner: UUID) -> None:
    with pytest.raises(Exception, match="division"):
        async with Session(engine, owner) as session, session.transaction():
            await session.execute(text(f"SELECT '{uuid4()}', 1 / 0"))


@pytest_asyncio.fixture
async def one(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine whose only connection everybody has to share."""
    engine = create_engine(f"{database_url}&application_name=interrupted", pool_size=1)
    yield engine
    await engine.dispose()


async def interrupt(work: Coroutine[Any, Any, None], wait: int, later: float | None) -> bool:
    """Run some work and cancel it at a wait; whether it came so far."""
    interrupted = InterruptedAt(work, wait, later)

    async def run() -> None:
        await interrupted

    task = asyncio.create_task(run())
    await asyncio.wait({task}, timeout=20)
    assert task.done(), f"it hangs when cancelled at wait {wait}"
    if not task.cancelled():
        error = task.exception()
        assert error is None or isinstance(error, StatementCancelled | AssertionError), error
    return interrupted.waits >= wait


async def until_idle(admin_engine: AsyncEngine, engine: AsyncEngine) -> None:
    """Wait until no connection of an engine runs anything or holds a snapshot."""
    busy = text(
        "SELECT state, query, backend_xmin FROM pg_stat_activity WHERE datname = :database"
        " AND application_name = 'interrupted' AND (state <> 'idle' OR backend_xmin IS NOT NULL)"
    )
    limit = asyncio.get_running_loop().time() + 5
    while True:
        async with admin_engine.connect() as admin:
            found = (await admin.execute(busy, {"database": engine.url.database})).all()
        if not found:
            return
        assert asyncio.get_running_loop().time() < limit, found
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("cold", [False, True])
@pytest.mark.parametrize("later", [0, 0.001, None])
@pytest.mark.parametrize(
    "operation",
    [read_alone, read_alone_what_was_never_read, read_twice, read_at_once, write, fail],
)
async def test_nothing_is_left_of_an_interrupted_operation(
    one: AsyncEngine,
    admin_engine: AsyncEngine,
    new_owner: NewOwner,
    operation: Operation,
    later: float | None,
    cold: bool,
) -> None:
    owner, stranger = await new_owner(), await new_owner()
    state = select(text(STATE))
    lone = PreparedSelect(state)
    came_so_far = True
    for wait in range(1, MOST_AWAITS):
        if cold:
            await one.dispose()
        came_so_far = await interrupt(operation(one, owner), wait, later)
        assert one.pool.checkedout() == 0, wait  # type: ignore[attr-defined]  # known at run time
        await until_idle(admin_engine, one)
        for alone in (True, False):
            async with asyncio.timeout(20), Session(one, stranger) as session:
                records = await session.fetch(lone, {}, alone=alone)
                assert tuple(records[0]) == ("engram_app", str(stranger)), wait
        async with one.connect() as connection:
            row = (await connection.execute(state)).one()
            assert row[0] == "engram_owner"
            assert row[1] in ("", None)
        async with admin_engine.connect() as admin:
            written = text("SELECT count(*) FROM projects WHERE owner_id = :owner")
            assert await admin.scalar(written, {"owner": owner}) % 2 == 0
        if not came_so_far:
            break
    assert not came_so_far
