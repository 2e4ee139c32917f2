"""How many tasks workers claim and complete in a second, on a disk that is waited for.

One person's tasks, half of which wait for another, beside those that are done already. Workers ask
in a closed loop, through all servers in turn, until nothing is left; every task must have been
given to exactly one of them. What they do with the tasks takes no time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any
from uuid import uuid4

import asyncpg
import httpx

from benchmarks.asking import Disagreement
from benchmarks.dataset import HOME, Dataset
from benchmarks.meters import CpuTime
from benchmarks.peers import Running, running
from db import tokens
from db.embedded import EmbeddedServer
from db.migrate import upgrade
from schema import ids

FOLDER = HOME / "claims"
DATABASE = "claims"
PROJECTS = 4

PERSON = """
    WITH person AS (
        INSERT INTO users (username, email, password_hash)
        VALUES ('bench', 'bench@example.org', 'none') RETURNING id
    ), human AS (
        INSERT INTO workers (owner_id, name, kind) SELECT id, 'Me', 'human' FROM person
    ), projects AS (
        INSERT INTO projects (owner_id, key, name)
        SELECT id, 'P' || n, 'P' || n FROM person, generate_series(1, $1::int) n
    )
    SELECT id FROM person
"""
AGENTS = """
    INSERT INTO workers (owner_id, name) SELECT $1, 'w' || n FROM generate_series(1, $2::int) n
    RETURNING id
"""
TASKS = """
    INSERT INTO tasks (owner_id, project_id, number, title, description, created_by_id, priority,
                       status, claim_epoch, attempts)
    SELECT $1, p.id, n, 'Task ' || n, repeat('What there is to do. ', 10), w.id, n % 5,
           $4::text, ($4 = 'done')::int, ($4 = 'done')::int
    FROM projects p, workers w, generate_series($2::int, $3::int) n
    WHERE p.owner_id = $1 AND w.owner_id = $1 AND w.kind = 'human'
"""
WAIT = """
    INSERT INTO task_dependencies (owner_id, task_id, depends_on_id)
    SELECT t.owner_id, t.id, o.id FROM tasks t
    JOIN tasks o ON o.owner_id = t.owner_id AND o.project_id = t.project_id
                AND o.number = t.number - 1
    WHERE t.owner_id = $1 AND t.status = 'pending' AND t.number % 2 = 0
"""
AGAIN = """
    UPDATE tasks SET status = 'pending', claim_epoch = 0, attempts = 0, lease_expires_at = NULL
    WHERE owner_id = $1 AND number > $2
"""
CLEAN = "VACUUM (ANALYZE) tasks, task_dependencies, workers, audit_events, idempotency_keys"

CLAIM = """
    mutation($input: ClaimTasksInput!) {
      answer: claimTasks(input: $input) {
        tasks { id title description claimEpoch } problems { message }
      }
    }
"""
COMPLETE = """
    mutation($input: CompleteTasksInput!) {
      answer: completeTasks(input: $input) { tasks { id } problems { message } }
    }
