"""Clients that write and keep a ledger of what was acknowledged, and the comparison with the rows.

Every request has a key, and is sent again under it until it is answered, as a careful client does.
Some are sent again although they were answered: the answer must be the same.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx

from schema import ids

TASKS = 3
"""In one request: all of them, or none."""
PAUSE_SECONDS = 0.05
"""Before a request is sent again."""
SENT_TWICE = 0.1
"""The share of answered requests that are sent again."""
CREATE = (
    "mutation($input: CreateTasksInput!) { createTasks(input: $input)"
    " { tasks { id title version } problems { code message } } }"
)
UPDATE = (
    "mutation($input: UpdateTaskInput!) { updateTask(input: $input)"
    " { task { id title version } problems { code message } } }"
)
SIGN_UP = "mutation($input: SignUpInput!) { signUp(input: $input) { token problems { message } } }"
PROJECT = (
    'mutation { createProject(input: { key: "ENG", name: "Engine" })'
    " { project { id } problems { message } } }"
)
RETRIED = {"RATE_LIMITED"}
"""Codes of problems that say: later."""


@dataclass
class Found:
    """What is wrong, by kind; all empty if nothing is."""

    missing: list[str] = field(default_factory=list)
    """Acknowledged, and not there."""
    half: list[str] = field(default_factory=list)
    """Done in part: some of the rows, a row without its event, an event without its row."""
    twice: list[str] = field(default_factory=list)
    """Done more than once."""
    contradictions: list[str] = field(default_factory=list)
    """Answers that differ from an earlier answer, or refuse what must be possible."""

    @property
    def nothing(self) -> bool:
        return not (self.missing or self.half or self.twice or self.contradictions)


class Ledger:
    """What was asked, and what was acknowledged."""

    def __init__(self) -> None:
        self.asked: dict[str, str] = {}
        """Which mutation has a key."""
        self.created: dict[str, list[str]] = {}
        """The ids of the tasks that a request made, by its key."""
        self.updated: dict[str, tuple[str, int]] = {}
        """The task that a request changed, and its version then, by the request's key."""
        self.contradictions: list[str] = []
        self.failures = 0
        """How often a request had no answer."""

    @property
    def acknowledged(self) -> int:
        return len(self.created) + len(self.updated)

    def acknowledge(self, key: str, tasks: list[dict[str, Any]]) -> None:
        """Keep an answer; a second one to the same request has to be the same."""
        identifiers = [task["id"] for task in tasks]
        if self.asked[key] == "createTasks":
            if self.created.setdefault(key, identifiers) != identifiers:
                self.contradictions.append(f"{key} has two answers")
        else:
            answer = (identifiers[0], tasks[0]["version"])
            if self.updated.setdefault(key, answer) != answer:
                self.contradictions.append(f"{key} has two answers")

    async def compare(self, database: asyncpg.Connection) -> Found:
        """Hold the ledger against the rows, as superuser."""
        found = Found(contradictions=list(self.contradictions))
        titles = await database.fetch("SELECT title, array_agg(id) AS ids FROM tasks GROUP BY 1")
        rows = {row["id"] for row in await database.fetch("SELECT id FROM tasks")}
        events = await database.fetch(
            "SELECT entity_id, action, after->>'title' AS title FROM audit_events"
            " WHERE entity_type = 'task'"
        )
        kept = await database.fetch("SELECT key, response FROM idempotency_keys")
        made: dict[str, int] = {}
        changed: dict[str, list[UUID]] = {}
        for event in events:
            if event["action"] == "create":
                made[event["title"]] = made.get(event["title"], 0) + 1
            elif event["title"] is not None:
                changed.setdefault(event["title"], []).append(event["entity_id"])
        for key, identifiers in self.created.items():
            if not {ids.decode(identifier)[1] for identifier in identifiers} <= rows:
                found.missing.append(key)
        for key, (identifier, _) in self.updated.items():
            if ids.decode(identifier)[1] not in changed.get(key, ()):
                found.missing.append(key)
        answered = {row["key"] for row in kept if row["response"] is not None}
        found.half += [row["key"] for row in kept if row["response"] is None]
        for key, mutation in self.asked.items():
            done = made.get(key, 0) if mutation == "createTasks" else len(changed.get(key, ()))
            whole = TASKS if mutation == "createTasks" else 1
            if done > whole:
                found.twice.append(key)
            elif done not in (0, whole) or (done == whole) != (key in answered):
                found.half.append(key)
        found.half += [
            f"task {row['id']}: version {row['version']} and {row['events']} events"
            for row in await database.fetch(UNEVEN)
        ]
        created = {event["entity_id"] for event in events if event["action"] == "create"}
        found.half += [f"{identifier} has an event and no row" for identifier in created - rows]
        # a title is that of the last request that changed the task, or of the one that made it
        known = self.asked.keys()
        found.contradictions += [
            f"nobody asked for {row['title']}" for row in titles if row["title"] not in known
        ]
        found.half += [
            f"project {row['id']} counts wrongly" for row in await database.fetch(MISCOUNTED)
        ]
        return found


