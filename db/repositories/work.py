"""Writes of projects and workers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from sqlalchemy.exc import IntegrityError

from db.changes import Record, insert_one
from db.constraints import violated
from db.locking import change_one, lock_one
from db.models.work import Project, Worker, WorkerKind
from db.refusals import invalid
from db.repositories.work_trees import lock_projects
from db.session import Session
from db.trees import delete_tree, restore_tree

PROJECTS = Project.__table__
WORKERS = Worker.__table__

_UNIQUE = {
    "uq_projects_owner_id_key": ("key", "Another project, maybe a deleted one, has this key."),
    "pk_tasks": ("id", "Another task has this id."),
}


@contextmanager
def unique_values() -> Iterator[None]:
    """Refuse values that belong to another row. Raises Invalid."""
    try:
        yield
    except IntegrityError as error:
        found = _UNIQUE.get(violated(error) or "")
        if found is None:
            raise
        raise invalid(found[0], "unique", found[1]) from None


async def create_project(
    session: Session, values: Mapping[str, Any], *, id: UUID | None = None
) -> Record:
    """Store a project. Raises Invalid when its key or its id is taken."""
    with unique_values():
        return await insert_one(session, PROJECTS, values, id=id)


async def update_project(
    session: Session, id: UUID, values: Mapping[str, Any], expected_version: int | None
) -> Record:
    """Change a project. Raises Missing, Stale, and Invalid when another one has the key."""
    with unique_values():
        return await change_one(session, PROJECTS, id, values, expected_version=expected_version)


async def delete_project(session: Session, id: UUID, expected_version: int | None) -> Record:
    """Delete a project and its tasks. Raises Missing and Stale."""
    await lock_projects(session, [id])
    return await delete_tree(session, PROJECTS, id, expected_version)


async def restore_project(session: Session, id: UUID, expected_version: int | None) -> Record:
    """Bring back a project and the tasks that were deleted with it. Raises Missing and Stale."""
    await lock_projects(session, [id])
    return await restore_tree(session, PROJECTS, id, expected_version)


async def create_worker(
    session: Session, values: Mapping[str, Any], *, id: UUID | None = None
) -> Record:
    """Store an agent. Raises Invalid when its id is taken."""
    return await insert_one(session, WORKERS, values, id=id)


async def update_worker(
    session: Session, id: UUID, values: Mapping[str, Any], expected_version: int | None
) -> Record:
    """Change a worker. Raises Missing and Stale."""
    return await change_one(session, WORKERS, id, values, expected_version=expected_version)


async def delete_worker(session: Session, id: UUID, expected_version: int | None) -> Record:
    """Delete an agent; tasks go on naming it. Raises Missing, Stale, and Invalid for the user."""
    worker = await lock_one(session, WORKERS, id, expected_version=expected_version)
    if worker.kind == WorkerKind.HUMAN:
        raise invalid("id", "agent", "This worker is you: only agents can be deleted.")
    return await delete_tree(session, WORKERS, id, expected_version)


async def restore_worker(session: Session, id: UUID, expected_version: int | None) -> Record:
    """Bring back an agent. Raises Missing and Stale."""
    return await restore_tree(session, WORKERS, id, expected_version)
