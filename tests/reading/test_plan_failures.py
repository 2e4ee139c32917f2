"""What goes wrong below a plan is told as graphql-core alone would tell it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from db.connection import OpenTransaction
from db.failures import DatabaseUnavailable
from tests.factories import Factory, store
from tests.people import Person
from tests.reading.conftest import Population, services
from tests.ways import Answer, Way, answer

WAYS = pytest.mark.parametrize("way", Way, ids=lambda way: way.name.lower())

QUERY = """{
  projects(orderBy: [{field: CREATED_AT, direction: ASC}]) { nodes { id } }
  tasks(orderBy: [{field: CREATED_AT, direction: ASC}]) { nodes { id project { id name } } }
}"""


@pytest_asyncio.fixture
async def owner(engine: AsyncEngine, admin_engine: AsyncEngine) -> AsyncIterator[Person]:
    """A person of their own, whose rows a test may spoil."""
    rows = Factory(uuid4(), 2).fill()
    await store(admin_engine, rows)
    yield Person(rows["users"][0]["id"], rows["workers"][0]["id"], services(engine))


def between_statements(
    monkeypatch: pytest.MonkeyPatch, happens: Callable[[str], Awaitable[None]]
) -> None:
    """Something happens before each statement but the first."""
    fetch = OpenTransaction.fetch
    seen = 0

    async def interrupted(
        self: OpenTransaction, sql: str, arguments: Sequence[object]
    ) -> Sequence[Any]:
        nonlocal seen
        seen += 1
        if seen > 1:
            await happens(sql)
        return await fetch(self, sql, arguments)

    monkeypatch.setattr(OpenTransaction, "fetch", interrupted)


async def erase(admin_engine: AsyncEngine, owner: Person, *tables: str) -> int:
    """Delete rows and leave what refers to them, as no API and no foreign key would."""
    async with admin_engine.connect() as connection:
        await connection.execute(text("SET session_replication_role = replica"))
        deleted = 0
        for table in tables:
            where = f"DELETE FROM {table} WHERE owner_id = :owner_id"
            deleted += (
                await connection.execute(text(where), {"owner_id": owner.owner_id})
            ).rowcount
        await connection.execute(text("RESET session_replication_role"))
    return deleted


async def all_ways(person: Person, query: str) -> Answer:
    """The answer, which is the same in all ways."""
    core, parts, planned = [await answer(person, query, {}, way) for way in Way]
    for other in (parts, planned):
        assert other.data == core.data
        assert sorted(map(str, other.errors)) == sorted(map(str, core.errors))
    return core


async def test_a_missing_row_that_must_not_be_null(
    owner: Person, admin_engine: AsyncEngine
) -> None:
    whole = await all_ways(owner, QUERY)
    assert whole.data is not None
    assert not whole.errors
    await erase(admin_engine, owner, "projects")
    broken = await all_ways(owner, QUERY)
    assert broken.data is None
    (error,) = broken.errors
    assert error["path"] == ["tasks", "nodes", 0, "project"]
    assert error["message"] == "Cannot return null for non-nullable field Task.project."


@WAYS
async def test_a_row_deleted_between_two_levels_is_still_in_the_answer(
    owner: Person, admin_engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    before = await answer(owner, QUERY, {}, way)
    deleted = 0

    async def delete(_sql: str) -> None:
        nonlocal deleted
        deleted += await erase(admin_engine, owner, "projects", "tasks")

    with monkeypatch.context() as patch:
        between_statements(patch, delete)
        meanwhile = await answer(owner, QUERY, {}, way)
    assert deleted
    assert (meanwhile.data, meanwhile.errors) == (before.data, [])
    after = await answer(owner, QUERY, {}, way)
    assert after.data == {"projects": {"nodes": []}, "tasks": {"nodes": []}}


@WAYS
async def test_a_statement_that_fails_is_its_fields_error(
    population: Population, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    query = "{ projects { nodes { tasks { nodes { id } } } } }"
    fetch = OpenTransaction.fetch

    async def failing(
        self: OpenTransaction, sql: str, arguments: Sequence[object]
    ) -> Sequence[Any]:
        return await fetch(self, *(("SELECT 1/0", ()) if "FROM tasks" in sql else (sql, arguments)))

    monkeypatch.setattr(OpenTransaction, "fetch", failing)
    failed = await answer(population.person, query, {}, way)
    assert failed.data is None
    (error,) = failed.errors
    assert "division by zero" in error["message"]
    # A plan that is a part of graphql-core's execution fails as one field: its transaction is lost.
    whole = ["projects", "nodes", 0, "tasks"]
    assert error["path"] == (whole[:1] if way is Way.PARTS else whole)


async def test_without_a_database_nothing_is_tried_a_second_time(
    population: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def gone(_sql: str) -> None:
        nonlocal asked
        asked += 1
        raise DatabaseUnavailable("The connection was lost.")

    between_statements(monkeypatch, gone)
    with pytest.raises(DatabaseUnavailable):
        await answer(population.person, QUERY, {}, Way.PLANNED)
    assert asked == 1


async def test_a_field_whose_answer_nobody_waits_for_is_not_a_failed_plan(
    population: Population,
) -> None:
    query = """{
      changes(after: "no cursor") { nodes { action } }
      projects { nodes { tasks { nodes { subtasks { nodes { id } } } } } }
    }"""
    with capture_logs() as logs:
        answered = await answer(population.person, query, {}, Way.PARTS)
    assert answered.data is None
    assert [error["path"] for error in answered.errors] == [["changes"]]
    assert logs == []
