"""Tasks handed to workers: who gets which, under a lease and an epoch.

A claim raises the task's epoch. Every later write of the worker names the epoch of its claim, and
is refused once another claim has been made or the task has been taken away: `work_claimed`. All
times are the database's.
"""

from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import ColumnElement, FromClause, Select
from sqlalchemy.dialects.postgresql import ARRAY

from db.changes import Record, update
from db.models.work import Project, Task, TaskDependency, TaskStatus, Worker
from db.refusals import Invalid, Violation
from db.scope import predicate, readable
from db.session import Session

PROJECTS = Project.__table__
WORKERS = Worker.__table__
TASKS = Task.__table__
DEPENDENCIES = TaskDependency.__table__

FIRST_PAUSE_SECONDS = 10
LONGEST_PAUSE_SECONDS = 3_600
HEARTBEAT_NOTED_SECONDS = 10
"""How often a worker's last sign of life is written at most."""
LAPSED_AT_ONCE = 100
"""How many given-up tasks of a person are put away together."""
OWNERS_AT_ONCE = 500
"""How many people's are looked for together."""


def has_status(column: ColumnElement[str], *statuses: TaskStatus) -> ColumnElement[bool]:
    """A condition on the status in literal words, as the predicates of partial indexes need it."""
    return column.in_([sa.literal_column(f"'{status.value}'", sa.Text()) for status in statuses])


def pause(task: FromClause) -> ColumnElement[timedelta]:
    """How long a task waits after an attempt that came to nothing: twice as long each time."""
    # Twenty doublings are a day's worth of the longest pause: enough, and no number gets too large.
    doublings = sa.func.least(sa.func.greatest(task.c.attempts - 1, 0), 20)
    seconds = sa.func.least(
        FIRST_PAUSE_SECONDS * sa.func.power(2, doublings), LONGEST_PAUSE_SECONDS
    )
    return seconds * sa.literal_column("interval '1 second'", sa.Interval())


