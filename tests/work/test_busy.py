"""Rows that somebody else holds for long: a problem that says so, and no fault."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from db.session import SessionOptions
from schema import ids
from tests.people import Person
from tests.work.asking import done, mutate, new_project, new_task

BUSY = {
    "__typename": "RateLimited",
    "code": "RATE_LIMITED",
    "message": "The row is busy: try again.",
    "path": None,
}


@pytest.mark.parametrize(
    ("mutation", "values"),
    [
        ("updateTask", {"title": "changed"}),
        ("deleteTask", {}),
    ],
)
async def test_a_row_that_is_locked_elsewhere_is_a_problem_that_says_so(
    person: Person, admin_engine: AsyncEngine, mutation: str, values: dict[str, Any]
) -> None:
    task = await new_task(person, await new_project(person))
    hurried = replace(
        person,
        services=replace(person.services, options=SessionOptions(lock_timeout_ms=100)),
    )
    given = {"id": task, "expectedVersion": 1, "idempotencyKey": mutation, **values}
    async with admin_engine.connect() as holder:
        await holder.execute(text("BEGIN"))
        await holder.execute(
            text("SELECT 1 FROM tasks WHERE id = :id FOR UPDATE"), {"id": ids.decode(task)[1]}
        )
        with capture_logs() as logs:
            answer = await mutate(hurried, mutation, "task { version }", **given)
        await holder.execute(text("ROLLBACK"))
    assert answer == {"task": None, "problems": [BUSY]}
    assert logs == []
    # nothing was kept under the key: the same request goes through
    again = await done(hurried, mutation, "task { version }", **given)
    assert again["task"] == {"version": 2}


async def test_the_same_request_that_takes_long_elsewhere_is_a_problem_that_says_so(
    person: Person, admin_engine: AsyncEngine
) -> None:
    hurried = replace(
        person,
        services=replace(person.services, options=SessionOptions(lock_timeout_ms=100)),
    )
    claimed = text(
        "INSERT INTO idempotency_keys (owner_id, operation, key, request_sha256, expires_at)"
        " VALUES (:owner_id, 'createProject', 'k', sha256(''), now() + interval '1 day')"
    )
    given = {"key": "ENG", "name": "Engine", "idempotencyKey": "k"}
    async with admin_engine.connect() as holder:
        await holder.execute(text("BEGIN"))
        await holder.execute(claimed, {"owner_id": person.owner_id})
        answer = await mutate(hurried, "createProject", "project { id }", **given)
        await holder.execute(text("ROLLBACK"))
    assert answer == {"project": None, "problems": [BUSY]}
    assert (await done(hurried, "createProject", "project { key }", **given))["project"] == {
        "key": "ENG"
    }
