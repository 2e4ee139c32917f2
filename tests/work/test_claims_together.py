"""What workers write about many claimed tasks at once: each stands for itself."""

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from db.uuid7 import uuid7
from schema import ids
from tests.conftest import NewPerson
from tests.people import Person
from tests.work.asking import (
    TASK,
    claim,
    done,
    human,
    kinds,
    lapse,
    mutate,
    new_project,
    new_task,
    new_tasks,
    new_worker,
)

MANY = f"tasks {{ {TASK} claimedBy {{ id }} }}"
WRITES = ("heartbeatTasks", "completeTasks", "failTasks", "releaseTasks")


async def claimed(person: Person, many: int, **values: Any) -> list[dict[str, Any]]:
    """Claims of new tasks."""
    await new_tasks(person, await new_project(person), *[values] * many)
    tasks = await claim(person, human(person), limit=many)
    return [{"id": task["id"], "claimEpoch": task["claimEpoch"]} for task in tasks]


async def test_many_are_completed_with_a_result_each(person: Person) -> None:
    claims = await claimed(person, 40)
    some = [one | {"result": {"n": n}} for n, one in enumerate(claims[:19])]
    await done(person, "completeTasks", MANY, tasks=claims[19:21])
    few = len(person.statements)
    answer = await done(person, "completeTasks", MANY, tasks=[*some, *claims[21:]])
    assert len(person.statements) == few
    shown = answer["tasks"]
    assert [one["id"] for one in shown] == [one["id"] for one in [*some, *claims[21:]]]
    assert [one["result"] for one in shown] == [*({"n": n} for n in range(19)), *[None] * 19]
    assert {(one["status"], one["leaseExpiresAt"], one["version"]) for one in shown} == {
        ("DONE", None, 3)
    }


async def test_many_fail_with_a_reason_and_a_pause_each(person: Person) -> None:
    claims = await claimed(person, 4)
    said: list[dict[str, Any]] = [
        {"reason": "broken", "result": {"code": 1}, "retryAfterSeconds": 0},
        {"retryAfterSeconds": 3_600},
        {"reason": "no tools"},
        {},
    ]
    given = [one | more for one, more in zip(claims, said, strict=True)]
    shown = (await done(person, "failTasks", MANY, tasks=given))["tasks"]
    assert [one["result"] for one in shown] == [
        {"code": 1, "reason": "broken"},
        None,
        {"reason": "no tools"},
        None,
    ]
    assert {(one["status"], one["attempts"], one["claimedBy"]) for one in shown} == {
        ("PENDING", 1, None)
    }
    moments = sorted(one["runAfter"] for one in shown)
    assert [one["runAfter"] for one in shown] == [moments[n] for n in (0, 3, 1, 2)]
    assert [one["id"] for one in await claim(person, human(person), limit=10)] == [given[0]["id"]]


async def test_leases_are_renewed_and_claims_released_together(
    person: Person, admin_engine: AsyncEngine
) -> None:
    claims = await claimed(person, 3)
    await lapse(admin_engine, person)
    kept = await done(person, "heartbeatTasks", MANY, tasks=claims[:2], leaseSeconds=500)
    assert len({one["leaseExpiresAt"] for one in kept["tasks"]}) == 1
    other = await new_worker(person)
    assert [one["id"] for one in await claim(person, other, limit=9)] == [claims[2]["id"]]
    released = (await done(person, "releaseTasks", MANY, tasks=claims[:2]))["tasks"]
    assert {(one["status"], one["attempts"], one["leaseExpiresAt"]) for one in released} == {
        ("PENDING", 0, None)
    }


