"""Which task waits for which.

Tasks of different projects may wait for each other. A circle can then run through any number of
projects, so no lock of two of them would do: whoever adds a dependency holds one lock per owner.
"""

from uuid import UUID

import sqlalchemy as sa

from db.changes import IDS, Record, insert, remove
from db.models.work import Task, TaskDependency
from db.recording import shown
from db.refusals import Invalid, Missing, Violation
from db.repositories.work_trees import lock_keys
from db.scope import readable
from db.session import Session

TASKS = Task.__table__
DEPENDENCIES = TaskDependency.__table__


async def add_dependency(session: Session, task_id: UUID, depends_on_id: UUID) -> Record:
    """Let a task wait for another. Raises Invalid for a circle, or when it waits already."""
    assert session.owner_id is not None
    await lock_keys(session, [session.owner_id])
    projects = await _projects(session, {"task_id": task_id, "depends_on_id": depends_on_id})
    if await session.execute(_BETWEEN, {"task_id": task_id, "depends_on_id": depends_on_id}):
        raise _refused("unique", "The task waits for that one already.")
    # The tasks that the other one waits for, directly or not.
    if await session.execute(_BEHIND, {"task_id": task_id, "depends_on_id": depends_on_id}):
        raise _refused("cycle", "A task must not wait for itself, directly or by way of others.")
    values = {"task_id": task_id, "depends_on_id": depends_on_id}
    dependency = (await insert(session, DEPENDENCIES, [values]))[0]
    session.notify("task", projects[task_id], [task_id], "update")
    return dependency


async def remove_dependency(session: Session, task_id: UUID, depends_on_id: UUID) -> Record:
    """Let a task no longer wait for another; one or both of them may be deleted.

    Raises Missing, and Invalid when there is not even such a task.
    """
    pair = {"task_id": task_id, "depends_on_id": depends_on_id}
    rows = await session.execute(_BETWEEN.with_for_update(), pair)
    if not rows:
        await _projects(session, pair)
        raise Missing("task_dependency", ("depends_on_id",))
    await remove(session, DEPENDENCIES, [rows[0].id])
    project_id = await session.scalar(_PROJECT, {"id": task_id})
    assert isinstance(project_id, UUID)
    session.notify("task", project_id, [task_id], "update")
    return rows[0]


async def _projects(session: Session, given: dict[str, UUID]) -> dict[UUID, UUID]:
    """The projects of tasks that must be alive. Raises Invalid."""
    rows = await session.execute(_PROJECTS, {"ids": list(given.values())})
    found = {row.id: row.project_id for row in rows}
    message = "There is no task with this id."
    missing = [name for name, id in given.items() if id not in found]
    if missing:
        raise Invalid(Violation((name,), "reference", message) for name in missing)
    return found


_PROJECTS = readable(TASKS, TASKS.c.id, TASKS.c.project_id).where(TASKS.c.id == sa.any_(IDS))

_PROJECT = readable(TASKS, TASKS.c.project_id, deleted=None).where(
    TASKS.c.id == sa.bindparam("id", type_=sa.Uuid())
)


def _refused(rule: str, message: str) -> Invalid:
    return Invalid([Violation(("depends_on_id",), rule, message)])


_TASK_ID = sa.bindparam("task_id", type_=sa.Uuid())
_DEPENDS_ON_ID = sa.bindparam("depends_on_id", type_=sa.Uuid())
_BETWEEN = readable(DEPENDENCIES, *shown(DEPENDENCIES)).where(
    DEPENDENCIES.c.task_id == _TASK_ID, DEPENDENCIES.c.depends_on_id == _DEPENDS_ON_ID
)


def _behind() -> sa.Select[tuple[int]]:
    """A row if `depends_on_id` is `task_id` or waits for it, directly or not.

    Deleted tasks count: they may come back.
    """
    start = sa.select(_DEPENDS_ON_ID.label("id")).cte("behind", recursive=True)
    step = readable(DEPENDENCIES, DEPENDENCIES.c.depends_on_id).join(
        start, DEPENDENCIES.c.task_id == start.c.id
    )
    behind = start.union(step)
    return sa.select(sa.literal_column("1")).select_from(behind).where(behind.c.id == _TASK_ID)


_BEHIND = _behind()
