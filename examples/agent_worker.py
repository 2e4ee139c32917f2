"""An agent that does tasks: it claims them, keeps its claims alive, and hands in what came out.

    ENGRAM_TOKEN=eg_… python examples/agent_worker.py --name Counter --capability count

What it does with a task is simple (it counts the words of the description); what is around it is
what every agent needs:

- A claim lasts for a lease. While it works, the agent renews the lease; when it dies, the lease
  runs out and another agent gets the task.
- Each write names the epoch of its claim. When the claim was lost meanwhile, the server refuses
  the write, and the agent drops the work.
- What must not happen twice has an idempotency key. When its answer is lost, it is sent again
  under the same key, and is done once. (A heartbeat needs none: twice is as good as once.)
- On Ctrl-C (or SIGTERM) the agent gives back what it has not finished. A second one ends it at
  once.

It needs Python 3.11 and httpx.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from typing import Any
from uuid import uuid4

import httpx

URL = os.environ.get("ENGRAM_URL", "http://127.0.0.1:8000/graphql")
LONGEST_PAUSE_SECONDS = 5.0
"""Between two tries to reach the server, and between two looks for work."""
FAREWELL_SECONDS = 10.0
"""How long giving back may take at the end; what is left then comes free with its lease."""

FIND_WORKER = """
    query($name: String!) {
      workers(filter: { name: { eq: $name }, kind: { eq: AGENT } }, first: 1) { nodes { id } }
    }
"""
CREATE_WORKER = """
    mutation($input: CreateWorkerInput!) {
      answer: createWorker(input: $input) { worker { id } problems { code message } }
    }
"""
CLAIM = """
    mutation($input: ClaimTasksInput!) {
      answer: claimTasks(input: $input) {
        tasks { id number title description claimEpoch attempts maxAttempts }
        problems { code message }
      }
    }
"""
HEARTBEAT = """
    mutation($input: HeartbeatTaskInput!) {
      answer: heartbeatTask(input: $input) { problems { code message } }
    }
"""
COMPLETE = """
    mutation($input: CompleteTaskInput!) {
      answer: completeTask(input: $input) { task { id } problems { code message } }
    }
"""
FAIL = """
    mutation($input: FailTaskInput!) {
      answer: failTask(input: $input) { task { status runAfter } problems { code message } }
    }
"""
RELEASE = """
    mutation($input: ReleaseTaskInput!) {
      answer: releaseTask(input: $input) { task { id } problems { code message } }
    }
"""


class Refused(Exception):
    """The server understood, and said no: the first of the problems it gave."""

    def __init__(self, problem: dict[str, str]) -> None:
        super().__init__(problem["message"])
        self.code = problem["code"]


class Api:
    """Engram, asked over HTTP. What got no answer is sent again until it gets one."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def ask(self, document: str, **variables: Any) -> dict[str, Any]:
        """The data of an answer. Raises SystemExit for a document or a token that is refused."""
        pause = 0.1
        while True:
            try:
                response = await self._client.post(
                    URL, json={"query": document, "variables": variables}
                )
                if response.status_code not in (429, 502, 503, 504):
                    break
                reason = f"it answered {response.status_code}"
            except httpx.TransportError as error:
                reason = str(error) or type(error).__name__
            say(f"cannot reach the server ({reason}), trying again")
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        answer = response.json()
        if "errors" in answer:
            raise SystemExit(f"Engram refused: {answer['errors'][0]['message']}")
        data: dict[str, Any] = answer["data"]
        return data

    async def once(self, document: str, **input: Any) -> dict[str, Any]:
        """`write`, done once however often it is sent."""
        return await self.write(document, **input, idempotencyKey=str(uuid4()))

    async def write(self, document: str, **input: Any) -> dict[str, Any]:
        """The payload of a mutation. Raises Refused."""
        answer: dict[str, Any] = (await self.ask(document, input=input))["answer"]
        if answer["problems"]:
            raise Refused(answer["problems"][0])
        return answer