@pytest.mark.parametrize("mutation", WRITES)
async def test_what_was_lost_is_named_and_the_rest_is_done(
    person: Person, new_person: NewPerson, admin_engine: AsyncEngine, mutation: str
) -> None:
    stranger = await new_person()
    foreign = await new_task(stranger, await new_project(stranger))
    claims = await claimed(person, 4)
    await lapse(admin_engine, person)
    await done(person, "heartbeatTasks", MANY, tasks=[claims[0], *claims[2:]])
    other = await new_worker(person)
    assert [one["id"] for one in await claim(person, other, limit=9)] == [claims[1]["id"]]
    await done(person, "updateTask", "task { id }", id=claims[2]["id"], status="CANCELLED")
    given = [
        claims[0],
        claims[1],
        claims[2],
        {"id": foreign, "claimEpoch": 0},
        {"id": ids.encode("task", uuid7()), "claimEpoch": 0},
        {"id": "nonsense", "claimEpoch": 0},
        claims[0],
        claims[3],
    ]
    answer = await mutate(person, mutation, MANY, tasks=given)
    assert [one["id"] for one in answer["tasks"]] == [claims[0]["id"], claims[3]["id"]]
    assert kinds(answer) == [
        ("Conflict", "tasks.1.claimEpoch"),
        ("Conflict", "tasks.2.claimEpoch"),
        ("NotFound", "tasks.3.id"),
        ("NotFound", "tasks.4.id"),
        ("ValidationProblem", "tasks.5.id"),
        ("ValidationProblem", "tasks.6.id"),
    ]
    assert [one["message"] for one in answer["problems"][:2]] == [
        "This task is claimed under epoch 2, not 1.",
        "This task is not claimed any more: it is cancelled.",
    ]
    assert answer["problems"][0]["current"]["claimEpoch"] == 2


@pytest.mark.parametrize("mutation", WRITES)
async def test_many_are_written_once(person: Person, mutation: str) -> None:
    claims = await claimed(person, 3)
    given: dict[str, Any] = {"tasks": claims, "idempotencyKey": mutation}
    first = await done(person, mutation, MANY, **given)
    assert len(first["tasks"]) == 3
    assert await done(person, mutation, MANY, **given) == first


@pytest.mark.parametrize("mutation", WRITES)
async def test_lists_have_bounds(person: Person, mutation: str) -> None:
    assert (await done(person, mutation, MANY, tasks=[]))["tasks"] == []
    some = {"id": ids.encode("task", uuid7()), "claimEpoch": 1}
    refused = await mutate(person, mutation, MANY, tasks=[some] * 101)
    assert [(one["rule"], one["bound"]) for one in refused["problems"]] == [("max_items", "100")]


async def test_failing_for_the_last_time_and_releasing_too_late_leave_a_reason(
    person: Person,
) -> None:
    claims = await claimed(person, 2, maxAttempts=1)
    given = [claims[0], claims[1] | {"result": {"log": "x"}}]
    shown = (await done(person, "failTasks", MANY, tasks=given))["tasks"]
    assert [(one["status"], one["result"]) for one in shown] == [
        ("FAILED", {"reason": "Attempt 1 of 1 failed."}),
        ("FAILED", {"log": "x"}),
    ]
    id = await new_task(person, await new_project(person, "TWO"), maxAttempts=2)
    for epoch in (1, 2):
        await claim(person, human(person))
        if epoch == 1:
            await done(person, "failTask", "task { id }", id=id, claimEpoch=1, retryAfterSeconds=0)
    await done(person, "updateTask", "task { id }", id=id, maxAttempts=1)
    spent = await done(person, "releaseTask", f"task {{ {TASK} }}", id=id, claimEpoch=2)
    assert (spent["task"]["status"], spent["task"]["attempts"]) == ("FAILED", 1)
    assert spent["task"]["result"] == {"reason": "It was released, and no attempts are left."}


async def test_a_batch_that_holds_a_bad_result_completes_the_others(person: Person) -> None:
    claims = await claimed(person, 2)
    given = [claims[0] | {"result": [1]}, claims[1] | {"result": {"fine": True}}]
    answer = await mutate(person, "completeTasks", MANY, tasks=given)
    assert kinds(answer) == [("ValidationProblem", "tasks.0.result")]
    assert [one["result"] for one in answer["tasks"]] == [{"fine": True}]
