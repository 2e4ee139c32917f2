"""What a new embedded database holds: one person's conversations, documents and projects.

`data.toml` says what; here it is written as a client's requests would be, through the repositories,
so that every row has its audit event.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from db.changes import Record
from db.refusals import Invalid
from db.repositories import accounts, conversations, knowledge, work, work_claimed
from db.repositories import work_claims as claims
from db.repositories import work_dependencies as dependencies
from db.repositories import work_tasks as tasks
from db.repositories.work_claimed import Claimed
from db.session import Author, Session, SessionOptions
from db.uuid7 import uuid7
from server.passwords import Argon2Passwords

__all__ = ["EMAIL", "PASSWORD", "load"]

EMAIL = "demo@engram.local"
PASSWORD = "engram-demo"  # noqa: S105  # anybody may know it: the data is nobody's

DATA = Path(__file__).parent / "data.toml"
LEASE = timedelta(days=7)
"""How long the demo's agent holds its task: long enough to be seen."""
Values = Mapping[str, Any]


async def load(engine: AsyncEngine, options: SessionOptions) -> None:
    """Store the demo person and all that is theirs, or nothing if they exist already."""
    data = tomllib.loads(DATA.read_text(encoding="utf-8"))
    passwords = Argon2Passwords()
    password_hash = await passwords.hash(PASSWORD)
    passwords.close()
    owner_id = uuid7()
    person = {**data["person"], "id": owner_id, "email": EMAIL, "password_hash": password_hash}
    author = Author("user", owner_id, "demo")
    async with Session(engine, owner_id, options, author=author) as session:
        try:
            async with session.transaction():
                await accounts.create(session, person)
                for conversation in data["conversations"]:
                    await _conversation(session, conversation)
                await _documents(session, data["documents"])
                await _projects(session, data["projects"], data["agent"])
        except Invalid as refused:
            if refused.violations[0].path != ("email",):
                raise
            # another process started at the same time and was quicker


async def _conversation(session: Session, given: Values) -> None:
    names = ("title", "tags", "metadata")
    stored = await conversations.create_conversation(session, _only(given, names), id=_id(given))
    ids: dict[str, UUID] = {}
    for message in given["messages"]:
        ids[message["name"]] = await _message(session, stored.id, message, ids)
    if "shows" in given:
        await conversations.set_active_leaf(session, stored.id, ids[given["shows"]], None)
    if given.get("pinned"):
        await conversations.update_conversation(session, stored.id, {"pinned": True}, None)
    if given.get("archived"):
        await conversations.archive_conversation(session, stored.id, True, None)
    if given.get("deleted"):
        await conversations.delete_conversation(session, stored.id, None)


async def _message(
    session: Session, conversation_id: UUID, given: Values, ids: Mapping[str, UUID]
) -> UUID:
    """Add a message after the one before it, or beside the one that it is a variant of."""
    names = ("role", "status", "content", "model", "input_tokens", "output_tokens")
    values, parts = _only(given, names), given.get("parts", [])
    if "variant_of" in given:
        original = ids[given["variant_of"]]
        added = await conversations.edit_message(session, original, values, parts)
    else:
        added = await conversations.append_message(session, conversation_id, values, parts)
    return added.message.id  # type: ignore[no-any-return]  # a column of a row


async def _documents(session: Session, given: Sequence[Values]) -> None:
    names = ("title", "kind", "content", "source_uri", "mime_type", "author", "metadata")
    rows = await knowledge.create_documents(
        session, [_only(document, names) for document in given], [("id",)] * len(given)
    )
    for row, document in zip(rows, given, strict=True):
        if document.get("deleted"):
            await knowledge.delete_document(session, row.id, None)


async def _projects(session: Session, given: Sequence[Values], agent: Values) -> None:
    _, human = await tasks.live_workers(session, [])
    worker = (await work.create_worker(session, agent)).id
    names = ("key", "name", "description")
    ids: dict[str, UUID] = {}
    for project in given:
        stored = await work.create_project(session, _only(project, names), id=_id(project))
        ids |= await _tasks(session, stored.id, project["tasks"], human, worker)
        for task in project["tasks"]:
            for other in task.get("waits_for", []):
                await dependencies.add_dependency(session, ids[task["name"]], ids[other])
        await _claims(session, stored.id, project["tasks"], ids, worker)
        for task in project["tasks"]:
            if task.get("deleted"):
                await tasks.delete_task(session, ids[task["name"]], None)


async def _tasks(
    session: Session, project_id: UUID, given: Sequence[Values], human: UUID | None, worker: UUID
) -> dict[str, UUID]:
    """Store a project's tasks; their ids by name."""
    columns = ("title", "description", "status", "priority", "tags")
    places = {task["name"]: place for place, task in enumerate(given)}
    new = []
    for place, task in enumerate(given):
        assignee = worker if task.get("for_agent") else human
        values = _only(task, columns) | {"project_id": project_id, "assignee_id": assignee}
        if "due_in_days" in task:
            values["due_at"] = datetime.now(UTC) + timedelta(days=task["due_in_days"])
        parent = places[task["under"]] if "under" in task else None
        path = ("tasks", str(place))
        new.append(tasks.NewTask(path=path, values=values, parent_index=parent))
    rows = await tasks.create_tasks(session, new)
    return {name: row.id for name, row in zip(places, rows, strict=True)}


async def _claims(
    session: Session,
    project_id: UUID,
    given: Sequence[Values],
    ids: Mapping[str, UUID],
    worker: UUID,
) -> None:
    """Let the agent claim what it is said to have claimed, and say what came of it."""
    outcomes = {ids[task["name"]]: task["claim"] for task in given if "claim" in task}
    if not outcomes:
        return
    claimed = await claims.claim_tasks(
        session,
        worker,
        project_id=project_id,
        limit=len(outcomes),
        lease=LEASE,
        capabilities=None,
    )
    for task in claimed:
        outcome = outcomes[task.id]
        if outcome["ends"] == "done":
            await work_claimed.complete(session, [_ended(task, outcome)])
        elif outcome["ends"] == "failed":
            await work_claimed.fail(session, [_ended(task, outcome)])


def _ended(task: Record, outcome: Values) -> Claimed:
    minutes = outcome.get("pause_minutes", 0)
    return Claimed(
        id=task.id,
        epoch=task.claim_epoch,
        result=outcome["result"],
        pause=timedelta(minutes=minutes),
    )


def _only(given: Values, names: Sequence[str]) -> dict[str, Any]:
    return {name: given[name] for name in names if name in given}


def _id(given: Values) -> UUID | None:
    """The id of what README's examples name."""
    return UUID(given["id"]) if "id" in given else None
