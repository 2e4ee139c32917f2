"""How soon subscribers of the change feed hear of a commit, and what they cost.

People with one project each, and subscribers who each follow one person's feed as server-sent
events, all at one process of Engram. A writer commits changes of random people's projects at an
even rate, past the API, on a disk that is waited for. Then one person's subscriber reads many
changes that were made before. Every subscriber must have seen every change of its person.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import closing
from dataclasses import dataclass, field
from random import Random
from time import perf_counter
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from benchmarks.asking import Disagreement
from benchmarks.dataset import HOME, Dataset
from benchmarks.meters import CpuTime, resident_mb
from benchmarks.peers import Running, running
from db import tokens
from db.changes import update
from db.embedded import EmbeddedServer
from db.engine import create_engine
from db.migrate import upgrade
from db.models.work import Project
from db.repositories.journal import START
from db.session import Author, Session
from schema.changes import encode_cursor

FOLDER = HOME / "changes"
DATABASE = "changes"
PROJECTS = Project.__table__
READ_SECONDS = 60.0
CONNECTED_AT_ONCE = 50
PERSON = """
    WITH person AS (
        INSERT INTO users (username, email, password_hash)
        VALUES ('bench' || $1::int, 'bench' || $1::int || '@example.org', 'none') RETURNING id
    )
    INSERT INTO projects (owner_id, key, name) SELECT id, 'P', 'P' FROM person
    RETURNING owner_id, id
"""
ADMIT = """
    INSERT INTO login_sessions (owner_id, token_hash, expires_at)
    VALUES ($1, $2, now() + interval '1 day')
"""
DOCUMENT = "subscription($after: String) { changes(after: $after) { cursor version entityId %s } }"
NODE = "node { ... on Project { name description version } }"
SEEN = re.compile(rb'"version":(\d+),"entityId":"project_([0-9a-f]{32})"')


@dataclass
class Person:
    """Somebody with a project, which is at a version."""

    owner: UUID
    project: UUID
    token: str
    version: int = 1


@dataclass
class Seen:
    """When changes were committed, and when subscribers heard of them."""

    committed: dict[tuple[str, int], float] = field(default_factory=dict)
    heard: list[tuple[str, int, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


async def subscribe(port: int, token: str, seen: Seen, body: dict[str, Any]) -> asyncio.Task[None]:
    """Follow a feed; returns once the server has begun to answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    text = orjson.dumps(body)
    writer.write(
        b"POST /graphql HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n"
        b"Authorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        % (token.encode(), len(text))
        + text
    )
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        raise Disagreement(head.decode(errors="replace"))

    async def read() -> None:
        with closing(writer):
            async for line in reader:
                if line.startswith(b"data: {"):
                    now = perf_counter()
                    found = SEEN.search(line)
                    if found is None:
                        seen.failures.append(line.decode(errors="replace")[:500])
                        return
                    seen.heard.append((found[2].decode(), int(found[1]), now))

    return asyncio.create_task(read())