UNEVEN = """
    SELECT t.id, t.version, count(e.id) AS events FROM tasks t
    LEFT JOIN audit_events e ON e.owner_id = t.owner_id AND e.entity_id = t.id
    GROUP BY t.owner_id, t.id HAVING t.version <> count(e.id)
"""
# A number that was given out came with a task.
MISCOUNTED = """
    SELECT p.id FROM projects p JOIN tasks t ON t.owner_id = p.owner_id AND t.project_id = p.id
    GROUP BY p.owner_id, p.id HAVING p.next_number <> count(*) + 1 OR max(t.number) <> count(*)
"""


class Writer:
    """Someone with an account who writes without a pause: `start`, then `finish`."""

    def __init__(self, url: str, ledger: Ledger, seed: int) -> None:
        self.url = url
        self.ledger = ledger
        self.token = ""
        self._project = ""
        self._random = random.Random(seed)
        self._stopping = False
        self._last: dict[str, Any] | None = None
        self._task: asyncio.Task[None] | None = None

    async def sign_up(self) -> None:
        """Get an account and a project."""
        name = f"n{uuid4().hex}"
        given = {"username": name, "email": f"{name}@example.org", "password": f"{name} {name}"}
        async with httpx.AsyncClient(timeout=30) as client:
            answer = await self._post(client, SIGN_UP, {"input": given})
            self.token = answer["data"]["signUp"]["token"]
            answer = await self._post(client, PROJECT, {})
            self._project = answer["data"]["createProject"]["project"]["id"]

    def start(self) -> None:
        self._stopping = False
        self._task = asyncio.create_task(self._run())

    async def finish(self) -> None:
        """Have the last request acknowledged, and stop."""
        self._stopping = True
        assert self._task is not None
        await self._task

    async def abandon(self) -> None:
        """Stop without an answer to the last request."""
        self._stopping = True
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        async with httpx.AsyncClient(timeout=30) as client:
            while not self._stopping:
                key = uuid4().hex
                if self._last is not None and self._random.random() < 0.5:
                    self.ledger.asked[key] = "updateTask"
                    given = {
                        "id": self._last["id"],
                        "expectedVersion": self._last["version"],
                        "title": key,
                    }
                    document = UPDATE
                else:
                    self.ledger.asked[key] = "createTasks"
                    task = {"projectId": self._project, "title": key}
                    given = {"tasks": [task] * TASKS}
                    document = CREATE
                variables = {"input": {**given, "idempotencyKey": key}}
                await self._until_acknowledged(client, key, document, variables)
                if self._random.random() < SENT_TWICE:
                    await self._until_acknowledged(client, key, document, variables)

    async def _until_acknowledged(
        self, client: httpx.AsyncClient, key: str, document: str, variables: dict[str, Any]
    ) -> None:
        while True:
            try:
                answer = await self._post(client, document, variables)
            except (httpx.HTTPError, ValueError):
                answer = {"errors": "none"}
            payload = (answer.get("data") or {}).get(self.ledger.asked[key])
            if "errors" not in answer and payload is not None:
                problems = payload["problems"]
                if not problems:
                    tasks = payload.get("tasks") or [payload["task"]]
                    self.ledger.acknowledge(key, tasks)
                    if tasks[-1]["title"] == key:
                        self._last = tasks[-1]
                    return
                if any(problem["code"] not in RETRIED for problem in problems):
                    self.ledger.contradictions.append(f"{key}: {problems}")
                    self._last = None
                    return
            self.ledger.failures += 1
            await asyncio.sleep(PAUSE_SECONDS)

    async def _post(
        self, client: httpx.AsyncClient, document: str, variables: dict[str, Any]
    ) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        body = {"query": document, "variables": variables}
        response = await client.post(f"{self.url}/graphql", json=body, headers=headers)
        answer: dict[str, Any] = response.json()
        return answer
