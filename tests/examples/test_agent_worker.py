"""`examples/agent_worker.py`: tasks are done, failures are told, and Ctrl-C gives back."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.examples.running import Account, Example

PROJECT = (
    'mutation { createProject(input: { key: "ENG", name: "Engine" })'
    " { project { id } problems { message } } }"
)
TASKS = (
    "mutation($input: CreateTasksInput!)"
    " { createTasks(input: $input) { tasks { id } problems { message } } }"
)
SHOWN = (
    "{ tasks(orderBy: { field: NUMBER }) { nodes"
    " { number status attempts result claimedBy { name } } } }"
)


async def with_tasks(account: Account, *descriptions: str, **values: Any) -> None:
    project = (await account.ask(PROJECT))["createProject"]["project"]["id"]
    tasks = [
        {"projectId": project, "title": f"Text {n}", "description": text, **values}
        for n, text in enumerate(descriptions)
    ]
    await account.ask(TASKS, input={"tasks": tasks})


async def shown(account: Account) -> list[dict[str, Any]]:
    tasks: list[dict[str, Any]] = (await account.ask(SHOWN))["tasks"]["nodes"]
    return tasks


async def test_an_agent_does_what_there_is_to_do(account: Account, tmp_path: Path) -> None:
    await with_tasks(account, "one two three", "", "four", maxAttempts=1)
    async with Example(
        "agent_worker.py", account, "--name", "Ann", "--until-idle", data=tmp_path
    ) as agent:
        assert await agent.ends() == 0, agent.lines
    by_ann = {"attempts": 1, "claimedBy": {"name": "Ann"}}
    nothing = {"reason": "There is nothing to count."}
    assert await shown(account) == [
        {"number": 1, "status": "DONE", "result": {"words": 3}, **by_ann},
        {"number": 2, "status": "FAILED", "result": nothing, **by_ann},
        {"number": 3, "status": "DONE", "result": {"words": 1}, **by_ann},
    ]
    assert "failed #2 Text 1: There is nothing to count." in agent.lines


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
async def test_an_agent_that_is_stopped_gives_back_what_it_has(
    account: Account, tmp_path: Path, name: signal.Signals
) -> None:
    await with_tasks(account, "one", "two", "three")
    slow = ("--seconds", "3600", "--batch", "2")
    async with Example("agent_worker.py", account, *slow, data=tmp_path) as agent:
        await agent.says("claimed #1")
        await agent.says("claimed #2")
        assert [task["status"] for task in await shown(account)] == [
            "IN_PROGRESS",
            "IN_PROGRESS",
            "PENDING",
        ]
        agent.signal(name)
        assert await agent.ends() == 0, agent.lines
    assert {"released #1 Text 0", "released #2 Text 1"} <= set(agent.lines)
    for task in await shown(account):
        assert (task["status"], task["attempts"], task["claimedBy"]) == ("PENDING", 0, None)
    # and the same worker, found by its name, goes on later
    async with Example("agent_worker.py", account, "--until-idle", data=tmp_path) as agent:
        assert await agent.ends() == 0, agent.lines
    assert [task["status"] for task in await shown(account)] == ["DONE"] * 3


async def test_an_agent_keeps_its_claims_and_drops_what_is_taken_away(
    account: Account, tmp_path: Path
) -> None:
    await with_tasks(account, "one")
    slow = ("--seconds", "3600", "--lease", "1")
    async with Example("agent_worker.py", account, *slow, data=tmp_path) as agent:
        await agent.says("claimed #1")
        beats = "{ tasks { nodes { id leaseExpiresAt status attempts } } }"
        leases: set[str] = set()
        async with asyncio.timeout(30):
            while len(leases) < 5:  # four renewals of a lease of a second, three in each
                [task] = (await account.ask(beats))["tasks"]["nodes"]
                assert (task["status"], task["attempts"]) == ("IN_PROGRESS", 1)
                leases.add(task["leaseExpiresAt"])
        await account.ask(
            "mutation($id: ID!) { updateTask(input: { id: $id, status: CANCELLED })"
            " { problems { message } } }",
            id=task["id"],
        )
        await agent.says("lost #1")
        agent.signal(signal.SIGINT)
        assert await agent.ends() == 0, agent.lines
    assert [one["status"] for one in await shown(account)] == ["CANCELLED"]
