"""Claims: each task to one worker at a time, fenced, tried again, given up."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from db.repositories.work_claims import claim_tasks
from schema import ids
from tests.conftest import NewPerson, OpenSession
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
    rules,
    task,
)

ONE = f"task {{ {TASK} claimedBy {{ id }} }}"
MANY = f"tasks {{ {TASK} claimedBy {{ id }} }}"


def seconds_from_now(moment: str) -> float:
    return (datetime.fromisoformat(moment) - datetime.now(UTC)) / timedelta(seconds=1)


async def test_a_claim_is_completed_once(person: Person) -> None:
    project, worker = await new_project(person), await new_worker(person)
    id = await new_task(person, project)
    [claimed] = await claim(person, worker, leaseSeconds=100)
    assert (claimed["id"], claimed["status"], claimed["claimedBy"]) == (
        id,
        "IN_PROGRESS",
        {"id": worker},
    )
    assert (claimed["claimEpoch"], claimed["attempts"], claimed["version"]) == (1, 1, 2)
    assert 90 < seconds_from_now(claimed["leaseExpiresAt"]) <= 100
    assert await claim(person, worker, limit=100) == []
    kept = await done(person, "heartbeatTask", ONE, id=id, claimEpoch=1, leaseSeconds=1_000)
    assert 990 < seconds_from_now(kept["task"]["leaseExpiresAt"]) <= 1_000
    assert kept["task"]["version"] == 2
    finished = await done(person, "completeTask", ONE, id=id, claimEpoch=1, result={"a": [1]})
    assert finished["task"] == claimed | {
        "status": "DONE",
        "leaseExpiresAt": None,
        "result": {"a": [1]},
        "version": 3,
    }
    for mutation in ("completeTask", "heartbeatTask", "failTask", "releaseTask"):
        refused = await mutate(person, mutation, ONE, id=id, claimEpoch=1)
        [problem] = refused["problems"]
        assert (problem["__typename"], problem["path"]) == ("Conflict", ["input", "claimEpoch"])
        assert problem["current"]["status"] == "DONE"
        assert problem["message"] == "This task is not claimed any more: it is done."
    assert await claim(person, worker) == []
    data = await person.ask(
        "query($id: ID!) { worker(id: $id) { lastHeartbeatAt claimedTasks { totalCount } } }",
        id=worker,
    )
    assert seconds_from_now(data["worker"]["lastHeartbeatAt"]) > -60
    assert data["worker"]["claimedTasks"]["totalCount"] == 1


async def test_eight_workers_at_once_get_each_task_once(person: Person) -> None:
    project = await new_project(person)
    made = await new_tasks(person, project, *[{}] * 100)
    workers = [await new_worker(person, f"w{n}") for n in range(8)]
    got: Counter[str] = Counter()

    async def work(worker: str) -> None:
        while tasks := await claim(person, worker, limit=7, projectId=project):
            for one in tasks:
                got[one["id"]] += 1
                assert one["claimedBy"] == {"id": worker}
            await asyncio.gather(
                *(
                    done(person, "completeTask", "task { id }", id=one["id"], claimEpoch=1)
                    for one in tasks[:2]
                )
            )

    await asyncio.gather(*(work(worker) for worker in workers))
    assert got == Counter(made)


async def test_who_claims_waits_for_nobody_else_who_does(
    person: Person, open_session: OpenSession
) -> None:
    project = await new_project(person)
    first, second = await new_tasks(person, project, {}, {})
    slow = open_session(person.owner_id)
    async with slow.transaction():
        held = await claim_tasks(
            slow, person.worker_id, project_id=None, limit=1,
            lease=timedelta(seconds=60), capabilities=None,
        )  # fmt: skip
        assert [ids.encode("task", one.id) for one in held] == [first]
        # Under way, and so neither given twice nor waited for, which would end as a problem.
        [other] = await claim(person, await new_worker(person), limit=2)
    assert other["id"] == second


async def test_a_stale_epoch_is_refused_with_the_task_as_it_is(
    person: Person, admin_engine: AsyncEngine
) -> None:
    project = await new_project(person)
    first, second = await new_worker(person, "first"), await new_worker(person, "second")
    id = await new_task(person, project)
    await claim(person, first)
    await lapse(admin_engine, person)
    data = await person.ask("{ readyTasks { nodes { id status } } }")
    assert data["readyTasks"]["nodes"] == [{"id": id, "status": "IN_PROGRESS"}]
    [again] = await claim(person, second)
    assert (again["id"], again["claimEpoch"], again["attempts"]) == (id, 2, 2)
    for mutation in ("completeTask", "heartbeatTask", "failTask", "releaseTask"):
        for epoch in (1, 3, -1):
            refused = await mutate(person, mutation, ONE, id=id, claimEpoch=epoch)
            [problem] = refused["problems"]
            assert (problem["__typename"], problem["path"]) == (
                "Conflict",
                ["input", "claimEpoch"],
            )
            assert problem["message"] == f"This task is claimed under epoch 2, not {epoch}."
            assert problem["current"] == {
                "id": id,
                "status": "IN_PROGRESS",
                "claimEpoch": 2,
                "title": "a task",
            }
            assert refused["task"] is None
    await done(person, "completeTask", ONE, id=id, claimEpoch=2)


async def test_a_claim_that_has_run_out_still_counts_until_the_next_one(
    person: Person, admin_engine: AsyncEngine
) -> None:
    await new_task(person, await new_project(person))
    [claimed] = await claim(person, human(person))
    await lapse(admin_engine, person)
    kept = await done(person, "heartbeatTask", ONE, id=claimed["id"], claimEpoch=1)
    assert seconds_from_now(kept["task"]["leaseExpiresAt"]) > 0
    assert await claim(person, human(person)) == []


async def test_a_worker_that_fell_silent_is_an_attempt_that_failed(
    person: Person, admin_engine: AsyncEngine
) -> None:
    """So a task on which workers die is not tried again and again without a pause."""
    id = await new_task(person, await new_project(person), maxAttempts=3)
    worker = await new_worker(person)
    ready = "{ readyTasks { nodes { id } } }"
    for attempt, pause in ((1, 10), (2, 20)):
        [claimed] = await claim(person, worker)
        assert claimed["attempts"] == attempt
        await lapse(admin_engine, person, pause - 5)
        assert await claim(person, worker) == []
        assert (await person.ask(ready))["readyTasks"]["nodes"] == []
        await lapse(admin_engine, person, pause + 1)
        assert (await person.ask(ready))["readyTasks"]["nodes"] == [{"id": id}]
    await claim(person, worker)
    await lapse(admin_engine, person, 1)
    assert await claim(person, worker) == []
    assert (await task(person, id))["status"] == "FAILED"


async def test_a_failed_task_waits_longer_each_time_and_is_given_up(
    person: Person, admin_engine: AsyncEngine
) -> None:
    id = await new_task(person, await new_project(person), maxAttempts=3)
    worker = await new_worker(person)
    for attempt, pause in ((1, 10), (2, 20)):
        [claimed] = await claim(person, worker)
        failed = await done(
            person,
            "failTask",
            ONE,
            id=id,
            claimEpoch=claimed["claimEpoch"],
            reason=f"no {attempt}",
            result={"code": attempt},
        )
        shown = failed["task"]
        assert (shown["status"], shown["attempts"], shown["claimedBy"]) == (
            "PENDING",
            attempt,
            None,
        )
        assert shown["result"] == {"code": attempt, "reason": f"no {attempt}"}
        assert pause - 5 < seconds_from_now(shown["runAfter"]) <= pause
        assert await claim(person, worker) == []
        assert (await person.ask("{ readyTasks { totalCount } }"))["readyTasks"]["totalCount"] == 0
        await done(person, "updateTask", ONE, id=id, runAfter="2020-01-01T00:00:00Z")
    [claimed] = await claim(person, worker)
    assert claimed["attempts"] == 3
    given_up = (await done(person, "failTask", ONE, id=id, claimEpoch=3))["task"]
    assert (given_up["status"], given_up["claimedBy"]) == ("FAILED", {"id": worker})
    assert given_up["runAfter"] == "2020-01-01T00:00:00Z"
    assert given_up["result"] == {"reason": "Attempt 3 of 3 failed."}
    assert await claim(person, worker) == []


async def test_a_worker_may_say_when_to_try_again(person: Person) -> None:
    id = await new_task(person, await new_project(person))
    for epoch, pause in ((1, 0), (2, 3_600)):
        await claim(person, human(person))
        failed = await done(
            person, "failTask", ONE, id=id, claimEpoch=epoch, retryAfterSeconds=pause
        )
        assert pause - 5 < seconds_from_now(failed["task"]["runAfter"]) <= pause
    assert await claim(person, human(person)) == []


async def test_the_last_attempt_that_ends_without_a_word_fails_the_task(
    person: Person, admin_engine: AsyncEngine
) -> None:
    project = await new_project(person)
    id = await new_task(person, project, maxAttempts=1)
    await claim(person, human(person))
    await lapse(admin_engine, person)
    assert await claim(person, human(person)) == []
    shown = await task(person, id)
    assert (shown["status"], shown["leaseExpiresAt"]) == ("FAILED", None)
    assert shown["result"] == {"reason": "The lease of the last attempt ran out."}
    assert kinds(await mutate(person, "completeTask", ONE, id=id, claimEpoch=1)) == [
        ("Conflict", "claimEpoch")
    ]


async def test_a_released_task_can_be_claimed_at_once_and_lost_no_attempt(person: Person) -> None:
    id = await new_task(person, await new_project(person), maxAttempts=1)
    for epoch in (1, 2):
        [claimed] = await claim(person, human(person))
        assert (claimed["claimEpoch"], claimed["attempts"]) == (epoch, 1)
        released = (await done(person, "releaseTask", ONE, id=id, claimEpoch=epoch))["task"]
        assert (released["status"], released["attempts"]) == ("PENDING", 0)
        assert (released["claimedBy"], released["leaseExpiresAt"]) == (None, None)


async def test_a_task_taken_away_is_lost_to_its_worker(person: Person) -> None:
    id = await new_task(person, await new_project(person))
    await claim(person, human(person))
    taken = (await done(person, "updateTask", ONE, id=id, status="BLOCKED"))["task"]
    assert (taken["claimEpoch"], taken["claimedBy"], taken["leaseExpiresAt"]) == (2, None, None)
    refused = await mutate(person, "completeTask", ONE, id=id, claimEpoch=1)
    assert kinds(refused) == [("Conflict", "claimEpoch")]
    # A person who takes it up by hand has no lease; no worker gets it.
    taken = (await done(person, "updateTask", ONE, id=id, status="IN_PROGRESS"))["task"]
    assert (taken["claimEpoch"], taken["leaseExpiresAt"]) == (2, None)
    assert await claim(person, human(person)) == []
    assert kinds(await mutate(person, "completeTask", ONE, id=id, claimEpoch=2)) == [
        ("Conflict", "claimEpoch")
    ]
    # Changes that leave the status alone leave the claim alone.
    await done(person, "updateTask", ONE, id=id, status="PENDING")
    await claim(person, human(person))
    await done(person, "updateTask", ONE, id=id, title="other", status="IN_PROGRESS")
    await done(person, "completeTask", ONE, id=id, claimEpoch=3)


async def test_claiming_is_done_once(person: Person) -> None:
    await new_tasks(person, await new_project(person), {}, {}, {})
    input = {"limit": 2, "idempotencyKey": "k"}
    first = await claim(person, human(person), **input)
    assert len(first) == 2
    answers = await asyncio.gather(*(claim(person, human(person), **input) for _ in range(5)))
    assert all(answer == first for answer in answers)
    assert len(await claim(person, human(person), limit=10)) == 1


async def test_everything_wrong_with_a_claim_is_named(
    person: Person, new_person: NewPerson
) -> None:
    stranger = await new_person()
    project = await new_project(stranger)
    id = await new_task(stranger, project)
    refused = await mutate(
        person,
        "claimTasks",
        MANY,
        workerId="x",
        projectId="y",
        limit=101,
        leaseSeconds=0,
        capabilities=["", "x" * 101],
    )
    assert rules(refused) == {
        ("workerId", "id"),
        ("projectId", "id"),
        ("limit", "le"),
        ("leaseSeconds", "ge"),
        ("capabilities.0", "min_length"),
        ("capabilities.1", "max_length"),
    }
    refused = await mutate(person, "claimTasks", MANY, workerId=human(stranger), projectId=project)
    assert rules(refused) == {("workerId", "reference"), ("projectId", "reference")}
    for mutation in ("completeTask", "heartbeatTask", "failTask", "releaseTask"):
        assert kinds(await mutate(person, mutation, ONE, id=id, claimEpoch=0)) == [
            ("NotFound", "id")
        ]
    assert (await task(stranger, id, "status version")) == {"status": "PENDING", "version": 1}
    refused = await mutate(
        person,
        "failTask",
        ONE,
        id="x",
        claimEpoch=1,
        reason="a\0",
        retryAfterSeconds=-1,
    )
    assert rules(refused) == {
        ("id", "id"),
        ("reason", "characters"),
        ("retryAfterSeconds", "ge"),
    }
    for result, rule in (([1], "type"), ({"a": "x" * 262_144}, "value")):
        refused = await mutate(person, "completeTask", ONE, id=id, claimEpoch=1, result=result)
        assert rules(refused) == {("result", rule)}


async def test_claims_are_recorded_and_heartbeats_are_not(person: Person) -> None:
    id = await new_task(person, await new_project(person))
    await claim(person, human(person))
    await done(person, "heartbeatTask", ONE, id=id, claimEpoch=1)
    await done(person, "releaseTask", ONE, id=id, claimEpoch=1)
    await claim(person, human(person))
    await done(person, "failTask", ONE, id=id, claimEpoch=2, retryAfterSeconds=0)
    await claim(person, human(person))
    await done(person, "completeTask", ONE, id=id, claimEpoch=3)
    data = await person.ask(
        '{ auditEvents(filter: {entityType: {eq: "task"}}) { nodes { action after } } }'
    )
    events = data["auditEvents"]["nodes"]
    assert [event["action"] for event in reversed(events)] == [
        "create",
        "claim",
        "release",
        "claim",
        "fail",
        "claim",
        "complete",
    ]
    assert events[1]["after"]["claimed_by_id"] == str(person.worker_id)
