"""Fifty workers in processes that are killed, on servers that are killed.

Each task is completed exactly once, under its last claim, after all that it waits for. With
`HYPOTHESIS_PROFILE=nightly` there are 10,000 tasks and dozens of deaths.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from schema import ids
from tests.examples.running import Account, sign_up
from tests.properties import IS_LONG
from tests.work.swarm.__main__ import Job
from tests.work.swarm.running import Swarm


@dataclass(frozen=True)
class Profile:
    """How large a swarm is."""

    tasks: int
    servers: int
    processes: int
    workers: int
    """In each process."""
    kills: int
    """Of worker processes, spread over the work."""
    server_kills: int
    minutes: int


PROFILE = (
    Profile(10_000, servers=3, processes=10, workers=5, kills=40, server_kills=8, minutes=20)
    if IS_LONG
    else Profile(400, servers=2, processes=5, workers=10, kills=3, server_kills=1, minutes=10)
)
LEASE_SECONDS = 3
"""Short, so that what the dead held comes back soon, and long enough for a busy machine."""
CREATE = (
    "mutation($input: CreateTasksInput!)"
    " { createTasks(input: $input) { tasks { id } problems { message path } } }"
)
WORKER = """w%d: createWorker(input: { name: "Agent" }) { worker { id } problems { message } }"""
PROJECT = (
    'mutation { createProject(input: { key: "ENG", name: "Engine" })'
    " { project { id } problems { message } } }"
)
DONE = "SELECT count(*) FROM tasks WHERE project_id = :project AND status = 'done'"
# Time flies, but for those who are alive: the pause after a lease that ran out is over at once.
HURRY = (
    "UPDATE tasks SET lease_expires_at = lease_expires_at - interval '2 hours' WHERE id IN"
    " (SELECT id FROM tasks WHERE project_id = :project AND lease_expires_at < now()"
    " FOR NO KEY UPDATE SKIP LOCKED)"
)
TASKS = "SELECT id, status, claim_epoch FROM tasks WHERE project_id = :project"
# The id of an event is made after the row was locked, and tells the time.
EVENTS = """
    SELECT e.entity_id AS task, e.action, (e.after->>'claim_epoch')::int AS epoch, e.id
    FROM audit_events e JOIN tasks t ON t.owner_id = e.owner_id AND t.id = e.entity_id
    WHERE t.project_id = :project AND e.action IN ('claim', 'complete') ORDER BY e.id
"""
WAITS = """
    SELECT d.task_id, d.depends_on_id
    FROM task_dependencies d JOIN tasks t ON t.owner_id = d.owner_id AND t.id = d.task_id
    WHERE t.project_id = :project
"""


@dataclass(frozen=True)
class Facts:
    """What the database says in the end."""

    tasks: dict[str, tuple[str, int]]
    """Status and epoch."""
    claims: dict[str, list[tuple[UUID, int]]]
    """The claims of each task: event and epoch."""
    completions: dict[str, list[UUID]]
    waits: list[tuple[str, str]]


@pytest_asyncio.fixture
async def swarm(database_url: str, tmp_path: Path) -> AsyncIterator[Swarm]:
    swarm = Swarm(database_url, tmp_path, seed=1)
    yield swarm
    await swarm.stop()


async def plan(account: Account, project: str, many: int) -> None:
    """Tasks that wait for up to three earlier ones, created as an agent's plan would be."""
    choose, made = random.Random(7), list[str]()
    while len(made) < many:
        size = min(1_000, many - len(made))
        tasks: list[dict[str, Any]] = []
        for n in range(size):
            inside = choose.sample(range(n), k=min(n, choose.choice((0, 0, 1, 2))))
            before = choose.sample(made, k=1) if made and choose.random() < 0.3 else []
            values = {"priority": choose.randint(0, 4), "maxAttempts": 100}
            waits = {"dependsOnIndexes": inside, "dependsOnIds": before}
            tasks.append({"projectId": project, "title": f"{len(made) + n}", **values, **waits})
        created = await account.ask(CREATE, input={"tasks": tasks})
        made += [task["id"] for task in created["createTasks"]["tasks"]]


async def facts(admin: AsyncEngine, project: str) -> Facts:
    parameters = {"project": ids.decode_as("project", project)}

    def name(id: UUID) -> str:
        return ids.encode("task", id)

    async with admin.connect() as connection:

        async def rows(sql: str) -> Any:
            return (await connection.execute(text(sql), parameters)).all()

        claims: dict[str, list[tuple[UUID, int]]] = defaultdict(list)
        completions: dict[str, list[UUID]] = defaultdict(list)
        for event in await rows(EVENTS):
            if event.action == "claim":
                claims[name(event.task)].append((event.id, event.epoch))
            else:
                completions[name(event.task)].append(event.id)
        return Facts(
            tasks={name(row.id): (row.status, row.claim_epoch) for row in await rows(TASKS)},
            claims=claims,
            completions=completions,
            waits=[(name(row[0]), name(row[1])) for row in await rows(WAITS)],
        )


