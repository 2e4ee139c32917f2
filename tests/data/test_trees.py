"""Deleting, restoring and erasing trees."""

import asyncio
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from db.changes import insert
from db.erasure import erase_account
from db.models import metadata
from db.models.conversations import MessagePart
from db.models.work import TaskDependency
from db.refusals import Invalid, Missing, Stale
from db.scope import readable
from db.session import Session
from db.trees import delete_tree, hold, members, restore_tree
from tests.conftest import OpenSession
from tests.data.rows import (
    CONVERSATIONS,
    EVENTS,
    MESSAGES,
    PROJECTS,
    TASKS,
    WORKERS,
    events,
    project_with_tasks,
    sign_up,
)

PARTS = MessagePart.__table__
DEPENDENCIES = TaskDependency.__table__


async def live(session: Session, table: sa.Table) -> set[UUID]:
    """The ids of the owner's live rows."""
    rows = await session.execute(readable(table, table.c.id))
    await session.end_snapshot()
    return {row.id for row in rows}


def test_trees_follow_the_foreign_keys() -> None:
    assert [one.name for one in members(PROJECTS)] == ["projects", "tasks"]
    assert [one.name for one in members(TASKS)] == ["tasks"]
    assert [one.name for one in members(CONVERSATIONS)] == [
        "conversations",
        "messages",
        "generations",
        "citations",
        "message_parts",
    ]
    assert [one.name for one in members(WORKERS)] == ["workers"]


async def test_restore_brings_back_exactly_what_the_delete_took(open_session: OpenSession) -> None:
    session = open_session(None)
    await sign_up(session)
    project_id, tasks = await project_with_tasks(session, 30)
    by_number = {task.number: task.id for task in tasks}
    async with session.transaction():
        await delete_tree(session, TASKS, by_number[9])  # takes its subtask 10 along
        await delete_tree(session, TASKS, by_number[5])
    before = await live(session, TASKS)
    assert before == {task.id for task in tasks} - {by_number[n] for n in (5, 9, 10)}

    async with session.transaction():
        project = await delete_tree(session, PROJECTS, project_id, expected_version=1)
    assert project.deleted_at is not None
    assert project.version == 2
    assert await live(session, TASKS) == set()
    assert await live(session, PROJECTS) == set()

    async with session.transaction():
        project = await restore_tree(session, PROJECTS, project_id, expected_version=2)
    assert (project.deleted_at, project.deletion_id, project.version) == (None, None, 3)
    assert await live(session, TASKS) == before

    async with session.transaction():
        await restore_tree(session, TASKS, by_number[9])
    assert await live(session, TASKS) == before | {by_number[9], by_number[10]}
    assert [event.action for event in await events(session, by_number[10])] == [
        "create",
        "delete",
        "restore",
    ]
    assert (await events(session, project_id))[1].after.keys() == {
        "deleted_at",
        "deletion_id",
        "version",
        "updated_at",
    }


async def test_a_conversation_goes_with_its_messages_and_their_parts(
    open_session: OpenSession,
) -> None:
    session = open_session(None)
    await sign_up(session)
    async with session.transaction():
        (conversation,) = await insert(session, CONVERSATIONS, [{}])
        (message,) = await insert(
            session, MESSAGES, [{"conversation_id": conversation.id, "depth": 0, "role": "user"}]
        )
        await insert(session, PARTS, [{"message_id": message.id, "position": 0, "type": "text"}])
    async with session.transaction():
        await delete_tree(session, CONVERSATIONS, conversation.id)
    for table in (CONVERSATIONS, MESSAGES, PARTS):
        assert await live(session, table) == set()
    async with session.transaction():
        await restore_tree(session, CONVERSATIONS, conversation.id)
    for table in (CONVERSATIONS, MESSAGES, PARTS):
        assert len(await live(session, table)) == 1


async def test_what_belongs_to_a_deleted_row_stays_deleted(open_session: OpenSession) -> None:
    session = open_session(None)
    await sign_up(session)
    project_id, tasks = await project_with_tasks(session, 10)
    parent, child = tasks[8], tasks[9]
    async with session.transaction():
        await delete_tree(session, TASKS, child.id)
        await delete_tree(session, TASKS, parent.id)
    async with session.transaction():
        with pytest.raises(Invalid, match="Its task is deleted"):
            await restore_tree(session, TASKS, child.id)
        await delete_tree(session, PROJECTS, project_id)
        with pytest.raises(Invalid, match="Its project is deleted"):
            await restore_tree(session, TASKS, parent.id)
        # Taken by the project's delete, so not to be had one by one.
        with pytest.raises(Invalid, match="Its project is deleted"):
            await restore_tree(session, TASKS, tasks[0].id)


