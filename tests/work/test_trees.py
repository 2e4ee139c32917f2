"""Tasks below tasks: read whole, moved without cycles, deleted and restored exactly."""

import asyncio
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from schema import ids
from tests.conftest import NewPerson
from tests.people import Person
from tests.work.asking import done, kinds, mutate, new_project, new_task, new_tasks, rules, task

TREE = """
    query($id: ID!, $depth: Int! = 50) {
      taskTree(id: $id, maxDepth: $depth) { id number title parentId }
    }
"""
PARENT = "task { id parentId version }"


def below(*parents: int | None) -> list[dict[str, Any]]:
    """Tasks with these parents by index."""
    return [{} if parent is None else {"parentIndex": parent} for parent in parents]


async def titles(person: Person, id: str, depth: int = 50) -> list[str]:
    data = await person.ask(TREE, id=id, depth=depth)
    return [task["title"].removeprefix("task ") for task in data["taskTree"]]


async def test_a_tree_is_one_statement_in_the_order_of_the_tree(person: Person) -> None:
    project = await new_project(person)
    #  0 ─ 1 ─ 3 ─ 6      5 belongs to 2, and a task without a parent stands between
    #    └ 2 ─ 5   4
    made = await new_tasks(person, project, *below(None, 0, 0, 1, None, 2, 3))
    data = await person.ask(TREE, id=made[0])
    assert len(person.statements) == 1
    shown = data["taskTree"]
    assert [made.index(task["id"]) for task in shown] == [0, 1, 3, 6, 2, 5]
    assert [task["parentId"] and made.index(task["parentId"]) for task in shown] == [
        None,
        0,
        1,
        3,
        0,
        2,
    ]
    assert await titles(person, made[0], 0) == ["0"]
    assert await titles(person, made[0], 2) == ["0", "1", "3", "2", "5"]
    assert await titles(person, made[1]) == ["1", "3", "6"]
    await done(person, "deleteTask", PARENT, id=made[3])
    assert await titles(person, made[0]) == ["0", "1", "2", "5"]
    assert await titles(person, made[3]) == []


async def test_the_relations_of_a_tree_cost_a_statement_each(person: Person) -> None:
    project = await new_project(person)
    made = await new_tasks(person, project, *below(None, *range(20)))
    data = await person.ask(
        "query($id: ID!) { taskTree(id: $id) { parent { number } subtasks { nodes { number } } } }",
        id=made[0],
    )
    assert len(person.statements) == 3
    assert data["taskTree"][20] == {"parent": {"number": 20}, "subtasks": {"nodes": []}}


