"""taskChanged: every change of a task of a project from now on, also across a lost connection."""

import asyncio
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from db.notifications import Listener
from schema import ids
from tests.conftest import NewPerson
from tests.people import Person
from tests.watching import ByHand, Watch, subscribe, watching
from tests.work.asking import done, human, new_project, new_task, new_tasks

CHANGED = """subscription($id: ID!) {
    taskChanged(projectId: $id) { id title status deletedAt project { key } }
}"""
CUT = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND query ILIKE 'LISTEN%'
"""


async def next_task(watch: Watch) -> dict[str, Any]:
    task: dict[str, Any] = (await watch.next())["taskChanged"]
    return task


async def test_a_subscriber_hears_of_every_change(person: Person, listener: Listener) -> None:
    project, other = await new_project(person), await new_project(person, "TWO")
    before = await new_task(person, project, "old")
    await asyncio.sleep(0.1)
    async with watching(person, listener, CHANGED, id=project) as watch:
        await new_task(person, other, "elsewhere")
        a = await new_task(person, project, "new")
        shown = {
            "id": a,
            "title": "new",
            "status": "PENDING",
            "deletedAt": None,
            "project": {"key": "ENG"},
        }
        assert await next_task(watch) == shown
        await done(person, "updateTask", "task { id }", id=a, title="other", priority=4)
        assert await next_task(watch) == shown | {"title": "other"}
        await done(person, "claimTasks", "tasks { id }", workerId=human(person), projectId=project)
        assert (await next_task(watch))["status"] == "IN_PROGRESS"
        await done(person, "heartbeatTask", "task { id }", id=a, claimEpoch=1)
        await done(person, "completeTask", "task { id }", id=a, claimEpoch=1)
        assert (await next_task(watch))["status"] == "DONE"
        await done(person, "deleteTask", "task { id }", id=a)
        assert (await next_task(watch))["deletedAt"] is not None
        await done(person, "restoreTask", "task { id }", id=a)
        assert (await next_task(watch))["deletedAt"] is None
        for mutation in ("addTaskDependency", "removeTaskDependency"):
            await done(person, mutation, "clientMutationId", taskId=before, dependsOnId=a)
            assert (await next_task(watch))["id"] == before
        assert watch.answers.empty()


async def test_the_tasks_of_a_deleted_project_are_heard_of(
    person: Person, listener: Listener
) -> None:
    project = await new_project(person)
    made = await new_tasks(person, project, {}, {"parentIndex": 0})
    await asyncio.sleep(0.1)
    async with watching(person, listener, CHANGED, id=project) as watch:
        await done(person, "deleteProject", "project { id }", id=project)
        gone = [await next_task(watch) for _ in made]
        assert {task["id"] for task in gone} == set(made)
        assert all(task["deletedAt"] for task in gone)


async def test_what_was_rolled_back_is_not_heard_of(person: Person, listener: Listener) -> None:
    project = await new_project(person)
    id = await new_task(person, project)
    await asyncio.sleep(0.1)
    async with watching(person, listener, CHANGED, id=project) as watch:
        changes = [{"id": id, "title": "no"}, {"id": "task_" + "0" * 32, "title": "no"}]
        await person.ask(
            "mutation($tasks: [TaskChangeInput!]!) { updateTasks(input: {tasks: $tasks}) {"
            " problems { code } } }",
            tasks=changes,
        )
        await done(person, "updateTask", "task { id }", id=id, title="yes")
        assert (await next_task(watch))["title"] == "yes"


async def test_a_project_that_is_not_the_callers_cannot_be_watched(
    person: Person, new_person: NewPerson, listener: Listener
) -> None:
    foreign = await new_project(await new_person())
    deleted = await new_project(person)
    await done(person, "deleteProject", "project { id }", id=deleted)
    bad = foreign.replace("project", "task")
    for id, code in ((foreign, "NOT_FOUND"), (deleted, "NOT_FOUND"), (bad, "BAD_ID")):
        answers = [answer async for answer in subscribe(person, listener, CHANGED, id=id)]
        assert [error["extensions"]["code"] for error in answers[0].errors] == [code]
        assert len(answers) == 1


async def test_a_lost_connection_loses_no_change(
    person: Person, listener: Listener, admin_engine: AsyncEngine
) -> None:
    project = await new_project(person)
    a, b = await new_tasks(person, project, {}, {})
    await asyncio.sleep(0.1)
    async with watching(person, listener, CHANGED, id=project) as watch:
        for n in range(2):
            async with admin_engine.connect() as connection:
                await connection.execute(sa.text(CUT))
            await done(person, "updateTask", "task { id }", id=a, title=f"round {n}")
            await done(person, "deleteTask", "task { id }", id=b)
            seen: dict[str, dict[str, Any]] = {}
            while len(seen) < 2 or seen[a]["title"] != f"round {n}" or not seen[b]["deletedAt"]:
                task = await next_task(watch)
                seen[task["id"]] = task
            await done(person, "restoreTask", "task { id }", id=b)


async def test_a_gap_brings_what_changed_lately_and_nothing_older(
    person: Person, admin_engine: AsyncEngine
) -> None:
    project = await new_project(person)
    old, recent = await new_tasks(person, project, {}, {})
    async with admin_engine.connect() as connection:
        await connection.execute(
            sa.text("UPDATE tasks SET updated_at = now() - interval '5 minutes' WHERE id = :id"),
            {"id": ids.decode_as("task", old)},
        )
    changes = ByHand()
    async with watching(person, changes, CHANGED, id=project) as watch:
        changes.put("gap")
        assert (await next_task(watch))["id"] == recent
        changes.put("gap")  # it was told of
        changes.put("update", ids.decode_as("task", old))
        assert (await next_task(watch))["id"] == old
        await done(person, "updateTask", "task { id }", id=recent, title="again")
        changes.put("gap")
        assert (await next_task(watch))["title"] == "again"
        assert watch.answers.empty()


async def test_a_subscription_holds_no_connection_while_it_waits(
    person: Person, listener: Listener, engine: AsyncEngine
) -> None:
    project = await new_project(person)
    async with watching(person, listener, CHANGED, id=project) as watch:
        await new_task(person, project)
        await next_task(watch)
        await asyncio.sleep(0.05)
        pool: Any = engine.pool
        assert pool.checkedout() == 1, "the listener's own"
