"""The log of slow operations: statements, a plan, and no value."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from server import slow
from server.app import create_app
from server.slow import explain, is_read
from tests.conftest import NewOwner, OpenSession
from tests.edge.conftest import MakeSettings, Served, serving
from tests.edge.waiting import until
from tests.edge.whole import sign_up

SECRET = "the-secret-of-anna"
FIND = (
    "query Find($name: String!) { projects(filter: {name: {contains: $name}})"
    " { nodes { id tasks(first: 3) { nodes { title } } } } }"
)
CREATE = (
    "mutation Create($name: String!)"
    ' { createProject(input: {key: "ENG", name: $name}) { problems { code } } }'
)
Line = MutableMapping[str, Any]


@pytest_asyncio.fixture
async def slowly(make_settings: MakeSettings) -> AsyncIterator[Served]:
    """A server that takes everything for slow."""
    settings = make_settings(slow_operation_ms=1)
    async with serving(create_app(settings)) as served:
        yield served


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow, "PAUSE_SECONDS", -1.0)


def lines(logs: list[Line], name: str) -> list[Line]:
    return [one for one in logs if one["event"] == "slow_operation" and one["name"] == name]


async def test_a_slow_query_has_its_plan_and_no_values(slowly: Served) -> None:
    person = await sign_up(slowly)
    with capture_logs() as logs:
        async with asyncio.timeout(20):
            # the plan of one is asked for at a time, and the sign-up was slow as well
            while not [one for one in lines(logs, "Find") if "plan" in one]:
                await person.ask(FIND, name=SECRET)
                await asyncio.sleep(0.02)
    line = next(one for one in lines(logs, "Find") if "plan" in one)
    assert line["log_level"] == "warning"
    assert line["type"] == "query"
    assert line["milliseconds"] >= 1
    assert line["statements"] >= len(line["slowest"]) >= 1
    assert all(one["sql"].startswith("SELECT") for one in line["slowest"])
    assert all(one["milliseconds"] >= 0 and one["rows"] == 0 for one in line["slowest"])
    # what PostgreSQL would do with any value: of the owner and of the name
    assert "projects" in line["plan"]
    assert "owner_id = $" in line["plan"]
    assert "rows=" in line["plan"]
    assert "actual" not in line["plan"]
    written = json.dumps(logs, default=str)
    assert SECRET not in written
    assert person.token not in written


async def test_a_slow_mutation_has_no_plan_of_a_write(slowly: Served) -> None:
    person = await sign_up(slowly)
    with capture_logs() as logs:
        await person.ask(CREATE, name=SECRET)
        await until(lambda: lines(logs, "Create"))
    [line] = lines(logs, "Create")
    assert any("INSERT INTO projects" in one["sql"] for one in line["slowest"])
    assert "INSERT" not in line.get("plan", "")
    assert SECRET not in json.dumps(logs, default=str)


async def test_what_is_quick_is_not_logged(make_settings: MakeSettings) -> None:
    async with serving(create_app(make_settings(slow_operation_ms=60_000))) as served:
        person = await sign_up(served)
        with capture_logs() as logs:
            await person.ask(FIND, name="x")
    assert lines(logs, "Find") == []


async def test_when_everything_is_slow_few_plans_are_asked_for(
    slowly: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow, "PAUSE_SECONDS", 60.0)
    person = await sign_up(slowly)
    with capture_logs() as logs:
        await asyncio.gather(*(person.ask(FIND, name="x") for _ in range(5)))
        await until(lambda: len(lines(logs, "Find")) == 5)
    assert len([line for line in lines(logs, "Find") if "plan" in line]) <= 1


@pytest.mark.parametrize(
    ("sql", "read"),
    [
        ("SELECT tasks.id FROM tasks", True),
        ("WITH RECURSIVE t AS (SELECT 1) SELECT * FROM t", True),
        ("WITH done AS (UPDATE tasks SET title = $1 RETURNING id) SELECT id FROM done", False),
        ("SELECT id FROM tasks FOR UPDATE", False),
        ("INSERT INTO tasks (id) SELECT $1", False),
        ("select 1 into strange", False),
        ("DELETE FROM tasks", False),
        ("LOCK tasks", False),
    ],
)
def test_only_reads_are_explained(sql: str, read: bool) -> None:
    assert is_read(sql) is read


async def test_a_plan_is_made_for_no_value_and_runs_nothing(
    engine: AsyncEngine, open_session: OpenSession, new_owner: NewOwner
) -> None:
    owner = await new_owner()
    sql = (
        "SELECT t.id, '{\"a:b\": 1}'::jsonb, pg_sleep(60) FROM tasks AS t"
        " WHERE t.owner_id = $1::uuid AND t.title = $3 AND t.priority = ANY ($2::int[])"
    )
    plan = await explain(open_session(owner), sql)
    assert "owner_id = $1" in plan
    assert "title)::text = $3" in plan or "title = $3" in plan
    assert str(owner) not in plan
    async with engine.connect() as connection:
        found = await connection.scalar(
            text(
                "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'engram~_%' ESCAPE '~'"
            )
        )
    assert found == 0