def ready(task: FromClause, *also: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether a worker can claim a task: nobody holds it, and there is nothing to wait for.

    `also` are conditions besides.
    """
    dependency, needed = DEPENDENCIES.alias(), TASKS.alias()
    status = (
        sa.select(needed.c.status)
        .where(predicate(needed), needed.c.id == dependency.c.depends_on_id)
        .correlate(dependency)
        .scalar_subquery()
    )
    # Looked up task by task: the offset and the inner select keep the planner from joins, which
    # are a square of an owner's tasks where it believes them to be few.
    waits = (
        sa.select(sa.literal_column("1"))
        .select_from(dependency)
        .where(
            predicate(dependency),
            dependency.c.task_id == task.c.id,
            sa.not_(has_status(status, TaskStatus.DONE)),
        )
        .offset(sa.literal_column("0"))
        .correlate(task)
        .exists()
    )
    free = sa.and_(
        sa.or_(
            has_status(task.c.status, TaskStatus.PENDING),
            # Whoever had it fell silent: an attempt that came to nothing, and so a pause follows.
            task.c.lease_expires_at < sa.func.now() - pause(task),
        ),
        sa.or_(task.c.run_after.is_(None), task.c.run_after <= sa.func.now()),
        task.c.attempts < task.c.max_attempts,
        *also,
        ~waits,
    )
    return sa.and_(
        task.c.deleted_at.is_(None),
        has_status(task.c.status, TaskStatus.PENDING, TaskStatus.IN_PROGRESS),
        # The planner takes a CASE to hold for every second row. Without it, it may believe that few
        # tasks are ready, and look at all that are open and sort them, where the first ones of the
        # index would do.
        sa.case((free, sa.true())),
    )


async def claim_tasks(
    session: Session,
    worker_id: UUID,
    *,
    project_id: UUID | None,
    limit: int,
    lease: timedelta,
    capabilities: Sequence[str] | None,
) -> list[Record]:
    """Give a worker the first ready tasks that nobody else is being given.

    Tasks assigned to other workers are left alone, and so are tasks with tags of which none is
    among the capabilities, unless there are no capabilities; those of the worker are the default.
    Raises Invalid for an unknown worker or project.
    """
    worker = await _require(session, worker_id, project_id)
    await put_away_lapsed(session)
    able = list(worker.capabilities if capabilities is None else capabilities)
    rows = await session.execute(
        choice(in_project=project_id is not None, limited=bool(able)),
        {"worker_id": worker_id, "project_id": project_id, "able": able, "limit": limit},
    )
    values = {
        "status": TaskStatus.IN_PROGRESS.value,
        "claimed_by_id": worker_id,
        "claim_epoch": TASKS.c.claim_epoch + 1,
        "attempts": TASKS.c.attempts + 1,
        "lease_expires_at": sa.func.now() + lease,
    }
    return await update(session, TASKS, [row.id for row in rows], values, action="claim")


async def _require(session: Session, worker_id: UUID, project_id: UUID | None) -> Record:
    """The worker, whose sign of life is noted."""
    workers = await session.execute(_WORKER, {"id": worker_id})
    violations = []
    if not workers:
        violations.append(
            Violation(("worker_id",), "reference", "There is no worker with this id.")
        )
    if project_id is not None and not await session.execute(_PROJECT, {"id": project_id}):
        message = "There is no project with this id."
        violations.append(Violation(("project_id",), "reference", message))
    if violations:
        raise Invalid(violations)
    if workers[0].quiet:
        await note_signs_of_life(session, [worker_id])
    return workers[0]


_seen = WORKERS.c.last_heartbeat_at
_QUIET = sa.or_(
    _seen.is_(None),
    _seen < sa.func.now() - sa.literal_column(f"interval '{HEARTBEAT_NOTED_SECONDS} seconds'"),
)
_ID = sa.bindparam("id", type_=sa.Uuid())
_WORKER = readable(WORKERS, WORKERS.c.capabilities, _QUIET.label("quiet")).where(
    WORKERS.c.id == _ID
)
_PROJECT = readable(PROJECTS, PROJECTS.c.id).where(PROJECTS.c.id == _ID)


async def note_signs_of_life(session: Session, worker_ids: Sequence[UUID]) -> None:
    """Note that these workers are alive, unless that was done a moment ago."""
    await update(session, WORKERS, worker_ids, {"last_heartbeat_at": sa.func.now()}, where=_QUIET)


async def owners_of_lapsed(session: Session) -> list[UUID]:
    """Whose tasks were to be put away; nobody's session may ask."""
    return [row.owner_id for row in await session.execute(_OWNERS, {"most": OWNERS_AT_ONCE})]


_OWNERS = sa.text("SELECT owner_id FROM engram_lapsed_tasks(:most)")


async def put_away_lapsed(session: Session) -> int:
    """Tasks whose last attempt ended without a word have failed: how many, at most a hundred."""
    found = [row.id for row in await session.execute(lapsed())]
    values = {
        "status": TaskStatus.FAILED.value,
        "lease_expires_at": None,
        "result": {"reason": "The lease of the last attempt ran out."},
    }
    return len(await update(session, TASKS, found, values, action="fail"))


@cache
def lapsed() -> Select[*tuple[Any, ...]]:
    """Claims that have run out and were the last, held; those that somebody holds are left."""
    return (
        readable(TASKS, TASKS.c.id)
        .where(
            has_status(TASKS.c.status, TaskStatus.IN_PROGRESS),
            TASKS.c.lease_expires_at < sa.func.now(),
            TASKS.c.attempts >= TASKS.c.max_attempts,
        )
        .limit(sa.literal_column(str(LAPSED_AT_ONCE)))
        .with_for_update(skip_locked=True, key_share=True)
    )


@cache
def choice(*, in_project: bool, limited: bool) -> Select[*tuple[Any, ...]]:
    """The tasks to claim, held; those that somebody else holds are passed over."""
    worker_id = sa.bindparam("worker_id", type_=sa.Uuid())
    fitting = [sa.or_(TASKS.c.assignee_id.is_(None), TASKS.c.assignee_id == worker_id)]
    if limited:
        able = sa.bindparam("able", type_=ARRAY(sa.Text()))
        untagged = TASKS.c.tags == sa.literal_column("'[]'::jsonb")
        fitting.append(sa.or_(untagged, TASKS.c.tags.op("?|")(able)))
    statement = readable(TASKS, TASKS.c.id).where(ready(TASKS, *fitting))
    if in_project:
        project_id = sa.bindparam("project_id", type_=sa.Uuid())
        statement = statement.where(TASKS.c.project_id == project_id)
    order = (TASKS.c.priority.desc(), TASKS.c.created_at, TASKS.c.number, TASKS.c.id)
    return (
        statement.order_by(*order)
        .limit(sa.bindparam("limit", type_=sa.Integer()))
        .with_for_update(skip_locked=True, key_share=True)
    )