class Feeds:
    """People, the server, and the writer."""

    def __init__(self, data: Dataset, server: Running, people: list[Person]) -> None:
        self.data = data
        self.server = server
        self.people = people
        self.engine = create_engine(data.url, pool_size=8)
        self.postmaster = int((FOLDER / "postgres" / "postmaster.pid").read_text().split("\n")[0])

    async def follow(self, subscribers: int, rate: int, seconds: float, show: str) -> None:
        """Print the latencies at a rate of commits, and the cost of an event."""
        seen = Seen()
        before = resident_mb(self.server.pid)
        following: list[asyncio.Task[None]] = []
        body = {"query": DOCUMENT % show}
        for first in range(0, subscribers, CONNECTED_AT_ONCE):
            some = range(first, min(first + CONNECTED_AT_ONCE, subscribers))
            tokens_ = [self.people[n % len(self.people)].token for n in some]
            following += await asyncio.gather(
                *(subscribe(self.server.port, token, seen, body) for token in tokens_)
            )
        await self._settle(seen, subscribers)
        idle = CpuTime.of(self.server.pid)
        await asyncio.sleep(5)
        idle_cpu = idle.until(CpuTime.of(self.server.pid)) / 5
        each = (resident_mb(self.server.pid) - before) * 1024 / subscribers
        cpu = [CpuTime.of(pid) for pid in (self.server.pid, self.postmaster)]
        commits = await self._write(rate, seconds, seen)
        per_person = subscribers // len(self.people)
        await self._until(seen, commits * per_person)
        now = [CpuTime.of(pid) for pid in (self.server.pid, self.postmaster)]
        server, postgres = (one.until(later) for one, later in zip(cpu, now, strict=True))
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
        late = sorted(
            (at - seen.committed[project, version]) * 1000 for project, version, at in seen.heard
        )
        events = len(late)
        print(
            f"{subscribers:>11,}{len(self.people):>8,}{rate:>10}{events / seconds:>10.0f}"
            f"{late[events // 2]:>9.1f}{late[events * 99 // 100]:>9.1f}{late[-1]:>9.1f}"
            f"{each:>9.0f}{idle_cpu * 100:>8.1f}"
            f"{server * 1000 / events:>11.3f}{postgres * 1000 / events:>15.3f}",
            flush=True,
        )
        await asyncio.sleep(1)  # the server lets go of them

    async def _settle(self, seen: Seen, subscribers: int) -> None:
        """Let every subscription begin: one change of each person, heard by all who follow."""
        for person in self.people:
            await self._change(person, seen)
        await self._until(seen, subscribers)
        seen.heard.clear()

    async def _write(self, rate: int, seconds: float, seen: Seen) -> int:
        """Commit so many changes a second, each at its time if the disk keeps up."""
        random, started, commits = Random(1), perf_counter(), int(rate * seconds)
        locks = [asyncio.Lock() for _ in self.people]

        async def one(number: int) -> None:
            await asyncio.sleep(max(0.0, started + number / rate - perf_counter()))
            place = random.randrange(len(self.people))
            async with locks[place]:
                await self._change(self.people[place], seen)

        await asyncio.gather(*(one(number) for number in range(commits)))
        return commits

    async def _change(self, person: Person, seen: Seen) -> None:
        author = Author("user", person.owner, "bench")
        async with Session(self.engine, person.owner, author=author) as session:
            version = person.version + 1
            async with session.transaction():
                await update(session, PROJECTS, person.project, {"name": f"n{version}"})
            person.version = version
            seen.committed[person.project.hex, version] = perf_counter()

    async def _until(self, seen: Seen, events: int) -> None:
        """Wait until so many events were heard of."""
        limit = perf_counter() + READ_SECONDS
        while len(seen.heard) < events:
            if seen.failures or perf_counter() > limit:
                wrong = seen.failures or f"{len(seen.heard)} events were heard of {events}"
                raise Disagreement(str(wrong))
            await asyncio.sleep(0.02)

    async def catch_up(self, changes: int, show: str) -> None:
        """Print how fast one subscriber reads what was written before."""
        person = self.people[0]
        seen = Seen()
        for _ in range(changes):
            await self._change(person, seen)
        after = encode_cursor(START)
        cpu, started = CpuTime.of(self.server.pid), perf_counter()
        body = {"query": DOCUMENT % show, "variables": {"after": after}}
        task = await subscribe(self.server.port, person.token, seen, body)
        await self._until(seen, person.version - 1)
        elapsed, read = seen.heard[-1][2] - started, len(seen.heard)
        spent = cpu.until(CpuTime.of(self.server.pid))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        shown = "with the row" if show else "without the row"
        print(
            f"catching up {shown}: {read:,} events, {read / elapsed:,.0f} a second,"
            f" {spent * 1000 / read:.3f} ms of the server each",
            flush=True,
        )


async def following(*, subscribers: int, rates: list[int], seconds: float) -> None:
    """Print latency, memory and CPU time by the rate of commits."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with EmbeddedServer.start(FOLDER) as server:
        server.drop_database(DATABASE)
        server.create_database(DATABASE)
        await upgrade(server.url(DATABASE))
        data = Dataset(server, DATABASE, 0, (), ())
        people = await _people(data, subscribers)
        print(
            f"{'subscribers':>11}{'people':>8}{'commits/s':>10}{'events/s':>10}{'p50 ms':>9}"
            f"{'p99 ms':>9}{'most ms':>9}{'KiB each':>9}{'idle %':>8}"
            f"{'server ms':>11}{'PostgreSQL ms':>15}"
        )
        for many in (subscribers, max(1, subscribers // 100)):
            with running(["engram"], data) as [engram]:
                feeds = Feeds(data, engram, people[:many])
                for rate in rates if many == subscribers else rates[:1]:
                    await feeds.follow(subscribers, rate, seconds, NODE)
                await feeds.engine.dispose()
        with running(["engram"], data) as [engram]:
            feeds = Feeds(data, engram, people[:1])
            for show in ("", NODE):
                await feeds.catch_up(5_000, show)
            await feeds.engine.dispose()
        server.drop_database(DATABASE)


async def _people(data: Dataset, count: int) -> list[Person]:
    connection = await asyncpg.connect(data.server.admin_url(data.name))
    people: list[Person] = []
    for number in range(count):
        row = await connection.fetchrow(PERSON, number)
        owner, project = UUID(int=row["owner_id"].int), UUID(int=row["id"].int)
        minted = tokens.mint(owner)
        await connection.execute(ADMIT, owner, minted.hash)
        people.append(Person(owner, project, minted.token))
    await connection.close()
    return people
