"""How long requests wait for a migration that runs beside them, on a disk that is waited for.

Clients create, change and read tasks in a closed loop: for a while undisturbed, then while the
example of docs/migrations.md is migrated on many tasks. All the time somebody reads the tasks in
transactions of two seconds, so that the migration has to wait for its locks, with requests in the
queue behind it. The database is asked every few milliseconds who waits, and since when.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import Any

import asyncpg
import httpx

from benchmarks.asking import Disagreement
from benchmarks.dataset import HOME, Dataset
from benchmarks.load import percentile
from benchmarks.peers import running
from db import tokens
from db.embedded import EmbeddedServer
from db.migrate import upgrade
from schema import ids
from tests.care.expanding import STEPS, ahead, write_example

FOLDER = HOME / "migrating"
DATABASE = "migrating"
READ_SECONDS = 2.0
SAMPLE_SECONDS = 0.004

PEOPLE = """
    WITH people AS (
        INSERT INTO users (username, email, password_hash)
        SELECT 'b' || n || 'ench', 'b' || n || '@example.org', 'none'
        FROM generate_series(1, $1::int) n RETURNING id
    ), human AS (
        INSERT INTO workers (owner_id, name, kind) SELECT id, 'Me', 'human' FROM people
    ), projects AS (
        INSERT INTO projects (owner_id, key, name, next_number)
        SELECT id, 'P', 'P', 1000000 FROM people RETURNING owner_id, id
    )
    SELECT owner_id, id FROM projects
"""
TASKS = """
    INSERT INTO tasks (owner_id, project_id, number, title, created_by_id, priority)
    SELECT p.owner_id, p.id, n, 'Task ' || n, w.id, n % 5
    FROM projects p JOIN workers w ON w.owner_id = p.owner_id, generate_series(1, $1::int) n
"""
# Requests that wait for a lock, and the longest of them.
WAITING = """
    SELECT count(*), coalesce(max(extract(epoch FROM clock_timestamp() - waitstart)), 0)::float8
    FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE NOT granted AND relation = 'tasks'::regclass
        AND application_name <> 'migrating' AND mode <> 'AccessExclusiveLock'