async def test_what_a_tree_may_be_asked(person: Person, new_person: NewPerson) -> None:
    project = await new_project(person)
    id = await new_task(person, project)
    for depth in (-1, 51):
        answer = await person.execute(TREE, id=id, depth=depth)
        assert answer["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"
    answer = await person.execute(TREE, id=project)
    assert answer["errors"][0]["extensions"]["code"] == "BAD_ID"
    stranger = await new_person()
    assert (await stranger.ask(TREE, id=id))["taskTree"] == []


async def test_of_a_large_tree_the_upper_levels_come(person: Person) -> None:
    project = await new_project(person)
    made = await new_tasks(person, project, *below(None, *([0] * 600)))
    more = [{"projectId": project, "title": "deep", "parentId": id} for id in made[1:]]
    await done(person, "createTasks", "tasks { id }", tasks=more)
    shown = (await person.ask(TREE, id=made[0]))["taskTree"]
    assert len(shown) == 1_000
    assert {task["id"] for task in shown} > set(made)
    seen = set()
    for one in shown:
        assert one["parentId"] is None or one["parentId"] in seen
        seen.add(one["id"])


async def test_a_task_moves_within_its_project_and_never_below_itself(
    person: Person, new_person: NewPerson
) -> None:
    project, other = await new_project(person), await new_project(person, "TWO")
    a, b, c = await new_tasks(person, project, *below(None, 0, 1))
    moved = await done(person, "updateTask", PARENT, id=c, parentId=a, expectedVersion=1)
    assert moved["task"] == {"id": c, "parentId": a, "version": 2}
    assert (await done(person, "updateTask", PARENT, id=c, parentId=b))["task"]["parentId"] == b
    for id in (a, b, c):
        refused = await mutate(person, "updateTask", PARENT, id=a, parentId=id)
        assert rules(refused) == {("parentId", "cycle")}
    elsewhere = await new_task(person, other)
    refused = await mutate(person, "updateTask", PARENT, id=a, parentId=elsewhere)
    assert rules(refused) == {("parentId", "same_project")}
    stranger = await new_person()
    foreign = await new_task(stranger, await new_project(stranger))
    refused = await mutate(person, "updateTask", PARENT, id=a, parentId=foreign)
    assert rules(refused) == {("parentId", "reference")}
    assert (await task(person, a, "version parentId")) == {"version": 1, "parentId": None}
    rooted = await done(person, "updateTask", PARENT, id=c, parentId=None)
    assert rooted["task"]["parentId"] is None


async def test_many_moves_are_judged_by_where_they_end(person: Person) -> None:
    project = await new_project(person)
    a, b, c, d = await new_tasks(person, project, *below(None, 0, 1, None))
    # a ─ b ─ c turned over: no step alone could be done in this order.
    turned = [
        {"id": a, "parentId": b},
        {"id": b, "parentId": c},
        {"id": c, "parentId": None},
    ]
    await done(person, "updateTasks", "tasks { id }", tasks=turned)
    assert await titles(person, c) == ["2", "1", "0"]
    # c ─ b ─ a: d goes below a and c below d, a circle; d alone may go.
    circle = [{"id": d, "parentId": a}, {"id": c, "parentId": d}, {"id": b, "title": "task B"}]
    refused = await mutate(person, "updateTasks", "tasks { id }", tasks=circle)
    assert rules(refused) == {("tasks.0.parentId", "cycle"), ("tasks.1.parentId", "cycle")}
    partly = await mutate(person, "updateTasks", "tasks { id }", tasks=circle, allOrNothing=False)
    assert [task["id"] for task in partly["tasks"]] == [b]
    assert rules(partly) == rules(refused)
    assert await titles(person, c) == ["2", "B", "0"]


async def test_what_is_refused_stays_and_may_be_in_the_way(person: Person) -> None:
    project = await new_project(person)
    a, b = await new_tasks(person, project, *below(None, 0))
    # b would make way for a, but is refused: so a cannot go below it either.
    changes = [{"id": a, "parentId": b}, {"id": b, "parentId": None, "priority": 9}]
    partly = await mutate(person, "updateTasks", "tasks { id }", tasks=changes, allOrNothing=False)
    assert partly["tasks"] == []
    assert rules(partly) == {("tasks.0.parentId", "cycle"), ("tasks.1.priority", "le")}


async def test_of_two_moves_that_would_make_a_circle_one_is_done(person: Person) -> None:
    project = await new_project(person)
    for _ in range(5):
        a, b = await new_tasks(person, project, *below(None, None))
        answers = await asyncio.gather(
            mutate(person, "updateTask", PARENT, id=a, parentId=b),
            mutate(person, "updateTask", PARENT, id=b, parentId=a),
        )
        assert sorted(len(answer["problems"]) for answer in answers) == [0, 1]
        refused = next(answer for answer in answers if answer["problems"])
        assert rules(refused) == {("parentId", "cycle")}
        parents = [(await task(person, id, "parentId"))["parentId"] for id in (a, b)]
        assert parents in ([b, None], [None, a])


async def test_nothing_is_left_alive_below_a_deleted_task(person: Person) -> None:
    project = await new_project(person)
    for _ in range(5):
        top, middle, other = await new_tasks(person, project, *below(None, 0, None))
        await asyncio.gather(
            mutate(person, "deleteTask", PARENT, id=top),
            mutate(person, "createTask", PARENT, projectId=project, parentId=middle, title="t"),
            mutate(person, "updateTask", PARENT, id=other, parentId=middle),
        )
        data = await person.ask(
            "{ tasks(filter: {parent: {some: {deletedAt: {isNull: false}}}}) { totalCount } }"
        )
        assert data["tasks"]["totalCount"] == 0


async def test_a_deleted_task_takes_what_is_below_it_and_brings_back_just_that(
    person: Person,
) -> None:
    project = await new_project(person)
    made = await new_tasks(person, project, *below(None, 0, 1, 0, None))
    await done(person, "deleteTask", PARENT, id=made[1])
    await done(person, "deleteTask", PARENT, id=made[0], expectedVersion=1)
    assert kinds(await mutate(person, "deleteTask", PARENT, id=made[3])) == [("NotFound", "id")]
    refused = await mutate(person, "restoreTask", PARENT, id=made[1])
    assert rules(refused) == {("id", "live_owner")}
    await done(person, "restoreTask", PARENT, id=made[0], expectedVersion=2)
    assert await titles(person, made[0]) == ["0", "3"]
    await done(person, "restoreTask", PARENT, id=made[1])
    assert await titles(person, made[0]) == ["0", "1", "2", "3"]
    assert (await task(person, made[4], "version"))["version"] == 1


async def test_a_task_comes_back_only_into_a_live_project(person: Person) -> None:
    project = await new_project(person)
    id = await new_task(person, project)
    await done(person, "deleteTask", PARENT, id=id)
    await done(person, "deleteProject", "project { id }", id=project)
    assert rules(await mutate(person, "restoreTask", PARENT, id=id)) == {("id", "live_owner")}
    await done(person, "restoreProject", "project { id }", id=project)
    assert await task(person, id, "id") is None
    await done(person, "restoreTask", PARENT, id=id)


async def test_foreign_tasks_cannot_be_deleted_or_restored(
    person: Person, new_person: NewPerson
) -> None:
    stranger = await new_person()
    id = await new_task(stranger, await new_project(stranger))
    for name in ("deleteTask", "restoreTask", "updateTask"):
        assert kinds(await mutate(person, name, PARENT, id=id)) == [("NotFound", "id")]
        assert rules(await mutate(person, name, PARENT, id="task_")) == {("id", "id")}


LARGE = """
    WITH made AS (SELECT array_agg(uuidv7()) AS ids FROM generate_series(1, 10000))
    INSERT INTO tasks (owner_id, project_id, number, title, created_by_id, id, parent_id)
    SELECT :owner_id, :project_id, n, 'task ' || n, :worker_id, ids[n],
           CASE WHEN n > 1 THEN ids[n / 5 + 1] END
    FROM made, generate_series(1, 10000) n
"""
STATE = """
    SELECT deleted_at IS NULL AS live, count(*) AS number, count(DISTINCT deletion_id) AS batches
    FROM tasks WHERE owner_id = :owner_id GROUP BY 1 ORDER BY 1
"""


async def test_ten_thousand_tasks_go_and_come_back_in_seconds(
    person: Person, admin_engine: AsyncEngine
) -> None:
    project = await new_project(person)
    values = {"owner_id": person.owner_id, "project_id": ids.decode_as("project", project)}
    async with admin_engine.connect() as connection:
        await connection.execute(text(LARGE), values | {"worker_id": person.worker_id})

    async def state() -> list[tuple[bool, int, int]]:
        async with admin_engine.connect() as connection:
            rows = await connection.execute(text(STATE), values)
            return [(row.live, row.number, row.batches) for row in rows]

    async def id_of(number: int) -> str:
        find = "query($number: Int!) { tasks(filter: {number: {eq: $number}}) { nodes { id } } }"
        return str((await person.ask(find, number=number))["tasks"]["nodes"][0]["id"])

    async def in_few_statements(mutation: str, id: str) -> None:
        # Each runs under the statement timeout of a request, too.
        await done(person, mutation, "clientMutationId", id=id)
        assert len(person.statements) <= 8

    top, inner = await id_of(1), await id_of(300)
    await in_few_statements("deleteTask", inner)
    before = await state()
    assert sum(number for _, number, _ in before) == 10_000
    assert before[0][2] == 1
    for kind, id in (("Project", project), ("Task", top)):
        await in_few_statements(f"delete{kind}", id)
        assert await state() == [(False, 10_000, 2)]
        await in_few_statements(f"restore{kind}", id)
        assert await state() == before
    await in_few_statements("restoreTask", inner)
    assert await state() == [(True, 10_000, 0)]
