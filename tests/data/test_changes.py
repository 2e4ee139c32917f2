"""Every write stores its audit event, in one statement."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from db.changes import Record, insert, remove, update, update_each, update_one
from db.models.accounts import LoginSession
from db.models.conversations import ConversationFields
from db.models.work import TaskDependency
from db.refusals import Missing, Refused, Stale
from db.scope import readable
from tests.conftest import OpenSession
from tests.data.rows import (
    CONVERSATIONS,
    MESSAGES,
    PROJECTS,
    TASKS,
    USERS,
    WORKERS,
    events,
    project_with_tasks,
    sign_up,
)

DEPENDENCIES = TaskDependency.__table__
LOGINS = LoginSession.__table__


def done(answer: Record | Refused) -> Record:
    """The row of a change that was made."""
    assert not isinstance(answer, Refused)
    return answer


async def test_insert_fills_defaults_keeps_order_and_records_whole_rows(
    open_session: OpenSession,
) -> None:
    session = open_session(None)
    await sign_up(session)
    async with session.transaction():
        rows = await insert(
            session,
            WORKERS,
            [{"name": f"w{n}", **({"capabilities": ["x"]} if n % 2 else {})} for n in range(5)],
        )
    assert [row.name for row in rows] == ["w0", "w1", "w2", "w3", "w4"]
    assert [row.capabilities for row in rows] == [[], ["x"], [], ["x"], []]
    assert {(row.kind, row.version, row.owner_id) for row in rows} == {
        ("agent", 1, session.owner_id)
    }
    (event,) = await events(session, rows[1].id)
    assert (event.action, event.entity_type, event.before) == ("create", "worker", None)
    assert event.after["name"] == "w1"
    assert event.after["capabilities"] == ["x"]
    assert event.after["deleted_at"] is None
    assert (event.actor_kind, event.actor_id) == ("user", session.owner_id)
    assert event.request_id == "test"


async def test_a_thousand_rows_are_one_statement(
    open_session: OpenSession, statements: list[str]
) -> None:
    session = open_session(None)
    await sign_up(session)
    async with session.transaction():
        statements.clear()
        rows = await insert(session, WORKERS, [{"name": f"w{n}"} for n in range(1000)])
        changes = [(row.id, row.version, {"name": f"v{n}"}) for n, row in enumerate(rows)]
        changed = await update_each(session, WORKERS, changes)
        assert len(statements) == 2
    assert [done(row).name for row in changed] == [f"v{n}" for n in range(1000)]


async def test_any_value_survives(open_session: OpenSession) -> None:
    session = open_session(None)
    await sign_up(session)
    soon = datetime.now(UTC) + timedelta(hours=1)
    odd = {"quote": "'\"\\", "deep": [{"a": [1, 2.5, None, True]}], "ü": "🦊\n\t", "n": 2**70}
    async with session.transaction():
        (login,) = await insert(
            session,
            LOGINS,
            [{"token_hash": bytes(range(32)), "ip": "2001:db8::1", "expires_at": soon}],
        )
        (conversation,) = await insert(
            session, CONVERSATIONS, [{"title": "a'b\\c", "metadata": odd, "tags": ["ä", "'"]}]
        )
    assert login.token_hash == bytes(range(32))
    assert login.expires_at == soon
    assert str(login.ip) == "2001:db8::1"
    assert conversation.metadata == odd
    assert conversation.title == "a'b\\c"
    (event,) = await events(session, login.id)
    assert "token_hash" not in event.after


async def test_update_records_only_what_changed(open_session: OpenSession) -> None:
    session = open_session(None)
    await sign_up(session)
    _, (task, *_) = await project_with_tasks(session, 1)
    async with session.transaction():
        row = await update_one(
            session, TASKS, task.id, {"title": "Other", "priority": task.priority}
        )
    assert (row.title, row.version) == ("Other", 2)
    assert row.updated_at > task.updated_at
    _, event = await events(session, task.id)
    assert event.before.keys() == event.after.keys() == {"title", "version", "updated_at"}
    assert (event.before["title"], event.after["title"]) == ("Task 0", "Other")
    assert (event.before["version"], event.after["version"]) == (1, 2)


async def test_null_is_sqls_null(open_session: OpenSession) -> None:
    session = open_session(None)
    await sign_up(session)
    _, (task, *_) = await project_with_tasks(session, 1)
    async with session.transaction():
        full = await update_one(session, TASKS, task.id, {"result": {"a": None}})
        empty = await update_one(session, TASKS, task.id, {"result": None})
        again = await update_each(session, TASKS, [(task.id, None, {"result": None})])
    assert full.result == {"a": None}
    assert empty.result is None
    assert done(again[0]).result is None
    assert await session.scalar(readable(TASKS, TASKS.c.result.is_(sa.null()))) is True


async def test_values_may_be_expressions(open_session: OpenSession) -> None:
    session = open_session(None)
    await sign_up(session)
    _, tasks = await project_with_tasks(session, 3)
    async with session.transaction():
        rows = await update(
            session,
            TASKS,
            [task.id for task in reversed(tasks)],
            {"attempts": TASKS.c.attempts + 1},
            where=TASKS.c.number < 3,
            action="claim",
        )
    assert [row.number for row in rows] == [2, 1]
    assert {row.attempts for row in rows} == {1}
    assert (await events(session, tasks[0].id))[-1].action == "claim"


async def test_missing_and_stale_are_told_apart(open_session: OpenSession) -> None:
    session, other = open_session(None), open_session(None)
    await sign_up(session)
    await sign_up(other)
    _, (task, *_) = await project_with_tasks(session, 1)
    async with session.transaction():
        with pytest.raises(Stale) as stale:
            await update_one(session, TASKS, task.id, {"title": "x"}, expected_version=7)
        assert stale.value.entity == "task"
        assert stale.value.current["version"] == 1
        with pytest.raises(Missing):
            await update_one(session, TASKS, uuid4(), {"title": "x"})
    async with other.transaction():
        with pytest.raises(Missing):
            await update_one(other, TASKS, task.id, {"title": "x"})


async def test_each_change_of_a_bulk_has_its_own_answer(open_session: OpenSession) -> None:
    session = open_session(None)
    await sign_up(session)
    _, tasks = await project_with_tasks(session, 3)
    async with session.transaction():
        answers = await update_each(
            session,
            TASKS,
            [
                (tasks[2].id, 1, {"title": "c", "tags": ["new"]}),
                (uuid4(), None, {"title": "x"}),
                (tasks[0].id, 5, {"title": "a"}),
                (tasks[1].id, None, {"due_at": datetime(2030, 1, 1, tzinfo=UTC)}),
            ],
        )
    third, second = done(answers[0]), done(answers[3])
    _, missing, stale, _ = answers
    assert (third.title, third.tags, third.version) == ("c", ["new"], 2)
    assert isinstance(missing, Missing)
    assert isinstance(stale, Stale)
    assert (second.title, second.due_at.year, second.version) == ("Task 1", 2030, 2)
    _, event = await events(session, tasks[1].id)
    assert event.after.keys() == {"due_at", "version", "updated_at"}
    with pytest.raises(ValueError, match="one change per row"):
        await update_each(session, TASKS, [(tasks[0].id, None, {}), (tasks[0].id, None, {})])


async def test_bookkeeping_is_no_change(open_session: OpenSession) -> None:
    session = open_session(None)
    await sign_up(session)
    async with session.transaction():
        (worker,) = await insert(session, WORKERS, [{"name": "agent"}])
        row = await update_one(session, WORKERS, worker.id, {"last_heartbeat_at": sa.func.now()})
    assert row.last_heartbeat_at is not None
    assert row.version == 1
    assert len(await events(session, worker.id)) == 1


async def test_a_secret_changes_without_being_recorded(open_session: OpenSession) -> None:
    session = open_session(None)
    owner_id = await sign_up(session)
    async with session.transaction():
        row = await update_one(session, USERS, owner_id, {"password_hash": "another"})
    assert row.version == 2
    _, event = await events(session, owner_id)
    assert event.after.keys() == {"version", "updated_at"}


async def test_remove_records_what_was(open_session: OpenSession) -> None:
    session = open_session(None)
    await sign_up(session)
    _, (one, two) = await project_with_tasks(session, 2)
    async with session.transaction():
        (edge,) = await insert(
            session, DEPENDENCIES, [{"task_id": one.id, "depends_on_id": two.id}]
        )
        assert await remove(session, DEPENDENCIES, [edge.id, uuid4()]) == 1
    _, event = await events(session, edge.id)
    assert (event.action, event.after) == ("delete", None)
    assert event.before["task_id"] == str(one.id)


async def test_a_write_without_author_is_an_error(open_session: OpenSession) -> None:
    session = open_session(None)
    await sign_up(session)
    session.author = None
    async with session.transaction():
        with pytest.raises(RuntimeError, match="author"):
            await insert(session, WORKERS, [{"name": "x"}])


async def test_links_across_owners_cannot_be_stored(open_session: OpenSession) -> None:
    mine, theirs = open_session(None), open_session(None)
    await sign_up(mine)
    await sign_up(theirs)
    project_id, _ = await project_with_tasks(theirs, 1)
    async with mine.transaction() as transaction:
        (worker,) = await insert(mine, WORKERS, [{"name": "me"}])
        task = {"number": 1, "title": "x", "created_by_id": worker.id}
        with pytest.raises(IntegrityError, match="fk_tasks_project_id"):
            await insert(mine, TASKS, [{**task, "project_id": project_id}])
        transaction.refuse()


async def test_a_row_is_its_sessions_owners_whatever_it_says(open_session: OpenSession) -> None:
    mine, theirs = open_session(None), open_session(None)
    await sign_up(mine)
    other = await sign_up(theirs)
    async with mine.transaction():
        (row,) = await insert(mine, WORKERS, [{"name": "x", "owner_id": other}])
    assert row.owner_id == mine.owner_id


async def test_a_messages_parent_is_in_its_conversation(open_session: OpenSession) -> None:
    session = open_session(None)
    await sign_up(session)
    async with session.transaction():
        one, two = await insert(session, CONVERSATIONS, [{}, {}])
        (root,) = await insert(
            session, MESSAGES, [{"conversation_id": one.id, "depth": 0, "role": "user"}]
        )
    reply = {"parent_id": root.id, "depth": 1, "role": "assistant"}
    async with session.transaction():
        (child,) = await insert(session, MESSAGES, [{"conversation_id": one.id, **reply}])
        await update_one(session, CONVERSATIONS, one.id, {"active_leaf_id": child.id})
    with pytest.raises(IntegrityError, match="fk_messages_parent_id"):
        async with session.transaction():
            await insert(session, MESSAGES, [{"conversation_id": two.id, **reply}])
    with pytest.raises(IntegrityError, match="fk_conversations_active_leaf_id"):
        async with session.transaction():
            await update_one(session, CONVERSATIONS, two.id, {"active_leaf_id": child.id})


@pytest.mark.parametrize(
    ("values", "check"),
    [
        ({"tags": ["x"] * 51}, "ck_conversations_tags"),
        ({"tags": [1]}, "ck_conversations_tags"),
        ({"tags": [""]}, "ck_conversations_tags"),
        ({"tags": ["x" * 101]}, "ck_conversations_tags"),
        ({"tags": {"a": "b"}}, "ck_conversations_tags"),
        ({"metadata": []}, "ck_conversations_metadata"),
        ({"metadata": {"a": "x" * 65_536}}, "ck_conversations_metadata"),
        ({"title": ""}, "ck_conversations_title"),
    ],
)
async def test_checks_hold_what_the_fields_say(
    open_session: OpenSession, values: dict[str, object], check: str
) -> None:
    session = open_session(None)
    await sign_up(session)
    with pytest.raises(IntegrityError, match=check):
        async with session.transaction():
            await insert(session, CONVERSATIONS, [values])


async def test_the_json_bounds_of_fields_and_checks_agree(open_session: OpenSession) -> None:
    session = open_session(None)
    await sign_up(session)

    def nested(levels: int) -> object:
        value: object = 1
        for level in range(levels):
            value = {"a": value} if level % 2 else [value]
        return value

    candidates: list[dict[str, object]] = [
        {"a": nested(31)},
        {"a": nested(32)},
        {"a": "x" * 65_527},
        {"a": "x" * 65_528},
        {"a": "ü\n\x01\\" * 5000, "b": "x" * 10_527},
        {"a": "ü\n\x01\\" * 5000, "b": "x" * 10_528},
        {"a": [1e300] * 216},
        {"a": [1e300] * 220},
        {"a": [0.1, -2.5e-7, 10**20, True, False, None, [], {}]},
    ]
    for value in candidates:
        try:
            ConversationFields.model_validate({"metadata": value})
            valid = True
        except ValueError:
            valid = False
        stored = True
        try:
            async with session.transaction():
                await insert(session, CONVERSATIONS, [{"metadata": value}])
        except IntegrityError:
            stored = False
        assert valid == stored, json.dumps(value)[:80]


async def test_concurrent_bulk_updates_do_not_deadlock(open_session: OpenSession) -> None:
    session = open_session(None)
    owner_id = await sign_up(session)
    _, tasks = await project_with_tasks(session, 40)
    ids = [task.id for task in tasks]

    async def write(order: Sequence[UUID], title: str) -> None:
        one = open_session(owner_id)
        for _ in range(10):
            async with one.transaction():
                await update_each(one, TASKS, [(id_, None, {"title": title}) for id_ in order])
                await asyncio.sleep(0)
        await one.close()

    await asyncio.gather(*(write(ids[::step], str(step)) for step in (1, -1, 1, -1)))
    titles = await session.execute(readable(TASKS, TASKS.c.title).distinct())
    assert len(titles) == 1


async def test_keys_are_unique_per_owner(open_session: OpenSession) -> None:
    mine, theirs = open_session(None), open_session(None)
    for session in (mine, theirs):
        await sign_up(session)
        async with session.transaction():
            await insert(session, PROJECTS, [{"key": "SAME", "name": "x"}])
    with pytest.raises(IntegrityError, match="uq_projects_owner_id_key"):
        async with mine.transaction():
            await insert(mine, PROJECTS, [{"key": "SAME", "name": "y"}])