"""
DO = """mutation($id: ID!) { createTask(input: {projectId: $id, title: "new"}) {
    task { id version } problems { message }
} }"""
CHANGE = """mutation($id: ID!) { updateTask(input: {id: $id, priority: 4}) {
    task { version } problems { message }
} }"""
READ = "query($id: ID!) { project(id: $id) { tasks(last: 20) { nodes { title priority } } } }"


@dataclass
class Phase:
    """What clients met in a stretch of time."""

    latencies: list[int] = field(default_factory=list)
    """In nanoseconds."""
    waits: list[float] = field(default_factory=list)
    """In seconds: the longest wait for a lock, each time one was seen."""
    seconds: float = 0

    def row(self, title: str) -> str:
        """A line of the table."""
        ordered = sorted(self.latencies)
        shares = "".join(f"{percentile(ordered, share):>9.1f}" for share in (50, 99, 100))
        longest = 1_000 * max(self.waits, default=0)
        return f"{title:>24}{len(ordered):>10}{self.seconds:>9.1f}{shares}{longest:>14.0f}"


async def migrating(*, people: int, tasks: int, seconds: float) -> None:
    """Print what requests waited. Raises Disagreement when one was not answered as it should be."""
    with _postgres() as server:
        server.drop_database(DATABASE)
        server.create_database(DATABASE)
        await upgrade(server.url(DATABASE))
        data = Dataset(server, DATABASE, 0, (), ())
        admin = await asyncpg.connect(server.admin_url(DATABASE), command_timeout=None)
        projects = await admin.fetch(PEOPLE, people)
        await admin.execute(TASKS.replace("$1", str(tasks // people)))
        await admin.execute("ANALYZE")
        callers = [await _caller(admin, row) for row in projects]
        with running(["engram"], data) as peers:
            port = peers[0].port
            title = f"{tasks:,} tasks of {people} people, one process, {people} connections"
            print(
                f"{title}\n{'':>24}{'requests':>10}{'seconds':>9}{'p50 ms':>9}{'p99 ms':>9}"
                f"{'most ms':>9}{'lock, most ms':>14}"
            )
            quiet, during = Phase(), Phase()
            await _measure(server, port, callers, quiet, asyncio.sleep(seconds))
            print(quiet.row("undisturbed"), flush=True)
            await _measure(server, port, callers, during, _migrate(server))
            print(during.row("while it is migrated"), flush=True)
        await admin.close()


async def _measure(
    server: EmbeddedServer, port: int, callers: list[tuple[str, str]], phase: Phase, work: Any
) -> None:
    """Let clients ask for as long as the work takes."""
    stop = asyncio.Event()
    others = [
        asyncio.create_task(_ask(port, token, project, phase, stop)) for token, project in callers
    ]
    others.append(asyncio.create_task(_read(server, stop)))
    others.append(asyncio.create_task(_watch(server, phase, stop)))
    began = perf_counter()
    try:
        await work
    finally:
        phase.seconds = perf_counter() - began
        stop.set()
        await asyncio.gather(*others)


async def _migrate(server: EmbeddedServer) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_example(Path(folder))
        with ahead(Path(folder)):
            for step, revision in list(STEPS.items())[:-1]:
                began = perf_counter()
                await upgrade(server.url(DATABASE), revision)
                print(f"{step:>24}{perf_counter() - began:>19.1f}", flush=True)


async def _ask(port: int, token: str, project: str, phase: Phase, stop: asyncio.Event) -> None:
    headers = {"authorization": f"Bearer {token}"}
    url = f"http://127.0.0.1:{port}/graphql"
    async with httpx.AsyncClient(headers=headers, timeout=30) as client:

        async def ask(document: str, identifier: str) -> Any:
            began = perf_counter_ns()
            body = {"query": document, "variables": {"id": identifier}}
            answer = (await client.post(url, json=body)).json()
            phase.latencies.append(perf_counter_ns() - began)
            if "errors" in answer or any(
                isinstance(one, dict) and one.get("problems") for one in answer["data"].values()
            ):
                raise Disagreement(f"A request failed: {answer}")
            return answer["data"]

        while not stop.is_set():
            made = await ask(DO, project)
            await ask(CHANGE, made["createTask"]["task"]["id"])
            await ask(READ, project)


async def _read(server: EmbeddedServer, stop: asyncio.Event) -> None:
    """Somebody who reads for long, again and again."""
    connection = await asyncpg.connect(server.admin_url(DATABASE))
    while not stop.is_set():
        async with connection.transaction():
            await connection.execute("SELECT count(*) FROM tasks WHERE number < 100")
            await asyncio.sleep(READ_SECONDS)
        await asyncio.sleep(READ_SECONDS / 10)
    await connection.close()


async def _watch(server: EmbeddedServer, phase: Phase, stop: asyncio.Event) -> None:
    settings = {"application_name": "migrating"}
    connection = await asyncpg.connect(server.admin_url(DATABASE), server_settings=settings)
    while not stop.is_set():
        count, longest = await connection.fetchrow(WAITING)
        if count:
            phase.waits.append(longest)
        await asyncio.sleep(SAMPLE_SECONDS)
    await connection.close()


async def _caller(admin: Any, row: Any) -> tuple[str, str]:
    minted = tokens.mint(row["owner_id"])
    await admin.execute(
        "INSERT INTO login_sessions (owner_id, token_hash, expires_at)"
        " VALUES ($1, $2, now() + interval '1 day')",
        row["owner_id"],
        minted.hash,
    )
    return minted.token, ids.encode("project", row["id"])


@contextmanager
def _postgres() -> Iterator[EmbeddedServer]:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with EmbeddedServer.start(FOLDER) as server:
        yield server
        server.drop_database(DATABASE)