"""


@dataclass
class Round:
    """What workers did until nothing was left."""

    seconds: float = 0.0
    claimed: list[str] = field(default_factory=list)
    requests: int = 0
    server_ms: float = 0.0
    """CPU time of the servers for one task."""
    postgres_ms: float = 0.0


@dataclass(frozen=True)
class Work:
    """Workers, the servers they ask, and what they do."""

    data: Dataset
    servers: list[Running]
    token: str
    owner: Any
    workers: list[str]
    tasks: int
    """In each project."""
    done: int

    async def run(self, batch: int, *, complete: bool) -> Round:
        """Let the workers claim all there is, and complete it if they should."""
        await _sql(self.data, AGAIN, self.owner, self.done)
        await _sql(self.data, CLEAN)
        postmaster = int((FOLDER / "postgres" / "postmaster.pid").read_text().split("\n", 1)[0])
        pids = [postmaster, *(one.pid for one in self.servers)]
        found = Round()
        before = [CpuTime.of(pid) for pid in pids]
        started = perf_counter()
        await asyncio.gather(
            *(
                self._work(n, worker, batch, found, complete)
                for n, worker in enumerate(self.workers)
            )
        )
        found.seconds = perf_counter() - started
        spent = [one.until(CpuTime.of(pid)) for one, pid in zip(before, pids, strict=True)]
        many = len(found.claimed)
        if many != self.tasks * PROJECTS or len(set(found.claimed)) != many:
            raise Disagreement(f"{many} claims of {len(set(found.claimed))} tasks")
        found.postgres_ms = spent[0] * 1_000 / many
        found.server_ms = sum(spent[1:]) * 1_000 / many
        return found

    async def _work(self, n: int, worker: str, batch: int, found: Round, complete: bool) -> None:
        port = self.servers[n % len(self.servers)].port
        headers = {"Authorization": f"Bearer {self.token}"}
        async with httpx.AsyncClient(headers=headers, timeout=60) as client:

            async def do(document: str, input: dict[str, Any]) -> list[dict[str, Any]]:
                found.requests += 1
                given = {"query": document, "variables": {"input": input}}
                response = await client.post(f"http://127.0.0.1:{port}/graphql", json=given)
                answer = response.json()
                if "errors" in answer or answer["data"]["answer"]["problems"]:
                    raise Disagreement(response.text[:500])
                tasks: list[dict[str, Any]] = answer["data"]["answer"]["tasks"]
                return tasks

            while len(found.claimed) < self.tasks * PROJECTS:
                wanted = {"workerId": worker, "limit": batch, "idempotencyKey": str(uuid4())}
                tasks = await do(CLAIM, wanted)
                found.claimed += [task["id"] for task in tasks]
                if complete and tasks:
                    ended = [
                        {"id": task["id"], "claimEpoch": task["claimEpoch"], "result": {"ok": True}}
                        for task in tasks
                    ]
                    await do(COMPLETE, {"tasks": ended, "idempotencyKey": str(uuid4())})
                elif not tasks:
                    if not complete:
                        return
                    await asyncio.sleep(0.02)  # what is left waits for others


async def claims(
    *, tasks: int, done: int, workers: int, servers: int, batches: list[int], rounds: int
) -> None:
    """Print claims per second, and what each costs, by the size of a batch."""
    with _postgres() as server:
        server.drop_database(DATABASE)
        server.create_database(DATABASE)
        await upgrade(server.url(DATABASE))
        data = Dataset(server, DATABASE, 0, (), ())
        owner = await _sql(data, PERSON, PROJECTS)
        agents = await _rows(data, AGENTS, owner, workers)
        await _sql(data, TASKS, owner, 1, done // PROJECTS, "done")
        first = done // PROJECTS + 1
        await _sql(data, TASKS, owner, first, first + tasks // PROJECTS - 1, "pending")
        minted = tokens.mint(owner)
        log_in = (
            "INSERT INTO login_sessions (owner_id, token_hash, expires_at)"
            " VALUES ($1, $2, now() + interval '1 day')"
        )
        await _sql(data, log_in, owner, minted.hash)
        with running(["engram"] * servers, data) as peers:
            names = [ids.encode("worker", row["id"]) for row in agents]
            work = Work(
                data, peers, minted.token, owner, names, tasks // PROJECTS, done // PROJECTS
            )
            print(
                f"{tasks:,} tasks, {done:,} done ones beside them, {workers} workers,"
                f" {servers} servers; medians of {rounds} rounds\n"
                f"{'':>24}{'batch':>6}{'tasks/s':>9}{'least':>8}{'requests':>10}"
                f"{'server ms':>11}{'PostgreSQL ms':>15}"
            )
            for title, complete in (("claimed", False), ("claimed and completed", True)):
                if complete:
                    await _sql(data, WAIT, owner)
                for batch in batches:
                    # the first round only warms up
                    found = [await work.run(batch, complete=complete) for _ in range(rounds + 1)]
                    _print(title, batch, found[1:])


def _print(title: str, batch: int, found: list[Round]) -> None:
    rates = [len(one.claimed) / one.seconds for one in found]
    print(
        f"{title:>24}{batch:>6}{median(rates):>9.0f}{min(rates):>8.0f}"
        f"{median(one.requests for one in found):>10.0f}"
        f"{median(one.server_ms for one in found):>11.3f}"
        f"{median(one.postgres_ms for one in found):>15.3f}",
        flush=True,
    )


@contextmanager
def _postgres() -> Iterator[EmbeddedServer]:
    """A PostgreSQL that waits for the disk, as every claim that was answered must last."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with EmbeddedServer.start(FOLDER) as server:
        yield server
        server.drop_database(DATABASE)


async def _rows(data: Dataset, sql: str, *arguments: Any) -> list[Any]:
    connection = await asyncpg.connect(data.server.admin_url(data.name), command_timeout=None)
    try:
        rows: list[Any] = await connection.fetch(sql, *arguments)
    finally:
        await connection.close()
    return rows


async def _sql(data: Dataset, sql: str, *arguments: Any) -> Any:
    """The first value of a statement of the superuser, if it gives any."""
    rows = await _rows(data, sql, *arguments)
    return rows[0][0] if rows else None
