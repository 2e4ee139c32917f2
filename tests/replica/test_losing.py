"""A standby that dies, falls silent, gives way, is promoted, or never was one."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import ANY
from uuid import uuid4

import asyncpg
import pytest
from graphql import OperationType
from pydantic import SecretStr, ValidationError
from sqlalchemy import text

import db.replica
from db import tokens
from db.embedded import DATABASE, EmbeddedServer
from db.engine import DatabaseUrlError, create_engine
from db.failures import ReplicaFailed
from db.session import Session
from schema.context import Actor, Context, Services
from server.documents import Placement
from server.execution import Answer
from server.reading import Reading
from server.settings import Settings
from server.startup import Opened, StartupError, prepare
from tests.edge.whole import Someone
from tests.replica.conftest import MakeReader, Reader
from tests.replica.standby import Standby

READERS = 8
BOTH = """{
    some: projects(first: 100) { totalCount nodes { name } }
    all: projects(first: 100) { totalCount nodes { name } }
}"""
PROJECT = """mutation($key: String!) {
    createProject(input: {key: $key, name: $key}) { project { id } problems { message } }
}"""

NAMES = text("SELECT display_name FROM users WHERE users.id = :owner_id")
SLEEP = text("SELECT pg_sleep(60)")
QUERY: Any = SimpleNamespace(
    kind=OperationType.QUERY, operation=SimpleNamespace(placement=Placement())
)


@dataclass
class Load:
    """One who writes, and many who read, and look whether each answer is whole."""

    answered: int = 0
    projects: int = 0
    ended: bool = False
    longest: float = 0.0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def read(self, someone: Someone) -> None:
        """Ask until the end. What was there before a question is in its answer."""
        loop = asyncio.get_running_loop()
        while not self.ended:
            least, began = self.projects, loop.time()
            answer = await someone.ask(BOTH)
            self.longest = max(self.longest, loop.time() - began)
            assert answer["some"] == answer["all"]
            assert least <= answer["all"]["totalCount"] <= self.projects + 1
            assert len(answer["all"]["nodes"]) == answer["all"]["totalCount"]
            self.answered += 1

    async def write(self, someone: Someone) -> None:
        """Add one project after the other, up to a page of them, with pauses to be read in."""
        while not self.ended and self.projects < 100:
            await someone.ask(PROJECT, key=f"P{self.projects}")
            self.projects += 1
            await asyncio.sleep(0.1)

    async def more(self, answers: int) -> None:
        """Wait for so many more answers; the load's own failures come first."""
        wanted = self.answered + answers
        async with asyncio.timeout(30):
            while self.answered < wanted:
                for task in self.tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.01)


@asynccontextmanager
async def load(someone: Someone, *, writing: bool = True) -> AsyncIterator[Load]:
    """People at work for as long as the block runs."""
    load = Load()
    async with asyncio.TaskGroup() as group:
        if writing:
            load.tasks.append(group.create_task(load.write(someone)))
        load.tasks += [group.create_task(load.read(someone)) for _ in range(READERS)]
        await load.more(20)
        yield load
        load.ended = True


async def test_a_standby_that_is_killed_costs_no_answer_and_is_used_again(
    reader: Reader, standby: Standby, anna: Someone
) -> None:
    async with load(anna) as people:
        before = await reader.counts()
        await asyncio.to_thread(standby.kill)
        await people.more(200)
        assert await reader.state() == "away"
        dead = await reader.counts()
        assert dead["away"] > before.get("away", 0)
        await asyncio.to_thread(standby.start)
        await reader.until("ok")
        await people.more(100)
    await reader.until_read(anna)
    assert people.answered >= 320


async def test_a_standby_that_falls_silent_is_waited_for_seconds_at_most(
    reader: Reader, standby: Standby, anna: Someone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db.replica, "SILENT_SECONDS", 0.5)
    async with load(anna, writing=False) as people:
        before = await reader.counts()
        standby.signal(signal.SIGSTOP)
        try:
            await people.more(200)
            assert (await reader.counts())["failed"] >= before.get("failed", 0) + READERS
            assert await reader.state() == "away"
            assert people.longest < 10  # of statements that nobody answers the driver waits 60 s
        finally:
            standby.signal(signal.SIGCONT)
        await reader.until("ok")
        await people.more(50)
    await reader.until_read(anna)


