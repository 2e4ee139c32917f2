"""Tasks, one at a time and many: created, changed, refused, done once."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from db.uuid7 import uuid7
from schema import ids
from tests.conftest import NewPerson
from tests.people import Person
from tests.work.asking import (
    TASK,
    done,
    human,
    kinds,
    mutate,
    new_project,
    new_task,
    new_tasks,
    new_worker,
    rules,
    task,
)

ONE = f"task {{ {TASK} }}"
MANY = f"tasks {{ {TASK} }}"
NUMBERS = "tasks { number title parentId project { id } }"


async def test_a_task_gets_a_number_its_defaults_and_its_creator(person: Person) -> None:
    project = await new_project(person)
    for number in (1, 2):
        made = await done(person, "createTask", ONE, projectId=project, title="Do it")
        assert made["task"] == {
            "id": made["task"]["id"],
            "number": number,
            "title": "Do it",
            "description": "",
            "status": "PENDING",
            "priority": 2,
            "tags": [],
            "dueAt": None,
            "runAfter": None,
            "parentId": None,
            "claimEpoch": 0,
            "leaseExpiresAt": None,
            "attempts": 0,
            "maxAttempts": 3,
            "result": None,
            "version": 1,
            "deletedAt": None,
        }
    shown = await task(
        person, made["task"]["id"], "createdBy { id } assignee { id } project { id version }"
    )
    assert shown == {
        "createdBy": {"id": human(person)},
        "assignee": None,
        "project": {"id": project, "version": 1},
    }


async def test_a_task_can_say_everything_at_once(person: Person) -> None:
    project, worker = await new_project(person), await new_worker(person)
    id = ids.encode("task", uuid7())
    parent = await new_task(person, project)
    values: dict[str, Any] = {
        "title": "é" * 500,
        "description": "how",
        "status": "BLOCKED",
        "priority": 4,
        "tags": ["a", "b"],
        "dueAt": "2030-01-01T00:00:00Z",
        "runAfter": "2029-01-01T00:00:00.5Z",
        "maxAttempts": 1,
        "parentId": parent,
    }
    made = await done(
        person,
        "createTask",
        "task { id title description status priority tags dueAt runAfter maxAttempts parentId"
        " assignee { id } createdBy { id } }",
        id=id,
        projectId=project,
        assigneeId=worker,
        createdById=worker,
        **values,
    )
    shown = made["task"]
    assert shown.pop("runAfter") == "2029-01-01T00:00:00.500000Z"
    assert shown == {key: value for key, value in values.items() if key != "runAfter"} | {
        "id": id,
        "assignee": {"id": worker},
        "createdBy": {"id": worker},
    }
    assert await task(person, id, "title") == {"title": values["title"]}


async def test_every_bad_field_of_a_task_is_named_at_once(
    person: Person, new_person: NewPerson
) -> None:
    stranger = await new_person()
    foreign = await new_project(stranger)
    refused = await mutate(
        person,
        "createTask",
        ONE,
        id=ids.encode("worker", uuid7()),
        projectId=foreign,
        parentId=await new_task(stranger, foreign),
        assigneeId=human(stranger),
        createdById="nonsense",
        title="",
        priority=5,
        maxAttempts=0,
        tags=["ok", "x" * 101],
        description="a\0b",
    )
    assert rules(refused) == {
        ("id", "id"),
        ("projectId", "reference"),
        ("parentId", "reference"),
        ("assigneeId", "reference"),
        ("createdById", "id"),
        ("title", "min_length"),
        ("priority", "le"),
        ("maxAttempts", "ge"),
        ("tags.1", "max_length"),
        ("description", "characters"),
    }
    assert refused["task"] is None
    missing = await mutate(
        person, "createTask", ONE, projectId=ids.encode("project", uuid7()), title="t"
    )
    hidden = await mutate(person, "createTask", ONE, projectId=foreign, title="t")
    assert missing == hidden


async def test_a_task_changes_and_says_which_version_it_is(person: Person) -> None:
    project = await new_project(person)
    id = await new_task(person, project, dueAt="2030-01-01T00:00:00Z")
    changed = await done(
        person, "updateTask", ONE, id=id, title="other", dueAt=None, expectedVersion=1
    )
    assert (changed["task"]["title"], changed["task"]["dueAt"]) == ("other", None)
    assert changed["task"]["version"] == 2
    same = await done(person, "updateTask", ONE, id=id)
    assert same["task"] == changed["task"]
    stale = await mutate(person, "updateTask", ONE, id=id, title="x", expectedVersion=1)
    [problem] = stale["problems"]
    assert (problem["__typename"], problem["currentVersion"]) == ("Conflict", 2)
    assert problem["current"]["title"] == "other"
    refused = await mutate(person, "updateTask", ONE, id=id, title=None, priority=-1, tags=None)
    assert rules(refused) == {("title", "not_null"), ("priority", "ge"), ("tags", "not_null")}


async def test_a_thousand_tasks_are_a_bounded_number_of_statements(person: Person) -> None:
    project = await new_project(person)

    async def create(count: int) -> int:
        tasks = [
            {"projectId": project, "title": f"t{n}", **({"parentIndex": (n - 1) // 3} if n else {})}
            for n in range(count)
        ]
        made = await done(
            person, "createTasks", NUMBERS, tasks=tasks, idempotencyKey=f"bulk {count}"
        )
        assert [task["title"] for task in made["tasks"]] == [f"t{n}" for n in range(count)]
        return len(person.statements)

    few = await create(4)
    assert await create(1_000) == few
    assert few <= 10
    data = await person.ask(
        "query($id: ID!) { project(id: $id) { version tasks(last: 1) { totalCount nodes {"
        " number title parent { title } } } } }",
        id=project,
    )
    assert data["project"] == {
        "version": 1,
        "tasks": {
            "totalCount": 1_004,
            "nodes": [{"number": 1_004, "title": "t999", "parent": {"title": "t332"}}],
        },
    }


async def test_tasks_of_several_projects_are_numbered_in_each(person: Person) -> None:
    one, two = await new_project(person, "ONE"), await new_project(person, "TWO")
    await new_task(person, two)
    made = await done(
        person,
        "createTasks",
        NUMBERS,
        tasks=[{"projectId": project, "title": "t"} for project in (one, two, one, two, two)],
    )
    assert [task["number"] for task in made["tasks"]] == [1, 2, 2, 3, 4]


async def test_each_bad_item_of_many_is_named_by_its_index(
    person: Person, new_person: NewPerson
) -> None:
    stranger = await new_person()
    foreign = await new_project(stranger)
    project, other = await new_project(person), await new_project(person, "TWO")
    elsewhere = await new_task(person, other)
    taken = await new_task(person, project)
    id = ids.encode("task", uuid7())
    tasks: list[dict[str, Any]] = [
        {"title": "fine", "id": id},
        {"title": "", "priority": 9},
        {"title": "t", "projectId": foreign},
        {"title": "t", "parentIndex": 3},
        {"title": "t", "parentIndex": -1},
        {"title": "t", "parentIndex": 0, "parentId": taken},
        {"title": "t", "parentId": elsewhere},
        {"title": "t", "projectId": other, "parentIndex": 0},
        {"title": "t", "id": id},
        {"title": "t", "id": taken},
        {"title": "t", "assigneeId": human(stranger)},
    ]
    refused = await mutate(
        person, "createTasks", MANY, tasks=[{"projectId": project} | task for task in tasks]
    )
    assert refused["tasks"] == []
    assert rules(refused) == {
        ("tasks.1.title", "min_length"),
        ("tasks.1.priority", "le"),
        ("tasks.2.projectId", "reference"),
        ("tasks.3.parentIndex", "earlier"),
        ("tasks.4.parentIndex", "earlier"),
        ("tasks.5.parentIndex", "one_parent"),
        ("tasks.6.parentId", "same_project"),
        ("tasks.7.parentIndex", "same_project"),
        ("tasks.8.id", "unique"),
        ("tasks.9.id", "unique"),
        ("tasks.10.assigneeId", "reference"),
    }
    data = await person.ask("{ tasks { totalCount } }")
    assert data["tasks"]["totalCount"] == 2
    assert (await task(person, await new_task(person, project), "number"))["number"] == 2
    many = [{"projectId": project, "title": "t"}] * 1_001
    assert rules(await mutate(person, "createTasks", "tasks { id }", tasks=many)) == {
        ("tasks", "max_items")
    }
    assert (await done(person, "createTasks", MANY, tasks=[]))["tasks"] == []


async def test_creating_many_is_done_once(person: Person) -> None:
    project = await new_project(person)
    tasks = [
        {"projectId": project, "title": f"t{n}", "dueAt": "2030-01-01T00:00:00Z"} for n in range(3)
    ]
    first = await done(person, "createTasks", MANY, tasks=tasks, idempotencyKey="k")
    assert len(first["tasks"]) == 3
    assert await done(person, "createTasks", MANY, tasks=tasks, idempotencyKey="k") == first
    other = await mutate(person, "createTasks", MANY, tasks=tasks[:2], idempotencyKey="k")
    assert kinds(other) == [("IdempotencyConflict", "idempotencyKey")]
    data = await person.ask("{ tasks { totalCount } }")
    assert data["tasks"]["totalCount"] == 3


async def test_a_deleted_project_takes_no_tasks(person: Person) -> None:
    project = await new_project(person)
    await done(person, "deleteProject", "project { id }", id=project)
    refused = await mutate(person, "createTask", ONE, projectId=project, title="t")
    assert rules(refused) == {("projectId", "reference")}


async def test_a_finished_task_can_be_opened_again(person: Person) -> None:
    project = await new_project(person)
    id = await new_task(person, project, maxAttempts=1)
    [claimed] = (await done(person, "claimTasks", MANY, workerId=human(person)))["tasks"]
    await done(person, "failTask", ONE, id=id, claimEpoch=claimed["claimEpoch"])
    assert (await task(person, id, "status attempts"))["status"] == "FAILED"
    opened = (await done(person, "updateTask", ONE, id=id, status="PENDING"))["task"]
    assert (opened["status"], opened["attempts"]) == ("PENDING", 0)
    data = await person.ask("{ readyTasks { nodes { id } } }")
    assert data["readyTasks"]["nodes"] == [{"id": id}]


@pytest.mark.parametrize("by_way_of", [[], ["BLOCKED"], ["IN_PROGRESS"]])
async def test_a_claimed_task_put_back_by_hand_has_its_attempts_again(
    person: Person, by_way_of: list[str]
) -> None:
    id = await new_task(person, await new_project(person), maxAttempts=1)
    await done(person, "claimTasks", MANY, workerId=human(person))
    for status in [*by_way_of, "PENDING"]:
        put = (await done(person, "updateTask", ONE, id=id, status=status))["task"]
    assert (put["status"], put["attempts"]) == ("PENDING", 0)
    [claimed] = (await done(person, "claimTasks", MANY, workerId=human(person)))["tasks"]
    assert claimed["id"] == id


async def test_a_pending_task_always_has_attempts_left(person: Person) -> None:
    first, second = await new_tasks(person, await new_project(person), {}, {})
    for task_ in (await done(person, "claimTasks", MANY, workerId=human(person), limit=2))["tasks"]:
        input = {"id": task_["id"], "claimEpoch": task_["claimEpoch"], "retryAfterSeconds": 0}
        await done(person, "failTask", ONE, **input)
    refused = await mutate(person, "updateTask", ONE, id=first, maxAttempts=1)
    assert rules(refused) == {("maxAttempts", "attempts")}
    assert refused["problems"][0]["bound"] == "1"
    tasks = [{"id": first, "maxAttempts": 2}, {"id": second, "maxAttempts": 1, "status": "FAILED"}]
    changed = (await done(person, "updateTasks", MANY, tasks=tasks))["tasks"]
    assert [one["status"] for one in changed] == ["PENDING", "FAILED"]
    both = {"id": second, "maxAttempts": 1, "status": "PENDING"}
    assert (await done(person, "updateTask", ONE, **both))["task"]["attempts"] == 0


async def test_a_released_task_whose_attempts_were_taken_away_has_failed(person: Person) -> None:
    id = await new_task(person, await new_project(person))
    for epoch in (1, 2):
        await done(person, "claimTasks", MANY, workerId=human(person))
        if epoch == 1:
            input = {"id": id, "claimEpoch": epoch, "retryAfterSeconds": 0}
            await done(person, "failTask", ONE, **input)
    await done(person, "updateTask", ONE, id=id, maxAttempts=1)
    released = (await done(person, "releaseTask", ONE, id=id, claimEpoch=2))["task"]
    assert (released["status"], released["attempts"]) == ("FAILED", 1)


async def test_changes_are_recorded_with_who_made_them(person: Person) -> None:
    project = await new_project(person)
    id = await new_task(person, project)
    await done(person, "updateTask", ONE, id=id, title="other")
    data = await person.ask(
        '{ auditEvents(filter: {entityType: {eq: "task"}}) { nodes {'
        " action entityId before after createdAt } } }"
    )
    updated, created = data["auditEvents"]["nodes"]
    assert (created["action"], updated["action"]) == ("create", "update")
    assert created["after"]["number"] == 1
    assert updated["entityId"] == id
    assert (updated["before"]["title"], updated["after"]["title"]) == ("a task", "other")
    assert datetime.fromisoformat(updated["createdAt"]) <= datetime.now(UTC)


async def test_tasks_created_at_once_have_numbers_of_their_own(person: Person) -> None:
    one, two = await new_project(person, "ONE"), await new_project(person, "TWO")
    both = [{"projectId": one, "title": "t"}, {"projectId": two, "title": "t"}]
    answers = await asyncio.gather(
        *(
            done(person, "createTasks", NUMBERS, tasks=both if n % 2 else both[::-1])
            for n in range(10)
        )
    )
    made = [(task["project"]["id"], task["number"]) for one in answers for task in one["tasks"]]
    assert sorted(made) == sorted((id, n) for id in (one, two) for n in range(1, 11))
