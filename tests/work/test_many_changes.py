"""Many tasks changed together: all or nothing, or what can be done."""

from typing import Any

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
    task,
)

MANY = f"tasks {{ {TASK} }}"


async def test_many_tasks_change_by_one_statement(person: Person) -> None:
    project = await new_project(person)
    made = await new_tasks(person, project, *[{"dueAt": "2030-01-01T00:00:00Z"}] * 50)
    changes = [
        {"id": id, "title": f"new {n}", "expectedVersion": 1}
        | ({"dueAt": None} if n % 2 else {"priority": 4})
        for n, id in enumerate(made)
    ]
    changed = await done(person, "updateTasks", MANY, tasks=changes[:2])
    few = len(person.statements)
    assert sum("UPDATE tasks" in statement for statement in person.statements) == 1
    changed = await done(person, "updateTasks", MANY, tasks=changes[2:])
    assert len(person.statements) == few
    assert [task["id"] for task in changed["tasks"]] == made[2:]
    assert [task["title"] for task in changed["tasks"]] == [f"new {n}" for n in range(2, 50)]
    assert {(task["dueAt"], task["priority"], task["version"]) for task in changed["tasks"]} == {
        ("2030-01-01T00:00:00Z", 4, 2),
        (None, 2, 2),
    }


async def bad_changes(person: Person, stranger: Person) -> tuple[list[str], list[dict[str, Any]]]:
    """Ids of three tasks, and changes of them of which the first and the last are right."""
    project = await new_project(person)
    made = await new_tasks(person, project, {}, {}, {})
    foreign = await new_task(stranger, await new_project(stranger))
    return made, [
        {"id": made[0], "title": "right"},
        {"id": made[1], "title": "late", "expectedVersion": 7},
        {"id": foreign, "title": "foreign"},
        {"id": ids.encode("task", uuid7()), "title": "missing"},
        {"id": "nonsense", "title": "x"},
        {"id": made[0], "title": "twice"},
        {"id": made[1], "title": "", "assigneeId": human(stranger), "priority": 7},
        {"id": made[2], "priority": 0},
    ]


BAD = [
    ("Conflict", "tasks.1"),
    ("NotFound", "tasks.2.id"),
    ("NotFound", "tasks.3.id"),
    ("ValidationProblem", "tasks.4.id"),
    ("ValidationProblem", "tasks.5.id"),
    ("ValidationProblem", "tasks.6.title"),
    ("ValidationProblem", "tasks.6.priority"),
    ("ValidationProblem", "tasks.6.id"),
    ("ValidationProblem", "tasks.6.assigneeId"),
]


async def test_one_problem_leaves_all_tasks_as_they_are(
    person: Person, new_person: NewPerson
) -> None:
    made, changes = await bad_changes(person, await new_person())
    refused = await mutate(person, "updateTasks", MANY, tasks=changes)
    assert refused["tasks"] == []
    assert sorted(kinds(refused)) == sorted(BAD)
    shown = [await task(person, id, "title priority version") for id in made]
    assert shown == [{"title": f"task {n}", "priority": 2, "version": 1} for n in range(3)]


async def test_unless_the_caller_wants_what_can_be_done(
    person: Person, new_person: NewPerson
) -> None:
    made, changes = await bad_changes(person, await new_person())
    input = {"tasks": changes, "allOrNothing": False, "idempotencyKey": "k"}
    partly = await mutate(person, "updateTasks", MANY, **input)
    assert [(task["id"], task["title"], task["priority"]) for task in partly["tasks"]] == [
        (made[0], "right", 2),
        (made[2], "task 2", 0),
    ]
    assert sorted(kinds(partly)) == sorted(BAD)
    conflict = next(one for one in partly["problems"] if one["__typename"] == "Conflict")
    assert (conflict["currentVersion"], conflict["current"]["id"]) == (1, made[1])
    shown = [await task(person, id, "title priority version") for id in made]
    assert shown == [
        {"title": "right", "priority": 2, "version": 2},
        {"title": "task 1", "priority": 2, "version": 1},
        {"title": "task 2", "priority": 0, "version": 2},
    ]
    # Sent again it gives the same answer, the problems included.
    assert await mutate(person, "updateTasks", MANY, **input) == partly
