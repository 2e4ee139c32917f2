"""Which tasks are ready, in which order, and for whom."""

from typing import Any

from tests.people import Person
from tests.work.asking import (
    claim,
    done,
    human,
    new_project,
    new_task,
    new_tasks,
    new_worker,
)


async def test_the_most_urgent_and_then_the_oldest_come_first(person: Person) -> None:
    project, other = await new_project(person), await new_project(person, "TWO")
    made = await new_tasks(
        person, project, {"priority": 1}, {"priority": 3}, {"priority": 1}, {"priority": 3}
    )
    late = await new_task(person, other, priority=3)
    order = [made[1], made[3], late, made[0], made[2]]
    data = await person.ask("{ readyTasks { nodes { id } } }")
    assert [one["id"] for one in data["readyTasks"]["nodes"]] == order
    page = (
        "query($after: String) { readyTasks(first: 2, after: $after) {"
        " nodes { id } pageInfo { endCursor } } }"
    )
    paged: list[str] = []
    after = None
    while nodes := (found := (await person.ask(page, after=after))["readyTasks"])["nodes"]:
        paged += [one["id"] for one in nodes]
        after = found["pageInfo"]["endCursor"]
    assert paged == order
    one = await claim(person, human(person), projectId=other, limit=5)
    assert [task["id"] for task in one] == [late]
    four = await claim(person, human(person), limit=100)
    assert [task["id"] for task in four] == [made[1], made[3], made[0], made[2]]


async def test_what_is_not_ready_is_not_claimed(person: Person) -> None:
    project = await new_project(person)
    other = await new_worker(person, "other")
    future, past = "2999-01-01T00:00:00Z", "2020-01-01T00:00:00Z"
    made = await new_tasks(
        person,
        project,
        {"runAfter": future},
        {"status": "BLOCKED"},
        {"status": "DONE"},
        {"status": "CANCELLED"},
        {"status": "IN_PROGRESS"},
        {"assigneeId": other},
        {"runAfter": past},
        {"assigneeId": human(person)},
        {},
    )
    await done(person, "deleteTask", "task { id }", id=made[8])
    data = await person.ask("{ readyTasks { totalCount nodes { id } } }")
    assert [one["id"] for one in data["readyTasks"]["nodes"]] == made[5:8]
    mine = await claim(person, human(person), limit=100)
    assert [one["id"] for one in mine] == made[6:8]
    assert [one["id"] for one in await claim(person, other, limit=100)] == [made[5]]


async def test_tags_ask_for_capabilities(person: Person) -> None:
    project = await new_project(person)
    made = await new_tasks(
        person, project, {"tags": ["python"]}, {"tags": ["law", "python"]}, {"tags": ["law"]}, {}
    )
    lawyer = await new_worker(person, "lawyer", capabilities=["law"])

    async def offered(**input: Any) -> list[int]:
        tasks = await claim(person, lawyer, limit=10, **input)
        for one in tasks:
            await done(
                person, "releaseTask", "task { id }", id=one["id"], claimEpoch=one["claimEpoch"]
            )
        return [made.index(one["id"]) for one in tasks]

    assert await offered() == [1, 2, 3]
    assert await offered(capabilities=["python"]) == [0, 1, 3]
    assert await offered(capabilities=["cooking"]) == [3]
    assert await offered(capabilities=[]) == [0, 1, 2, 3]
