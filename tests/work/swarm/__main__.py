"""One process of workers: `python -m tests.work.swarm <job as JSON>`. It may die at any moment.

Each worker claims tasks, does them and hands them in, through whichever server answers. Before and
after each step it writes a line to the ledger, which outlives the process.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import sys
import time
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx

CLAIM = """
    mutation($input: ClaimTasksInput!) { answer: claimTasks(input: $input) {
      tasks { id claimEpoch dependencies(first: 100) { nodes { dependsOn { status } } } }
      problems { code message }
    } }
"""
WRITE = """
    mutation($input: %sInput!) { answer: %s(input: $input) {
      tasks { id } problems { code message path }
    } }
"""
SEEN = "query($id: ID!) { task(id: $id) { status claimEpoch } }"
LEFT = (
    "query($project: ID!) { tasks(filter: { projectId: { eq: $project }, status: { neq: DONE } })"
    " { totalCount } }"
)


@dataclass(frozen=True)
class Job:
    """What a process of workers is told."""

    urls: list[str]
    token: str
    project: str
    workers: list[str]
    lease_seconds: int
    work_seconds: float
    """How long a task takes at most; some take longer than a lease."""
    ledger: str
    seed: int
    late: bool = True
    """Whether the first worker loses its first claim, and hands it in all the same."""


class Ledger:
    """Lines that a killed process leaves behind: each is one write to the end of a file."""

    def __init__(self, file: str) -> None:
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, event: str, **facts: Any) -> None:
        line = {"event": event, "at": time.monotonic(), **facts}
        os.write(self._file, f"{json.dumps(line)}\n".encode())


class Api:
    """Any of several servers: what one does not answer is sent to the next, under the same key."""

    def __init__(self, client: httpx.AsyncClient, job: Job, ledger: Ledger) -> None:
        self._client = client
        self._urls = itertools.cycle(random.sample(job.urls, len(job.urls)))
        self._url = next(self._urls)
        self._ledger = ledger

    async def ask(self, document: str, **variables: Any) -> Any:
        while True:
            try:
                response = await self._client.post(
                    f"{self._url}/graphql", json={"query": document, "variables": variables}
                )
            except httpx.TransportError as error:
                self._ledger.note("unanswered", error=type(error).__name__)
                self._url = next(self._urls)
                await asyncio.sleep(0.05)
                continue
            answer = response.json()
            if "errors" in answer:
                self._ledger.note("error", errors=answer["errors"])
                sys.exit(f"refused: {answer['errors']}")
            return answer["data"]

    async def write(self, mutation: str, **input: Any) -> tuple[set[str], list[Any]]:
        """The ids of the tasks that were written, and the problems of the others."""
        name = f"{mutation[0].upper()}{mutation[1:]}"
        answer = await self.do(WRITE % (name, mutation), input)
        return {task["id"] for task in answer["tasks"]}, answer["problems"]

    async def do(self, document: str, input: dict[str, Any]) -> Any:
        """The payload of a mutation that was done, once."""
        input["idempotencyKey"] = str(uuid4())
        while True:
            answer = (await self.ask(document, input=input))["answer"]
            if all(problem["code"] != "RATE_LIMITED" for problem in answer["problems"]):
                return answer
            self._ledger.note("busy")
            await asyncio.sleep(0.05)


@dataclass
class Worker:
    """One of the workers."""

    api: Api
    job: Job
    ledger: Ledger
    id: str
    late: bool
    random: random.Random = field(default_factory=random.Random)

    async def run(self) -> None:
        while True:
            claims = await self._claim()
            if claims and self.late:
                self.late = False
                await self._hand_in_too_late(claims)
            elif claims:
                await self._do(claims)
            elif (await self.api.ask(LEFT, project=self.job.project))["tasks"]["totalCount"] == 0:
                return
            else:
                await asyncio.sleep(self.random.uniform(0.05, 0.3))

    async def _claim(self) -> list[dict[str, Any]]:
        wanted: dict[str, Any] = {
            "workerId": self.id,
            "projectId": self.job.project,
            "limit": self.random.randint(1, 4),
            "leaseSeconds": self.job.lease_seconds,
        }
        tasks = (await self.api.do(CLAIM, wanted))["tasks"]
        for task in tasks:
            waits = [one["dependsOn"]["status"] for one in task.pop("dependencies")["nodes"]]
            self.ledger.note("claimed", **task, waits=waits)
        return list(tasks)

    async def _do(self, claims: list[dict[str, Any]]) -> None:
        chance = self.random.random()
        seconds = self.random.uniform(0, self.job.work_seconds)
        if chance < 0.02:
            seconds += 1.5 * self.job.lease_seconds
        keeping = asyncio.create_task(self._keep(claims))
        await asyncio.sleep(seconds)
        keeping.cancel()
        if chance > 0.97:
            await self._end("releaseTasks", claims)
        elif chance > 0.94:
            await self._end("failTasks", [one | {"retryAfterSeconds": 0} for one in claims])
        else:
            await self._end("completeTasks", claims)

    async def _end(self, mutation: str, claims: list[dict[str, Any]]) -> None:
        for one in claims:
            self.ledger.note("sent", mutation=mutation, **one)
        done, _ = await self.api.write(mutation, tasks=claims)
        for one in claims:
            self.ledger.note("done" if one["id"] in done else "refused", mutation=mutation, **one)

    async def _keep(self, claims: list[dict[str, Any]]) -> None:
        while True:
            await asyncio.sleep(self.job.lease_seconds / 3)
            await self.api.write(
                "heartbeatTasks", tasks=claims, leaseSeconds=self.job.lease_seconds
            )

    async def _hand_in_too_late(self, claims: list[dict[str, Any]]) -> None:
        """Say nothing until others have the tasks, and then that they are done."""
        for one in claims:
            while True:
                seen = (await self.api.ask(SEEN, id=one["id"]))["task"]
                if seen["claimEpoch"] != one["claimEpoch"]:
                    break
                await asyncio.sleep(0.1)
        self.ledger.note("too late", tasks=[one["id"] for one in claims])
        await self._end("completeTasks", claims)


async def main() -> None:
    job = Job(**json.loads(sys.argv[1]))
    random.seed(job.seed)
    ledger = Ledger(job.ledger)
    headers = {"Authorization": f"Bearer {job.token}"}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    async with httpx.AsyncClient(headers=headers, timeout=30, limits=limits) as client:
        workers = [
            Worker(
                Api(client, job, ledger),
                job,
                ledger,
                id,
                late=job.late and n == 0,
                random=random.Random(job.seed * 1_000 + n),
            )
            for n, id in enumerate(job.workers)
        ]
        await asyncio.gather(*(worker.run() for worker in workers))
    ledger.note("ended")


if __name__ == "__main__":
    asyncio.run(main())