class Agent:
    """A worker that does several tasks at a time."""

    def __init__(self, api: Api, worker: str, options: argparse.Namespace) -> None:
        self._api = api
        self._worker = worker
        self._options = options
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Give back what is under way and end; asked again, end at once."""
        if self._stop.is_set():
            sys.exit(130)
        say("stopping")
        self._stop.set()

    async def run(self) -> None:
        """Claim and do tasks until told to stop, or until there are none with `--until-idle`."""
        stopping = asyncio.create_task(self._stop.wait())
        running: set[asyncio.Task[None]] = set()
        pause = 0.1
        while not stopping.done():
            claimed = await self._claim(self._options.batch - len(running))
            running |= {asyncio.create_task(self._attempt(task, stopping)) for task in claimed}
            if not running and self._options.until_idle:
                break
            # more claims when there is room again; when there is nothing to do, a look now and then
            pause = 0.1 if claimed else min(2 * pause, LONGEST_PAUSE_SECONDS)
            waiting = {stopping, *running}
            await asyncio.wait(
                waiting,
                timeout=None if len(running) == self._options.batch else pause,
                return_when=asyncio.FIRST_COMPLETED,
            )
            running = {task for task in running if not task.done()}
        if running:
            await asyncio.wait(running, timeout=FAREWELL_SECONDS)
        stopping.cancel()

    async def _claim(self, limit: int) -> list[dict[str, Any]]:
        if not limit:
            return []
        wanted: dict[str, Any] = {"workerId": self._worker, "leaseSeconds": self._options.lease}
        if self._options.project:
            wanted["projectId"] = self._options.project
        tasks: list[dict[str, Any]] = (await self._api.once(CLAIM, limit=limit, **wanted))["tasks"]
        return tasks

    async def _attempt(self, task: dict[str, Any], stopping: asyncio.Task[bool]) -> None:
        """Do a task. It ends in one of three ways: done, the claim is lost, or told to stop."""
        name = f"#{task['number']} {task['title']}"
        claim = {"id": task["id"], "claimEpoch": task["claimEpoch"]}
        say(f"claimed {name}, attempt {task['attempts']} of {task['maxAttempts']}")
        work = asyncio.create_task(count_words(task, self._options.seconds))
        keeping = asyncio.create_task(self._keep(claim))
        await asyncio.wait({work, keeping, stopping}, return_when=asyncio.FIRST_COMPLETED)
        keeping.cancel()
        try:
            if not work.done():
                work.cancel()
                if stopping.done():
                    await self._api.once(RELEASE, **claim)
                    say(f"released {name}")
                else:
                    say(f"lost {name}")
            elif (error := work.exception()) is None:
                await self._api.once(COMPLETE, **claim, result=work.result())
                say(f"completed {name}")
            else:
                await self._api.once(FAIL, **claim, reason=str(error))
                say(f"failed {name}: {error}")
        except Refused as refused:
            say(f"lost {name}: {refused}")

    async def _keep(self, claim: dict[str, Any]) -> None:
        """Renew a lease three times before it would run out; returns when the claim is lost."""
        while True:
            await asyncio.sleep(self._options.lease / 3)
            try:
                await self._api.write(HEARTBEAT, **claim, leaseSeconds=self._options.lease)
            except Refused:
                return


async def count_words(task: dict[str, Any], seconds: float) -> dict[str, int]:
    """The work itself. Put yours here; what it raises is the reason why the task failed."""
    await asyncio.sleep(seconds)
    if not task["description"]:
        raise ValueError("There is nothing to count.")
    return {"words": len(task["description"].split())}


async def worker_named(api: Api, name: str, capabilities: list[str]) -> str:
    """The id of the agent with a name; it is created when it is not there."""
    found = (await api.ask(FIND_WORKER, name=name))["workers"]["nodes"]
    if found:
        return str(found[0]["id"])
    made = await api.once(CREATE_WORKER, name=name, capabilities=capabilities)
    return str(made["worker"]["id"])


def say(text: str) -> None:
    print(text, flush=True)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="An agent that counts words, task by task.")
    parser.add_argument("--name", default="Counter", help="The name of the worker.")
    parser.add_argument(
        "--capability", action="append", default=[], help="A tag of tasks it can do; may repeat."
    )
    parser.add_argument("--project", help="The id of a project; else tasks of all.")
    parser.add_argument("--batch", type=int, default=4, help="Tasks at a time.")
    parser.add_argument("--lease", type=int, default=30, help="Seconds that a claim lasts.")
    parser.add_argument("--seconds", type=float, default=0, help="How long a task takes.")
    parser.add_argument("--until-idle", action="store_true", help="End when there is nothing.")
    return parser.parse_args()


async def main() -> None:
    given = options()
    token = os.environ.get("ENGRAM_TOKEN") or sys.exit("Set ENGRAM_TOKEN.")
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(headers=headers, timeout=30) as client:
        api = Api(client)
        agent = Agent(api, await worker_named(api, given.name, given.capability), given)
        for name in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(name, agent.stop)
        say(f"{given.name} is waiting for tasks")
        await agent.run()


if __name__ == "__main__":
    asyncio.run(main())