async def test_a_query_that_gives_way_to_what_is_to_be_replayed_runs_on_the_primary(
    reader: Reader, primary: EmbeddedServer, standby: Standby, anna: Someone
) -> None:
    """All of it: its first statement was answered by the standby, its second is not."""
    reading: Reading = reader.served.app.state.reading
    engine = create_engine(primary.url(), pooled=False)
    parsed = tokens.parse(anna.token)
    assert parsed is not None
    services = Services(engine, cast(Any, None))
    seen: list[tuple[str | None, str | None]] = []
    for slow in (False, True):
        context = Context(services, Actor(parsed.owner_id, "user", uuid4()), request_id="test")

        async def execute(_: object, context: Context, slow: bool = slow) -> Answer:
            session = context.session
            first = await session.scalar(NAMES)
            seen.append((first, None))
            if len(seen) % 2:
                pause = asyncio.create_task(session.execute(SLEEP)) if slow else None
                await asyncio.to_thread(rewrite, primary, standby, f"{slow}")
                if pause is not None:
                    await pause
            seen[-1] = first, await session.scalar(NAMES)
            return Answer({}, executed=True)

        await reader.until_read(anna)
        before = reading.counts["failed"]
        async with context:
            await reading.run(QUERY, context, 0, execute)
            assert context.session.forsaken is None
        assert reading.counts["failed"] == before + 1
    # An idle one has lost its connection, a running one its statement.
    assert seen == [(ANY, None), ("False", "False"), ("False", None), ("True", "True")]
    await engine.dispose()
    await reader.until("ok")
    await reader.until_read(anna)


def rewrite(primary: EmbeddedServer, standby: Standby, name: str) -> None:
    """Have the standby replay what a snapshot before it stands in the way of."""
    primary.sql(f"UPDATE users SET display_name = '{name}'", database=DATABASE)
    primary.sql("VACUUM users", database=DATABASE)
    standby.catch_up()


async def test_a_standby_proves_what_it_has_replayed_before_it_answers(
    reader: Reader, primary: EmbeddedServer, anna: Someone
) -> None:
    """Also when it is another one than was looked at, or has been started anew."""
    reading: Any = reader.served.app.state.reading
    for engine, replayed, fails in (
        (reading.replica.engine, 1, False),
        (reading.replica.engine, 2**63, True),
        (create_engine(primary.url()), 0, True),
    ):
        session = Session(engine, None)
        session.read_from(engine, replayed)
        async with session:
            if fails:
                with pytest.raises(ReplicaFailed) as failed:
                    await session.execute(text("SELECT 1"))
                assert failed.value.state == "22012"
            else:
                assert await session.scalar(text("SELECT 1")) == 1
    await engine.dispose()


async def test_a_client_that_leaves_stops_its_query_on_the_standby(
    reader: Reader, primary: EmbeddedServer, standby: Standby, anna: Someone
) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    before = await reader.counts()
    admin = await asyncpg.connect(primary.admin_url(DATABASE))
    try:
        async with admin.transaction(), asyncio.timeout(30):
            await admin.execute("LOCK TABLE projects IN ACCESS EXCLUSIVE MODE")
            await asyncio.to_thread(standby.catch_up)  # it holds the lock as well now
            leaving = asyncio.create_task(anna.ask(BOTH))
            while standby.sql(waiting) != "1":  # noqa: ASYNC110  # another process's
                await asyncio.sleep(0.01)
            leaving.cancel()
            while standby.sql(waiting) != "0":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        await admin.close()
    assert (await reader.counts()).get("failed") == before.get("failed")
    await reader.until_read(anna)


async def test_queries_that_would_wait_for_many_others_are_the_primary_s(
    make_reader: MakeReader, primary: EmbeddedServer, standby: Standby, anna: Someone
) -> None:
    async with make_reader(database_pool_size=1) as reader:
        there = reader.as_(anna)
        await reader.until_read(anna)
        pool: Any = reader.served.app.state.reading.replica.engine.sync_engine.pool
        admin = await asyncpg.connect(primary.admin_url(DATABASE))
        try:
            async with admin.transaction(), asyncio.timeout(30):
                await admin.execute("LOCK TABLE projects IN ACCESS EXCLUSIVE MODE")
                await asyncio.to_thread(standby.catch_up)
                held = asyncio.create_task(there.ask(BOTH))
                while pool.checkedout() == 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                waits = asyncio.create_task(there.ask("{ viewer { id } }"))
                while pool.waiting == 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                assert await reader.where(anna) == "busy"
        finally:
            await admin.close()
        await asyncio.gather(held, waits)


