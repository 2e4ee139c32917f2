"""Rows to test with, stored the way the application stores them."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa

from db.changes import Record, insert
from db.models.accounts import User
from db.models.conversations import Conversation, Message
from db.models.journal import AuditEvent
from db.models.work import Project, Task, Worker
from db.scope import readable
from db.session import Author, Session

USERS = User.__table__
CONVERSATIONS = Conversation.__table__
MESSAGES = Message.__table__
PROJECTS = Project.__table__
WORKERS = Worker.__table__
TASKS = Task.__table__
EVENTS = AuditEvent.__table__


async def sign_up(session: Session) -> UUID:
    """Store a new person as sign-up does; the session is theirs from then on."""
    owner_id = uuid4()
    session.owner_id = owner_id
    session.author = Author("user", owner_id, "test")
    name = f"p{owner_id.hex}"
    user = {"id": owner_id, "username": name, "email": f"{name}@example.org", "password_hash": "x"}
    async with session.transaction():
        await insert(session, USERS, [user])
    return owner_id


async def project_with_tasks(session: Session, count: int) -> tuple[UUID, list[Record]]:
    """A project with tasks of which every tenth is a subtask of the one before."""
    async with session.transaction(statement_timeout_ms=60_000):
        (worker,) = await insert(session, WORKERS, [{"name": "me", "kind": "human"}])
        key = f"P{uuid4().hex[:8].upper()}"
        (project,) = await insert(session, PROJECTS, [{"key": key, "name": "Project"}])
        ids = [uuid4() for _ in range(count)]
        tasks = [
            {
                "id": identifier,
                "project_id": project.id,
                "number": n + 1,
                "title": f"Task {n}",
                "created_by_id": worker.id,
                "parent_id": ids[n - 1] if n % 10 == 9 else None,
            }
            for n, identifier in enumerate(ids)
        ]
        stored: list[Record] = []
        for start in range(0, count, 1000):
            stored += await insert(session, TASKS, tasks[start : start + 1000])
    return project.id, stored


async def events(session: Session, entity_id: UUID) -> Sequence[Any]:
    """The audit events of one row, oldest first."""
    statement = (
        readable(EVENTS)
        .where(EVENTS.c.entity_id == sa.bindparam("entity"))
        .order_by(EVENTS.c.xid, EVENTS.c.id)
    )
    found = await session.execute(statement, {"entity": entity_id})
    await session.end_snapshot()
    return found
