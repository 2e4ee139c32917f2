"""Creating, deleting and restoring tasks: one or many, by the same few statements.

What is wrong with an item is found for all items before anything is written, so a caller learns
everything at once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from db.changes import IDS, Record, insert, update_each
from db.models.work import Project, Task, TaskDependency, Worker, WorkerKind
from db.refusals import Invalid, Missing, Violation
from db.repositories.work import unique_values
from db.repositories.work_trees import lock_projects
from db.scope import readable
from db.session import Session
from db.trees import delete_tree, restore_tree
from db.uuid7 import uuid7

PROJECTS = Project.__table__
WORKERS = Worker.__table__
TASKS = Task.__table__
DEPENDENCIES = TaskDependency.__table__


@dataclass(kw_only=True)
class Item:
    """A task in a list of tasks to write. What is known to be wrong with it comes along."""

    path: tuple[str, ...]
    """Where it stands in the input."""
    values: dict[str, Any]
    violations: list[Violation] = field(default_factory=list)

    def refuse(
        self,
        name: str,
        rule: str,
        message: str,
        bound: str | None = None,
        *,
        index: int | None = None,
    ) -> None:
        """Note that one of its values breaks a rule; of a list, the one at `index`."""
        path = (*self.path, name) if index is None else (*self.path, name, str(index))
        self.violations.append(Violation(path, rule, message, bound))


@dataclass(kw_only=True)
class NewTask(Item):
    """A task to create."""

    parent_index: int | None = None
    """The place of its parent among the tasks that are created with it."""
    depends_on_ids: Sequence[UUID | None] = ()
    """None stands for what was given and is no id, which a violation says."""
    depends_on_indexes: Sequence[int] = ()
    """The places of tasks it waits for among those that are created with it."""


async def create_tasks(session: Session, tasks: Sequence[NewTask]) -> list[Record]:
    """Store tasks, numbered in the order given, and what they wait for.

    A new task waits for older ones alone, so there is no circle to look for, and no worker gets it
    too early. Raises Invalid with all that is wrong.
    """
    nested = [task for task in tasks if task.values.get("parent_id")]
    await lock_projects(session, named(nested, "project_id"))
    numbers = await _lock_numbers(session, named(tasks, "project_id"))
    workers, human = await live_workers(
        session, [*named(tasks, "created_by_id"), *named(tasks, "assignee_id")]
    )
    waited_for = (id for task in tasks for id in task.depends_on_ids if id is not None)
    others = [*named(nested, "parent_id"), *waited_for]
    known = await projects_of(session, others)
    await _check_ids(session, tasks)
    for place, task in enumerate(tasks):
        task.values.setdefault("created_by_id", human)
        if "project_id" in task.values and task.values["project_id"] not in numbers:
            task.refuse("project_id", "reference", "There is no project with this id.")
        check_workers(task, workers)
        _check_parent(task, place, tasks, known)
        _check_dependencies(task, place, known)
    violations = [violation for task in tasks for violation in task.violations]
    if violations:
        raise Invalid(violations)
    _name_others(tasks)
    for task in tasks:
        task.values["number"] = numbers[task.values["project_id"]]
        numbers[task.values["project_id"]] += 1
    with unique_values():
        rows = await insert(session, TASKS, [task.values for task in tasks])
    waiting = [
        {"task_id": row.id, "depends_on_id": id}
        for row, task in zip(rows, tasks, strict=True)
        for id in task.depends_on_ids
    ]
    await insert(session, DEPENDENCIES, waiting)
    used = [(id, None, {"next_number": number}) for id, number in numbers.items()]
    await update_each(session, PROJECTS, used)
    return rows


async def _lock_numbers(session: Session, ids: Iterable[UUID]) -> dict[UUID, int]:
    """The next number of each of these projects that is alive, held until the transaction ends."""
    rows = await session.execute(_NUMBERS, {"ids": list(ids)})
    return {row.id: row.next_number for row in rows}


_NUMBERS = (
    readable(PROJECTS, PROJECTS.c.id, PROJECTS.c.next_number)
    .where(PROJECTS.c.id == sa.any_(IDS))
    .order_by(PROJECTS.c.id)
    .with_for_update(key_share=True)
)


async def _check_ids(session: Session, tasks: Sequence[NewTask]) -> None:
    chosen = list(named(tasks, "id"))
    if not chosen:
        return
    taken = {row.id for row in await session.execute(_TAKEN, {"ids": chosen})}
    for task in tasks:
        id = task.values.get("id")
        if id in taken:
            task.refuse("id", "unique", "Another task has this id.")
        elif id is not None:
            taken.add(id)


_TAKEN = readable(TASKS, TASKS.c.id, deleted=None).where(TASKS.c.id == sa.any_(IDS))


def _check_parent(
    task: NewTask, place: int, tasks: Sequence[NewTask], parents: Mapping[UUID, UUID]
) -> None:
    name, project = "parent_id", None
    if task.parent_index is not None:
        name = "parent_index"
        if task.values.get("parent_id") is not None:
            task.refuse(name, "one_parent", "Name the parent by its id or by its index, not both.")
            return
        if not 0 <= task.parent_index < place:
            task.refuse(name, "earlier", "The parent must stand earlier in the list.")
            return
        project = tasks[task.parent_index].values.get("project_id")
    elif task.values.get("parent_id") is not None:
        project = parents.get(task.values["parent_id"])
        if project is None:
            task.refuse(name, "reference", "There is no task with this id.")
    own = task.values.get("project_id")
    if own is not None and project is not None and project != own:
        task.refuse(name, "same_project", "The parent must be in the same project.")


def _check_dependencies(task: NewTask, place: int, known: Mapping[UUID, UUID]) -> None:
    """What a task waits for is there, and is named once."""
    twice = "This task is named already."
    for n, id in enumerate(task.depends_on_ids):
        if id is None:
            continue
        if id not in known:
            message = "There is no task with this id."
            task.refuse("depends_on_ids", "reference", message, index=n)
        elif id in task.depends_on_ids[:n]:
            task.refuse("depends_on_ids", "unique", twice, index=n)
    for n, other in enumerate(task.depends_on_indexes):
        if not 0 <= other < place:
            message = "What a task waits for must stand earlier in the list."
            task.refuse("depends_on_indexes", "earlier", message, index=n)
        elif other in task.depends_on_indexes[:n]:
            task.refuse("depends_on_indexes", "unique", twice, index=n)


def _name_others(tasks: Sequence[NewTask]) -> None:
    """Replace indexes by ids, which the tasks get for it."""

    def id_of(index: int) -> UUID:
        id: UUID = tasks[index].values.setdefault("id", uuid7())
        return id

    for task in tasks:
        if task.parent_index is not None:
            task.values["parent_id"] = id_of(task.parent_index)
        task.depends_on_ids = [*task.depends_on_ids, *map(id_of, task.depends_on_indexes)]


async def delete_task(session: Session, id: UUID, expected_version: int | None) -> Record:
    """Delete a task and what is below it. Raises Missing and Stale."""
    await _lock_project_of(session, id)
    return await delete_tree(session, TASKS, id, expected_version)


async def restore_task(session: Session, id: UUID, expected_version: int | None) -> Record:
    """Bring back what was deleted with a task.

    Raises Missing, Stale, and Invalid when its project or its parent is still deleted.
    """
    await _lock_project_of(session, id)
    return await restore_tree(session, TASKS, id, expected_version)


async def _lock_project_of(session: Session, id: UUID) -> None:
    statement = readable(TASKS, TASKS.c.project_id, deleted=None).where(TASKS.c.id == id)
    rows = await session.execute(statement)
    if not rows:
        raise Missing("task")
    await lock_projects(session, [rows[0].project_id])


# What creating and changing share.


def named(items: Iterable[Item], name: str) -> list[UUID]:
    """The distinct ids that items give for a column."""
    found = (item.values.get(name) for item in items)
    return list(dict.fromkeys(id for id in found if id is not None))


async def projects_of(session: Session, ids: Sequence[UUID]) -> dict[UUID, UUID]:
    """The project of each of these tasks that is alive."""
    if not ids:
        return {}
    return {row.id: row.project_id for row in await session.execute(_PROJECTS, {"ids": ids})}


_PROJECTS = readable(TASKS, TASKS.c.id, TASKS.c.project_id).where(TASKS.c.id == sa.any_(IDS))


async def live_workers(session: Session, ids: Sequence[UUID]) -> tuple[set[UUID], UUID | None]:
    """Which of these workers are alive, and who is the human one."""
    rows = await session.execute(_WORKERS, {"ids": ids})
    human = next((row.id for row in rows if row.kind == WorkerKind.HUMAN), None)
    return {row.id for row in rows}, human


_WORKERS = readable(WORKERS, WORKERS.c.id, WORKERS.c.kind).where(
    sa.or_(WORKERS.c.id == sa.any_(IDS), WORKERS.c.kind == sa.literal_column("'human'"))
)


def check_workers(item: Item, workers: set[UUID]) -> None:
    for name in ("assignee_id", "created_by_id"):
        id = item.values.get(name)
        if id is not None and id not in workers:
            item.refuse(name, "reference", "There is no worker with this id.")
