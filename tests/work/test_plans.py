"""How PostgreSQL walks the tasks to claim: by an index, in its order, and no further than asked."""

import re
from typing import Any

import pytest
from sqlalchemy import Select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from db.prepared import PreparedSelect
from db.repositories.work_claims import TASKS, choice, lapsed, ready
from db.scope import readable
from schema import ids
from tests.conftest import NewPerson
from tests.people import Person
from tests.work.asking import new_project

FILL = """
    INSERT INTO tasks (owner_id, project_id, number, title, created_by_id, priority, status)
    SELECT :owner_id, p.id, n, 'x', :worker_id, n % 5,
           CASE WHEN n % 10 = 0 THEN 'done' ELSE 'pending' END
    FROM projects p, generate_series(1, 5000) n WHERE p.owner_id = :owner_id
"""
DONE = """
    INSERT INTO tasks (owner_id, project_id, number, title, created_by_id, priority, status,
                       claim_epoch, attempts, result)
    SELECT :owner_id, p.id, 5000 + n, 'x', :worker_id, n % 5, 'done', 1, 1, '{"done": true}'
    FROM projects p, generate_series(1, 10000) n WHERE p.owner_id = :owner_id
"""
LATER = """
    INSERT INTO tasks (owner_id, project_id, number, title, created_by_id, assignee_id, priority,
                       tags, run_after, attempts, max_attempts, status)
    SELECT :owner_id, p.id, n, 'x', :worker_id, :worker_id, n % 5,
           '["b"]', now() + interval '1 year', 1, 2, 'pending'
    FROM projects p, generate_series(1, 15000) n WHERE p.owner_id = :owner_id
"""
WAIT = """
    INSERT INTO task_dependencies (owner_id, task_id, depends_on_id)
    SELECT t.owner_id, t.id, n.id FROM tasks t, tasks n
    WHERE t.owner_id = :owner_id AND n.owner_id = t.owner_id AND n.project_id = t.project_id
      AND n.number = t.number - 1 AND t.number % 2 = 0
"""
ORDER = (TASKS.c.priority.desc(), TASKS.c.created_at, TASKS.c.number, TASKS.c.id)


async def plan_of(
    person: Person, statement: Select[*tuple[Any, ...]], values: dict[str, Any]
) -> str:
    """What PostgreSQL does for a statement of the application."""
    sql, arguments = PreparedSelect(statement).bind(person.owner_id, values)
    async with person.engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        await driver.execute("BEGIN; SET LOCAL ROLE engram_app")
        await driver.execute(f"SET LOCAL app.owner_id = '{person.owner_id}'")
        lines = await driver.fetch(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) {sql}", *arguments)
        await driver.execute("ROLLBACK")
    return "\n".join(line[0] for line in lines)


@pytest.fixture
async def project(person: Person, admin_engine: AsyncEngine) -> str:
    """One of two projects of 5,000 tasks, most of which are pending, half of them waiting."""
    project = await new_project(person, "ONE")
    await new_project(person, "TWO")
    values = {"owner_id": person.owner_id, "worker_id": person.worker_id}
    async with admin_engine.connect() as connection:
        await connection.execute(text(FILL), values)
        await connection.execute(text("ANALYZE tasks"))
        await connection.execute(text(WAIT), values)
        await connection.execute(text("ANALYZE task_dependencies"))
    return project


async def test_ready_tasks_and_claims_walk_an_index(person: Person, project: str) -> None:
    values = {
        "worker_id": person.worker_id,
        "project_id": ids.decode_as("project", project),
        "able": ["a"],
        "limit": 5,
        "ids": [],
    }
    listed = readable(TASKS, *TASKS.c).where(ready(TASKS)).order_by(*ORDER).limit(5)
    assert "ix_tasks_ready" in (plan := await plan_of(person, listed, values))
    assert "Sort" not in plan, plan
    for in_project in (False, True):
        index = "ix_tasks_project_ready" if in_project else "ix_tasks_ready"
        for limited in (False, True):
            statement = choice(in_project=in_project, limited=limited)
            assert index in (plan := await plan_of(person, statement, values))
            assert "Sort" not in plan, plan


def pages(plan: str) -> int:
    """How many pages of tables and indexes a statement looked at."""
    found = re.search(r"Buffers: shared((?: (?:hit|read)=\d+)+)", plan)
    assert found is not None, plan
    return sum(map(int, re.findall(r"(?:hit|read)=(\d+)", found[1])))


async def test_claims_walk_the_index_also_where_few_tasks_seem_ready(
    person: Person, project: str, new_person: NewPerson, admin_engine: AsyncEngine
) -> None:
    """Statistics are of all people's tasks: those of others may be of quite another kind."""
    other = await new_person()
    await new_project(other)
    values = {
        "worker_id": person.worker_id,
        "project_id": ids.decode_as("project", project),
        "able": ["a"],
        "limit": 100,
    }
    async with admin_engine.connect() as connection:
        await connection.execute(
            text(LATER), {"owner_id": other.owner_id, "worker_id": other.worker_id}
        )
        await connection.execute(text("ANALYZE tasks"))
    for in_project in (False, True):
        for limited in (False, True):
            plan = await plan_of(person, choice(in_project=in_project, limited=limited), values)
            assert "Sort" not in plan, plan
            assert pages(plan) < 4_000, plan


async def test_what_is_done_costs_a_claim_nothing(
    person: Person, project: str, admin_engine: AsyncEngine
) -> None:
    """However much is done already: 20,000 tasks are thousands of pages."""
    values = {
        "worker_id": person.worker_id,
        "project_id": ids.decode_as("project", project),
        "able": ["a"],
        "limit": 5,
    }
    async with admin_engine.connect() as connection:
        await connection.execute(
            text(DONE), {"owner_id": person.owner_id, "worker_id": person.worker_id}
        )
        await connection.execute(text("ANALYZE tasks"))
    for in_project in (False, True):
        for limited in (False, True):
            plan = await plan_of(person, choice(in_project=in_project, limited=limited), values)
            assert pages(plan) < 300, plan
    assert pages(await plan_of(person, lapsed(), {})) < 30
    listed = readable(TASKS, *TASKS.c).where(ready(TASKS)).order_by(*ORDER).limit(5)
    assert pages(await plan_of(person, listed, values)) < 300


async def test_lapsed_claims_are_found_by_an_index(person: Person, project: str) -> None:
    plan = await plan_of(person, lapsed(), {})
    assert "ix_tasks_running" in plan