async def work(swarm: Swarm, admin: AsyncEngine, project: str) -> None:
    """Let the workers work, and kill as they go on."""
    parameters = {"project": ids.decode_as("project", project)}
    deaths: list[Callable[[], Any]] = [swarm.kill_workers] * PROFILE.kills
    deaths += [swarm.kill_server] * PROFILE.server_kills
    random.Random(3).shuffle(deaths)
    # After so many tasks there is a death; the last tenth sees nobody die.
    steps = [PROFILE.tasks * 9 * (n + 1) // (10 * (len(deaths) + 1)) for n in range(len(deaths))]
    done = 0
    async with asyncio.timeout(PROFILE.minutes * 60), admin.connect() as connection:
        while done < PROFILE.tasks:
            while steps and done >= steps[0]:
                steps.pop(0)
                await deaths.pop()()
            if not IS_LONG:
                await connection.execute(text(HURRY), parameters)
            done = (await connection.execute(text(DONE), parameters)).scalar_one()
            await asyncio.sleep(0.05)
        assert await swarm.ended() == [0] * PROFILE.processes


async def test_a_swarm_that_dies_completes_each_task_once(
    swarm: Swarm, admin_engine: AsyncEngine, record_property: Callable[[str, object], None]
) -> None:
    urls = await swarm.start_servers(PROFILE.servers)
    account = await sign_up(swarm.servers[0])
    project = (await account.ask(PROJECT))["createProject"]["project"]["id"]
    await plan(account, project, PROFILE.tasks)
    agents = " ".join(WORKER % n for n in range(PROFILE.workers))
    for n in range(PROFILE.processes):
        made = await account.ask(f"mutation {{ {agents} }}")
        workers = [one["worker"]["id"] for one in made.values()]
        job = Job(
            urls,
            account.token,
            project,
            workers,
            LEASE_SECONDS,
            work_seconds=0.2,
            ledger="",
            seed=n,
        )
        await swarm.start_workers(job)
    await work(swarm, admin_engine, project)
    found, ledger = await facts(admin_engine, project), swarm.ledger()
    for name, count in counts(swarm, found, ledger).items():
        record_property(name, count)

    assert Counter(status for status, _ in found.tasks.values()) == {"done": PROFILE.tasks}
    assert swarm.killed_workers == PROFILE.kills
    assert swarm.killed_servers == PROFILE.server_kills
    check_each_was_completed_once(found, ledger)
    check_nothing_stale_was_accepted(found, ledger)
    check_nothing_started_too_early(found, ledger)


def counts(swarm: Swarm, found: Facts, ledger: list[dict[str, Any]]) -> dict[str, int]:
    """What happened, for whoever reads the run: a swarm in which nothing happens shows nothing."""
    events = Counter(line["event"] for line in ledger)
    return {
        "tasks": len(found.tasks),
        "claims": sum(map(len, found.claims.values())),
        "dead worker processes": swarm.killed_workers,
        "dead servers": swarm.killed_servers,
        "requests without an answer": events["unanswered"],
        "writes under a lost claim": events["refused"],
    }


def check_each_was_completed_once(found: Facts, ledger: list[dict[str, Any]]) -> None:
    assert {task: len(found.completions[task]) for task in found.tasks} == dict.fromkeys(
        found.tasks, 1
    )
    told = Counter(line["id"] for line in completions(ledger, "done"))
    assert set(told.values()) == {1}, [task for task, times in told.items() if times > 1]


def check_nothing_stale_was_accepted(found: Facts, ledger: list[dict[str, Any]]) -> None:
    for task, (_, epoch) in found.tasks.items():
        # each claim under an epoch of its own, and none after the completion
        assert [one for _, one in found.claims[task]] == list(range(1, epoch + 1))
        assert found.claims[task][-1][0] < found.completions[task][0]
    accepted = completions(ledger, "done")
    assert all(line["claimEpoch"] == found.tasks[line["id"]][1] for line in accepted)
    refused = completions(ledger, "refused")
    assert all(line["claimEpoch"] < found.tasks[line["id"]][1] for line in refused)
    # not for want of trying; one who tried may have died before the answer came
    late = {task for line in ledger if line["event"] == "too late" for task in line["tasks"]}
    assert late & {line["id"] for line in refused}


def check_nothing_started_too_early(found: Facts, ledger: list[dict[str, Any]]) -> None:
    assert found.waits
    for task, other in found.waits:
        [(first, _), *_] = found.claims[task]
        assert found.completions[other][0] < first
    seen = [line["waits"] for line in ledger if line["event"] == "claimed"]
    assert {status for waits in seen for status in waits} == {"DONE"}


def completions(ledger: list[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    return [
        line for line in ledger if line["event"] == event and line["mutation"] == "completeTasks"
    ]