async def test_what_cannot_be_proven_is_refused(primary: EmbeddedServer, standby: Standby) -> None:
    function = "FUNCTION pg_control_checkpoint()"
    primary.sql(f"REVOKE EXECUTE ON {function} FROM PUBLIC", database=DATABASE)
    try:
        standby.catch_up()
        with pytest.raises(StartupError, match=r"cannot be proven: .* EXECUTE on pg_control"):
            await prepare(Opened(settings_of(primary, standby.url), embedded=False))
    finally:
        primary.sql(f"GRANT EXECUTE ON {function} TO PUBLIC", database=DATABASE)
        standby.catch_up()


def test_a_replica_needs_a_primary() -> None:
    with pytest.raises(ValidationError, match="It needs DATABASE_URL to be set"):
        Settings(_env_file=None, database_replica_url=SecretStr("postgresql://a/b"))


@pytest.fixture
def second(primary: EmbeddedServer, folder: Path) -> Iterator[Standby]:
    """A standby that can be promoted."""
    place = folder / "second"
    place.mkdir()
    standby = Standby(primary, place)
    yield standby
    standby.remove()


async def test_a_promoted_standby_and_those_that_follow_it_are_left_alone(
    make_reader: MakeReader, primary: EmbeddedServer, second: Standby, folder: Path, anna: Someone
) -> None:
    async with make_reader(database_replica_url=SecretStr(second.url)) as reader:
        there = reader.as_(anna)
        await reader.until_read(anna)
        await asyncio.to_thread(second.promote)
        second.sql("UPDATE users SET display_name = 'Another history'")
        viewer = (await there.ask("{ viewer { displayName } }"))["viewer"]
        assert viewer["displayName"] != "Another history"
        await reader.until("refused")
        assert await reader.where(anna) == "away"
    place = folder / "third"
    place.mkdir()
    follower = Standby(second, place)
    try:
        async with make_reader(database_replica_url=SecretStr(follower.url)) as reader:
            await reader.until("refused")
            assert await reader.where(anna) == "away"
    finally:
        follower.remove()


def settings_of(primary: EmbeddedServer, url: str) -> Settings:
    return Settings(
        _env_file=None,
        database_url=SecretStr(primary.url()),
        database_replica_url=SecretStr(url),
        engram_environment="production",
    )


async def test_what_can_never_be_a_replica_is_refused_at_the_start(
    primary: EmbeddedServer, standby: Standby, server: EmbeddedServer
) -> None:
    wrong: dict[str, tuple[type[Exception], str]] = {
        "mysql://localhost/engram": (
            DatabaseUrlError,
            r"^DATABASE_REPLICA_URL must begin with postgresql:// and not with mysql://\.$",
        ),
        server.url("engram_template"): (
            StartupError,
            r"^DATABASE_REPLICA_URL leads to a server of another cluster\.$",
        ),
        standby.url.replace("engram_owner@", "nobody@"): (
            StartupError,
            r'^DATABASE_REPLICA_URL is not accepted: role "nobody" does not exist\.$',
        ),
        standby.url.replace("/engram?", "/nowhere?"): (
            StartupError,
            r'^DATABASE_REPLICA_URL is not accepted: database "nowhere" does not exist\.$',
        ),
    }
    for url, (kind, message) in wrong.items():
        with pytest.raises(kind, match=message):
            await prepare(Opened(settings_of(primary, url), embedded=False))


async def test_a_replica_that_is_away_or_is_the_primary_does_not_keep_a_server_from_starting(
    make_reader: MakeReader, primary: EmbeddedServer, anna: Someone
) -> None:
    for url, state in (
        ("postgresql://engram_owner@127.0.0.1:9/engram", "away"),
        (primary.url(), "refused"),
    ):
        settings = settings_of(primary, url)
        await prepare(Opened(settings, embedded=False))
        async with make_reader(database_replica_url=SecretStr(url)) as reader:
            await reader.until(state)
            assert await reader.where(anna) == "away"
