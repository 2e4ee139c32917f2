"""Changing tasks: one or many, by the same few statements.

The tasks are held first, so what is found to be right about them still is when they are written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from db.changes import IDS, Record, update_each
from db.models.work import Project, Task, TaskStatus
from db.recording import shown
from db.refusals import Invalid, Missing, Refused, Several, Stale
from db.repositories.work_tasks import Item, check_workers, live_workers, named, projects_of
from db.repositories.work_trees import ancestry, lock_projects, on_cycles
from db.scope import readable
from db.session import Session

PROJECTS = Project.__table__
TASKS = Task.__table__


@dataclass(kw_only=True)
class TaskChange(Item):
    """What to change in a task."""

    id: UUID | None
    """None when what was given is no id, which a violation says."""
    expected_version: int | None = None
    refusals: list[Refused] = field(default_factory=list)
    current: Record | None = None

    @property
    def moves(self) -> bool:
        """Whether it gets another parent."""
        return self.current is not None and (
            self.values.get("parent_id", self.current.parent_id) != self.current.parent_id
        )

    @property
    def refused(self) -> list[Refused]:
        """Why it cannot be done; empty when it can."""
        return [*self.refusals, *([Invalid(self.violations)] if self.violations else [])]


async def update_tasks(
    session: Session, changes: Sequence[TaskChange], *, all_or_nothing: bool
) -> list[Record | None]:
    """Change tasks; None stands for those that are refused, whose `refused` says why.

    Raises the refusals of all of them when one is refused and `all_or_nothing`.
    """
    moving = [change.id for change in changes if "parent_id" in change.values and change.id]
    if moving:
        await lock_projects(session, (await projects_of(session, moving)).values())
    await _lock_tasks(session, changes)
    workers, _ = await live_workers(session, named(changes, "assignee_id"))
    for change in changes:
        check_workers(change, workers)
    await _check_moves(session, changes)
    _check_attempts(changes)
    refused = [refusal for change in changes for refusal in change.refused]
    if refused and all_or_nothing:
        raise refused[0] if len(refused) == 1 else Several(refused)
    writes = [
        (change.current.id, None, change.values | _follow(change.current, change.values))
        for change in changes
        if change.current is not None and not change.refused and change.values
    ]
    written: dict[UUID, Any] = {
        row.id: row
        for row in await update_each(session, TASKS, writes)
        if not isinstance(row, Refused)
    }
    return [
        None
        if change.refused or change.current is None
        else written.get(change.current.id, change.current)
        for change in changes
    ]


async def _lock_tasks(session: Session, changes: Sequence[TaskChange]) -> None:
    """Find the tasks as they are, held until the transaction ends."""
    ids = list({change.id for change in changes if change.id is not None})
    rows = {row.id: row for row in await session.execute(_LOCKED, {"ids": ids})}
    seen: set[UUID] = set()
    for change in changes:
        if change.id is None:
            continue
        current = rows.get(change.id)
        if change.id in seen:
            change.refuse("id", "unique", "This task stands earlier in the list.")
        elif current is None:
            change.refusals.append(Missing("task", (*change.path, "id")))
        elif change.expected_version not in (None, current.version):
            change.refusals.append(Stale("task", current._asdict(), change.path))
        else:
            change.current = current
        seen.add(change.id)


_LOCKED = (
    readable(TASKS, *shown(TASKS))
    .where(TASKS.c.id == sa.any_(IDS))
    .order_by(TASKS.c.id)
    .with_for_update(key_share=True)
)


async def _check_moves(session: Session, changes: Sequence[TaskChange]) -> None:
    """Parents exist, in the same project, and no task ends up above itself."""
    moves = [change for change in changes if change.moves]
    line = await ancestry(session, named(moves, "parent_id"))
    for change in moves:
        parent = change.values["parent_id"]
        if parent is None:
            continue
        if parent not in line:
            change.refuse("parent_id", "reference", "There is no task with this id.")
        elif change.current is not None and line[parent].project_id != change.current.project_id:
            change.refuse("parent_id", "same_project", "The parent must be in the same project.")
    while True:
        going = {change.id: change for change in moves if not change.refused and change.id}
        parents = {id: row.parent_id for id, row in line.items()}
        parents |= {id: change.values["parent_id"] for id, change in going.items()}
        cycles = on_cycles(parents)
        circling = [change for id, change in going.items() if id in cycles]
        if not circling:
            return
        # What is refused stays where it is, which may close another circle.
        for change in circling:
            change.refuse("parent_id", "cycle", "A task must not be below itself.")


def _check_attempts(changes: Sequence[TaskChange]) -> None:
    """A pending task has attempts left: else nobody would ever claim it, and it never fails."""
    for change in changes:
        if change.current is None:
            continue
        old = change.current
        new = {**old._asdict(), **change.values, **_follow(old, change.values)}
        if new["status"] == TaskStatus.PENDING and new["attempts"] >= new["max_attempts"]:
            message = (
                f"A pending task needs more than the {old.attempts} attempts it has had: allow"
                " more, or set its status to FAILED."
            )
            change.refuse("max_attempts", "attempts", message, str(old.attempts))


def _follow(current: Record, values: Mapping[str, Any]) -> dict[str, Any]:
    """What else changes with the status: nobody goes on with a task that is taken away."""
    status = values.get("status", current.status)
    if status == current.status:
        return {}
    changed: dict[str, Any] = {}
    if current.lease_expires_at is not None:
        changed |= {"lease_expires_at": None, "claim_epoch": current.claim_epoch + 1}
    if status in (TaskStatus.PENDING, TaskStatus.IN_PROGRESS, TaskStatus.BLOCKED):
        changed["claimed_by_id"] = None
    if status == TaskStatus.PENDING:
        changed["attempts"] = 0
    return changed


# Reading what changed.


async def moment_in(session: Session, project_id: UUID) -> datetime | None:
    """PostgreSQL's time; None when the project is not there."""
    found: datetime | None = await session.scalar(_MOMENT, {"id": project_id})
    return found


_MOMENT = readable(PROJECTS, sa.func.clock_timestamp()).where(
    PROJECTS.c.id == sa.bindparam("id", type_=sa.Uuid())
)


async def changed_since(session: Session, project_id: UUID, moment: datetime) -> dict[UUID, int]:
    """The tasks of a project, deleted ones too, whose last change began after a moment.

    With their versions, in the order of the changes.
    """
    parameters = {"project_id": project_id, "moment": moment}
    return {row.id: row.version for row in await session.execute(_CHANGED, parameters)}


_CHANGED = (
    readable(TASKS, TASKS.c.id, TASKS.c.version, deleted=None)
    .where(
        TASKS.c.project_id == sa.bindparam("project_id", type_=sa.Uuid()),
        TASKS.c.updated_at > sa.bindparam("moment", type_=sa.DateTime(timezone=True)),
    )
    .order_by(TASKS.c.updated_at, TASKS.c.id)
)
