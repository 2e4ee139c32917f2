"""Tasks that wait for others: no circles, also not from two sides at once."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from tests.conftest import NewPerson
from tests.people import Person
from tests.work.asking import (
    done,
    human,
    kinds,
    mutate,
    new_project,
    new_task,
    new_tasks,
    rules,
    task,
)

DEPENDENCY = "dependency { id task { id } dependsOn { id } }"
READY = "{ readyTasks { nodes { id } } }"


async def ready(person: Person) -> list[str]:
    return [one["id"] for one in (await person.ask(READY))["readyTasks"]["nodes"]]


async def wait(person: Person, task: str, other: str) -> None:
    await done(person, "addTaskDependency", DEPENDENCY, taskId=task, dependsOnId=other)


async def test_a_task_waits_until_the_other_is_done(person: Person) -> None:
    a, b, c = await new_tasks(person, await new_project(person), {}, {}, {})
    added = await done(person, "addTaskDependency", DEPENDENCY, taskId=a, dependsOnId=b)
    assert added["dependency"] == {
        "id": added["dependency"]["id"],
        "task": {"id": a},
        "dependsOn": {"id": b},
    }
    assert await ready(person) == [b, c]
    shown = await task(
        person,
        a,
        "dependencies { nodes { dependsOn { id } } } dependents { nodes { task { id } } }",
    )
    assert shown == {
        "dependencies": {"nodes": [{"dependsOn": {"id": b}}]},
        "dependents": {"nodes": []},
    }
    await done(person, "updateTask", "task { id }", id=b, status="CANCELLED")
    assert await ready(person) == [c]
    await done(person, "updateTask", "task { id }", id=b, status="DONE")
    assert await ready(person) == [a, c]
    removed = await done(person, "removeTaskDependency", DEPENDENCY, taskId=a, dependsOnId=b)
    assert removed["dependency"] == added["dependency"]
    missing = await mutate(person, "removeTaskDependency", DEPENDENCY, taskId=a, dependsOnId=b)
    assert kinds(missing) == [("NotFound", "dependsOnId")]


async def test_a_deleted_task_keeps_nobody_waiting(person: Person) -> None:
    a, b = await new_tasks(person, await new_project(person), {}, {})
    await wait(person, a, b)
    await done(person, "deleteTask", "task { id }", id=b)
    assert await ready(person) == [a]
    await done(person, "restoreTask", "task { id }", id=b)
    assert await ready(person) == [b]


@pytest.mark.parametrize("deleted", ["a", "b", "ab"])
async def test_a_dependency_of_a_deleted_task_can_be_removed(
    person: Person, new_person: NewPerson, deleted: str
) -> None:
    a, b = await new_tasks(person, await new_project(person), {}, {})
    await wait(person, a, b)
    for name in deleted:
        await done(person, "deleteTask", "task { id }", id={"a": a, "b": b}[name])
    pair = {"taskId": a, "dependsOnId": b}
    stranger = await mutate(await new_person(), "removeTaskDependency", DEPENDENCY, **pair)
    assert rules(stranger) == {("taskId", "reference"), ("dependsOnId", "reference")}
    removed = (await done(person, "removeTaskDependency", DEPENDENCY, **pair))["dependency"]
    assert (removed["task"], removed["dependsOn"]) == ({"id": a}, {"id": b})
    for name in deleted:
        await done(person, "restoreTask", "task { id }", id={"a": a, "b": b}[name])
    assert await ready(person) == [a, b]
    again = await mutate(person, "removeTaskDependency", DEPENDENCY, **pair)
    assert kinds(again) == [("NotFound", "dependsOnId")]


async def test_tasks_of_two_projects_may_wait_for_each_other(person: Person) -> None:
    a = await new_task(person, await new_project(person, "ONE"))
    b = await new_task(person, await new_project(person, "TWO"))
    await wait(person, a, b)
    refused = await mutate(person, "addTaskDependency", DEPENDENCY, taskId=b, dependsOnId=a)
    assert rules(refused) == {("dependsOnId", "cycle")}


async def test_circles_and_repetitions_are_refused(person: Person) -> None:
    made = await new_tasks(person, await new_project(person), *[{}] * 5)
    for one, other in pairwise(made):
        await wait(person, one, other)
    for id in made:
        refused = await mutate(
            person, "addTaskDependency", DEPENDENCY, taskId=made[4], dependsOnId=id
        )
        assert rules(refused) == {("dependsOnId", "cycle")}
    refused = await mutate(
        person, "addTaskDependency", DEPENDENCY, taskId=made[0], dependsOnId=made[1]
    )
    assert rules(refused) == {("dependsOnId", "unique")}
    await wait(person, made[0], made[4])


async def test_foreign_deleted_and_malformed_ids(person: Person, new_person: NewPerson) -> None:
    stranger = await new_person()
    foreign = await new_task(stranger, await new_project(stranger))
    mine, gone = await new_tasks(person, await new_project(person), {}, {})
    await done(person, "deleteTask", "task { id }", id=gone)
    for mutation in ("addTaskDependency", "removeTaskDependency"):
        answers = [
            await mutate(person, mutation, DEPENDENCY, taskId=mine, dependsOnId=id)
            for id in (foreign, gone)
        ]
        assert answers[0] == answers[1]
        assert rules(answers[0]) == {("dependsOnId", "reference")}
        both = await mutate(person, mutation, DEPENDENCY, taskId=foreign, dependsOnId=gone)
        assert rules(both) == {("taskId", "reference"), ("dependsOnId", "reference")}
        bad = await mutate(person, mutation, DEPENDENCY, taskId="x", dependsOnId=human(person))
        assert rules(bad) == {("taskId", "id"), ("dependsOnId", "id")}


async def test_adding_is_done_once(person: Person) -> None:
    a, b = await new_tasks(person, await new_project(person), {}, {})
    input = {"taskId": a, "dependsOnId": b, "idempotencyKey": "k"}
    first = await done(person, "addTaskDependency", DEPENDENCY, **input)
    assert await done(person, "addTaskDependency", DEPENDENCY, **input) == first


@pytest.mark.parametrize("projects", [1, 4])
async def test_of_dependencies_that_would_close_a_circle_one_is_refused(
    person: Person, projects: int
) -> None:
    """In four projects the two share none of them."""
    keys = [await new_project(person, f"P{n}") for n in range(projects)]
    for _ in range(5):
        a, b, c, d = [await new_task(person, keys[n % projects]) for n in range(4)]
        await wait(person, b, c)
        await wait(person, d, a)
        answers = await asyncio.gather(
            mutate(person, "addTaskDependency", DEPENDENCY, taskId=a, dependsOnId=b),
            mutate(person, "addTaskDependency", DEPENDENCY, taskId=c, dependsOnId=d),
        )
        refused = [answer for answer in answers if answer["problems"]]
        assert [rules(answer) for answer in refused] == [{("dependsOnId", "cycle")}]


async def test_tasks_are_created_with_what_they_wait_for(person: Person) -> None:
    """In one transaction, so that no worker gets them too early."""
    project = await new_project(person)
    old = await new_task(person, project)
    a, b, c = await new_tasks(
        person,
        project,
        {},
        {"dependsOnIndexes": [0], "dependsOnIds": [old]},
        {"dependsOnIndexes": [0, 1]},
    )
    assert await ready(person) == [old, a]
    shown = await task(person, b, "dependencies { nodes { dependsOn { id } } }")
    assert shown["dependencies"]["nodes"] == [{"dependsOn": {"id": id}} for id in (old, a)]
    for id, then in ((a, [old]), (old, [b]), (b, [c])):
        await done(person, "updateTask", "task { id }", id=id, status="DONE")
        assert await ready(person) == then
    last = await new_task(person, project, dependsOnIds=[a, c])
    assert await ready(person) == [c]
    events = await person.ask(
        '{ auditEvents(filter: {entityType: {eq: "task_dependency"}}) { nodes { action } } }'
    )
    assert events["auditEvents"]["nodes"] == [{"action": "create"}] * 6
    refused = await mutate(person, "addTaskDependency", DEPENDENCY, taskId=c, dependsOnId=last)
    assert rules(refused) == {("dependsOnId", "cycle")}


async def test_everything_wrong_with_what_new_tasks_wait_for_is_named(
    person: Person, new_person: NewPerson
) -> None:
    stranger = await new_person()
    foreign = await new_task(stranger, await new_project(stranger))
    project = await new_project(person)
    mine, gone = await new_tasks(person, project, {}, {})
    await done(person, "deleteTask", "task { id }", id=gone)
    tasks: list[dict[str, Any]] = [
        {"dependsOnIndexes": [0]},
        {"dependsOnIndexes": [0, -1, 2, 0]},
        {"dependsOnIds": [mine, "x", foreign, gone, mine, human(person)]},
        {"dependsOnIndexes": [0] * 101},
        {"dependsOnIds": [mine] * 101},
    ]
    items = [{"projectId": project, "title": "x", **task} for task in tasks]
    found = rules(await mutate(person, "createTasks", "tasks { id }", tasks=items))
    assert {one for one in found if one[0].startswith(("tasks.0", "tasks.1", "tasks.2"))} == {
        ("tasks.0.dependsOnIndexes.0", "earlier"),
        ("tasks.1.dependsOnIndexes.1", "earlier"),
        ("tasks.1.dependsOnIndexes.2", "earlier"),
        ("tasks.1.dependsOnIndexes.3", "unique"),
        ("tasks.2.dependsOnIds.1", "id"),
        ("tasks.2.dependsOnIds.2", "reference"),
        ("tasks.2.dependsOnIds.3", "reference"),
        ("tasks.2.dependsOnIds.4", "unique"),
        ("tasks.2.dependsOnIds.5", "id"),
    }
    assert {
        ("tasks.3.dependsOnIndexes", "max_items"),
        ("tasks.4.dependsOnIds", "max_items"),
    } < found
    data = await person.ask("{ tasks { totalCount } }")
    assert data["tasks"]["totalCount"] == 1
    alone = await mutate(
        person, "createTask", "task { id }", projectId=project, title="x", dependsOnIds=[foreign]
    )
    assert rules(alone) == {("dependsOnIds.0", "reference")}
