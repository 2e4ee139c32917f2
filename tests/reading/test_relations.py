"""Nested lists cost one statement per relation field, whatever they hold."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.people import Person

TASKS = """
    INSERT INTO tasks (owner_id, project_id, number, title, created_by_id)
    SELECT :owner_id, :project_id, n, 'task ' || n, :worker_id FROM generate_series(1, 5) n
"""


async def three_projects(admin_engine: AsyncEngine, person: Person) -> None:
    """Three projects of five tasks each."""
    async with admin_engine.begin() as connection:
        for key in "ABC":
            made = await connection.execute(
                text(
                    "INSERT INTO projects (owner_id, key, name) VALUES (:owner_id, :key, :key)"
                    " RETURNING id"
                ),
                {"owner_id": person.owner_id, "key": key},
            )
            await connection.execute(
                text(TASKS),
                {
                    "owner_id": person.owner_id,
                    "project_id": made.scalar_one(),
                    "worker_id": person.worker_id,
                },
            )


async def test_nested_lists_cost_one_statement_per_level(
    admin_engine: AsyncEngine, person: Person
) -> None:
    await three_projects(admin_engine, person)
    data = await person.ask(
        "{ projects { nodes { tasks(first: 2) { nodes { number project { name } } } } } }"
    )
    projects = data["projects"]["nodes"]
    assert [[task["number"] for task in project["tasks"]["nodes"]] for project in projects] == [
        [1, 2]
    ] * 3
    assert [project["tasks"]["nodes"][0]["project"]["name"] for project in projects] == [
        "C",
        "B",
        "A",
    ]
    assert len(person.statements) == 3


async def test_aliases_of_one_relation_with_one_argument_share_a_statement(
    admin_engine: AsyncEngine, person: Person
) -> None:
    await three_projects(admin_engine, person)
    await person.ask(
        "{ projects { nodes { a: tasks { totalCount } b: tasks { nodes { title } totalCount } } } }"
    )
    assert len(person.statements) == 3
