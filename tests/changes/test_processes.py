"""Server processes that are killed, connections that are cut, transactions that commit late.

Each follower of the feed sees each event, those of a row in their order, whatever happens.
"""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from db import tokens
from db.changes import insert, update
from db.models.work import Project
from schema import ids
from tests.changes.followers import Follower
from tests.changes.schedules import NaiveReader
from tests.conftest import OpenSession
from tests.examples.running import Account, sign_up
from tests.processes import Serving

PROJECTS = Project.__table__
SECONDS = 5.0
"""How long there is trouble."""
RECONNECTED = 3
"""How often each follower has come back, at least, when the trouble ends."""
SETTINGS = {"LOG_LEVEL": "error", "DATABASE_POOL_SIZE": "5", "SHUTDOWN_GRACE_SECONDS": "1"}
CUT = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND (
        query ILIKE 'LISTEN%' OR (state = 'idle' AND random() < 0.3)
    ) AND application_name = 'engram-trouble'
"""
CREATE = """mutation($input: CreateProjectInput!) {
    createProject(input: $input) { project { id } problems { message } }
}"""
RENAME = """mutation($input: UpdateProjectInput!) {
    updateProject(input: $input) { project { id } problems { message } }
}"""


class Cluster:
    """Server processes on one database; one is killed now and then, another takes its place."""

    def __init__(self, data: Path, database_url: str) -> None:
        separator = "&" if "?" in database_url else "?"
        self._url = f"{database_url}{separator}application_name=engram-trouble"
        self._data = data
        self.running = [self._start() for _ in range(2)]

    def _start(self) -> Serving:
        return Serving(self._data, DATABASE_URL=self._url, **SETTINGS)

    def urls(self) -> list[str]:
        return [f"{served.url}/graphql" for served in self.running]

    async def replace(self, place: int) -> None:
        """kill -9, and start another."""
        victim = self.running.pop(place)
        victim.process.kill()
        await asyncio.to_thread(victim.process.communicate)
        self.running.append(await asyncio.to_thread(self._start))

    def stop(self) -> None:
        for served in self.running:
            served.process.kill()
            served.process.communicate()


@pytest.fixture
def cluster(database_url: str, tmp_path: Path) -> Iterator[Cluster]:
    """Two server processes."""
    cluster = Cluster(tmp_path, database_url)
    yield cluster
    cluster.stop()


async def write_over_the_api(cluster: Cluster, token: str, seed: int) -> None:
    """Create and rename; what got no answer is sent again, to any server."""
    random, mine, n = Random(seed), list[str](), 0

    async def ask(document: str, **given: Any) -> dict[str, Any]:
        given["idempotencyKey"] = str(uuid4())
        while True:
            url = random.choice(cluster.urls())
            with suppress(httpx.TransportError):
                async with httpx.AsyncClient(timeout=5) as client:
                    response = await client.post(
                        url,
                        json={"query": document, "variables": {"input": given}},
                        headers={"authorization": f"Bearer {token}"},
                    )
                answer = response.json()
                if response.status_code == 200 and "errors" not in answer:
                    (payload,) = answer["data"].values()
                    assert payload["problems"] == []
                    found: dict[str, Any] = payload
                    return found
            await asyncio.sleep(0.02)

    while True:
        n += 1
        if not mine or random.random() < 0.2:
            made = await ask(CREATE, key=f"A{seed}Z{n}", name=f"{n}")
            mine.append(made["project"]["id"])
        else:
            await ask(RENAME, id=random.choice(mine), name=f"{n}")
        await asyncio.sleep(random.uniform(0, 0.05))


async def write_late(open_session: OpenSession, owner: UUID, rows: list[UUID], seed: int) -> None:
    """Change rows that others want too, and think for a while before the commit."""
    random = Random(seed)
    while True:
        session = open_session(owner)
        async with session.transaction() as transaction:
            key = f"L{uuid4().int % 10**8}"
            await insert(session, PROJECTS, [{"key": key, "name": key, "next_number": 1}])
            await asyncio.sleep(random.uniform(0, 0.3))
            await update(session, PROJECTS, random.choice(rows), {"name": f"{random.random()}"})
            await asyncio.sleep(random.uniform(0, 0.1))
            if random.random() < 0.2:
                transaction.refuse()
        await session.close()


async def make_trouble(cluster: Cluster, admin: AsyncEngine) -> None:
    """Cut connections, and kill each process once."""
    for place in (0, 0):
        for _ in range(3):
            await asyncio.sleep(SECONDS / 8)
            async with admin.connect() as connection:
                await connection.execute(sa.text(CUT))
        await cluster.replace(place)


async def first_cursor(account: Account) -> str:
    """That of the first change, once it has settled: other tests of this run write too."""
    document = "{ changes(first: 1) { nodes { cursor } } }"
    async with asyncio.timeout(20):
        while not (found := (await account.ask(document))["changes"]["nodes"]):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return str(found[0]["cursor"])


async def read_on(reader: NaiveReader) -> None:
    """What the wrong way to do it would see."""
    while True:
        await reader.read()
        await asyncio.sleep(0.02)


async def test_followers_see_everything_in_order(
    cluster: Cluster, open_session: OpenSession, admin_engine: AsyncEngine
) -> None:
    account: Account = await sign_up(cluster.running[0])
    parsed = tokens.parse(account.token)
    assert parsed is not None
    owner = parsed.owner_id
    session = open_session(owner)
    async with session.transaction():
        wanted = [{"key": f"W{n}", "name": "wanted", "next_number": 1} for n in range(2)]
        rows = [row.id for row in await insert(session, PROJECTS, wanted)]
    first = await first_cursor(account)
    followers = [Follower(cluster.urls, account.token, seed) for seed in range(6)]
    for follower in followers:
        follower.cursor = first
    following = [asyncio.create_task(follower.follow()) for follower in followers]
    writing = [
        *(asyncio.create_task(write_over_the_api(cluster, account.token, n)) for n in range(3)),
        *(asyncio.create_task(write_late(open_session, owner, rows, n)) for n in range(3)),
    ]
    naive = NaiveReader(admin_engine, owner, "audit_events.id::text")
    reading = asyncio.create_task(read_on(naive))
    await make_trouble(cluster, admin_engine)
    async with asyncio.timeout(60):
        while any(one.connected <= RECONNECTED for one in followers):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    reading.cancel()
    for task in [*writing, *following]:
        assert not task.done(), task.exception()
    for task in writing:
        task.cancel()
    await asyncio.gather(*writing, return_exceptions=True)
    there = sa.text(
        "SELECT entity_type, entity_id, CAST(after ->> 'version' AS int) FROM audit_events"
        " WHERE owner_id = :owner ORDER BY xid, id OFFSET 1"
    )
    async with asyncio.timeout(30):
        while True:
            async with admin_engine.connect() as connection:
                found = await connection.execute(there, {"owner": owner})
                expected = {(ids.encode(kind, id), version) for kind, id, version in found}
            behind = [one for one in followers if len(seen(one)) < len(expected)]
            if not behind:
                break
            await asyncio.sleep(0.1)
    for task in following:
        task.cancel()
    await asyncio.gather(*following, return_exceptions=True)
    await naive.read()
    assert len(expected) > 100
    assert len(naive.seen) < len(expected), "this test would find a feed that loses events"
    for follower in followers:
        assert set(seen(follower)) == expected
        by_row: dict[str, list[int]] = {}
        for row, version in seen(follower):
            by_row.setdefault(row, []).append(version or 0)
        assert all(versions == sorted(versions) for versions in by_row.values())
    print(
        len(expected), "events,", [one.connected for one in followers], "connections,",
        [len(one.seen) - len(expected) for one in followers], "seen twice;",
        len(expected) + 1 - len(naive.seen), "not seen by one who goes by ids",
    )  # fmt: skip


def seen(follower: Follower) -> list[tuple[str, int | None]]:
    """What a follower saw, each event when it came first."""
    return list(dict.fromkeys((one["entityId"], one["version"]) for one in follower.seen))