async def test_deletes_and_restores_are_refused_like_updates(open_session: OpenSession) -> None:
    session, other = open_session(None), open_session(None)
    await sign_up(session)
    await sign_up(other)
    project_id, _ = await project_with_tasks(session, 1)
    async with session.transaction():
        with pytest.raises(Stale):
            await delete_tree(session, PROJECTS, project_id, expected_version=9)
        restored = await restore_tree(session, PROJECTS, project_id)
        assert restored.version == 1, "restoring a live row changes nothing"
        await delete_tree(session, PROJECTS, project_id, expected_version=1)
        with pytest.raises(Missing):
            await delete_tree(session, PROJECTS, project_id)
        with pytest.raises(Stale):
            await restore_tree(session, PROJECTS, project_id, expected_version=1)
    async with other.transaction():
        for act in (delete_tree, restore_tree):
            with pytest.raises(Missing):
                await act(other, PROJECTS, project_id)


async def test_nothing_can_be_added_to_what_is_being_deleted(open_session: OpenSession) -> None:
    session = open_session(None)
    owner_id = await sign_up(session)
    project_id, _ = await project_with_tasks(session, 1)
    writer = open_session(owner_id)
    async with writer.transaction():
        assert (await hold(writer, PROJECTS, project_id)).id == project_id
        deleting = asyncio.create_task(_delete_project(session, project_id))
        await asyncio.sleep(0.1)
        assert not deleting.done()
    await deleting
    async with writer.transaction():
        with pytest.raises(Missing) as missing:
            await hold(writer, PROJECTS, project_id, ("project_id",))
    assert missing.value.path == ("project_id",)


async def _delete_project(session: Session, project_id: UUID) -> None:
    async with session.transaction():
        await delete_tree(session, PROJECTS, project_id)


async def test_ten_thousand_tasks_in_seconds_and_few_statements(
    open_session: OpenSession, statements: list[str], admin_engine: AsyncEngine
) -> None:
    session = open_session(None)
    owner_id = await sign_up(session)
    project_id, tasks = await project_with_tasks(session, 10_000)
    edge = {"task_id": tasks[0].id, "depends_on_id": tasks[1].id}
    async with session.transaction():
        await insert(session, DEPENDENCIES, [edge])

    async def done(act: str) -> None:
        statements.clear()
        async with session.transaction():
            if act == "delete":
                await delete_tree(session, PROJECTS, project_id)
            elif act == "restore":
                await restore_tree(session, PROJECTS, project_id)
            else:
                assert await erase_account(session)
        # Erasing also locks the account, and counts before and after.
        assert len(statements) <= (5 if act == "erase" else 3)

    await done("delete")
    assert await live(session, TASKS) == set()
    await done("restore")
    assert len(await live(session, TASKS)) == 10_000
    recorded = readable(EVENTS, sa.func.count()).where(EVENTS.c.action == "restore")
    assert await session.scalar(recorded) == 10_001
    await session.end_snapshot()
    await done("erase")

    async with admin_engine.connect() as connection:
        for table in metadata.sorted_tables:
            if table.info["shared"]:
                continue
            owner = table.c["owner_id" if "owner_id" in table.c else "id"]
            left = sa.select(sa.func.count()).select_from(table).where(owner == owner_id)
            assert await connection.scalar(left) == 0, table.name


async def test_an_account_erases_without_the_help_of_deferred_checks(
    open_session: OpenSession, admin_engine: AsyncEngine
) -> None:
    session = open_session(None)
    owner_id = await sign_up(session)
    await project_with_tasks(session, 20)
    async with session.transaction():
        (conversation,) = await insert(session, CONVERSATIONS, [{}])
        root = {"conversation_id": conversation.id, "depth": 0, "role": "user"}
        (message,) = await insert(session, MESSAGES, [root])
        await insert(session, MESSAGES, [{**root, "parent_id": message.id, "depth": 1}])
    async with admin_engine.connect() as connection:
        await connection.execute(
            sa.text("DELETE FROM users WHERE id = :owner_id"), {"owner_id": owner_id}
        )
