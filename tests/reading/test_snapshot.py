"""One response is one snapshot: no reader sees half of a transfer."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from db.models.work import Project, Task
from schema import ids
from tests.factories import store
from tests.people import Person
from tests.ways import Way, answer

READS = 400
READERS = 6
TASKS = 24
PROJECTS = Project.__table__
ROWS = Task.__table__

FIELDS = [
    "a: project(id: $a) { id description tasks { totalCount } }",
    "b: project(id: $b) { id description tasks { totalCount } }",
    "projects { nodes { id description tasks(first: 100) { nodes { id } totalCount } } }",
    "tasks(first: 100) { nodes { project { id description } } }",
    "some: nodes(ids: [$b, $a]) { ... on Project { id tasks(last: 100) { nodes { id } } } }",
    "of_a: tasks(filter: {projectId: {eq: $a}}) { totalCount }",
    "of_b: tasks(filter: {project: {some: {id: {eq: $b}}}}) { totalCount }",
]
"""Each says, in its own way, how many tasks the projects have; descriptions hold the number too."""


@dataclass
class Ledger:
    """Two projects that tasks are moved between."""

    person: Person
    admin: AsyncEngine
    projects: list[UUID]
    transfers: int = 0
    running: bool = True
    states: set[tuple[int, ...]] = field(default_factory=set)

    async def transfer(self, seed: int) -> None:
        """Move tasks until it is stopped; each project's description says how many it has."""
        chosen = random.Random(seed)
        async with self.admin.connect() as connection:
            await connection.execution_options(isolation_level="READ COMMITTED")
            while self.running:
                async with connection.begin():
                    await self._move(connection, *chosen.sample(self.projects, 2))
                self.transfers += 1

    async def _move(self, connection: AsyncConnection, source: UUID, target: UUID) -> None:
        locked = sa.select(PROJECTS.c.id).where(PROJECTS.c.id.in_(self.projects))
        await connection.execute(locked.order_by(PROJECTS.c.id).with_for_update())
        moved = sa.select(ROWS.c.id).where(ROWS.c.project_id == source).limit(1)
        await connection.execute(
            sa.update(ROWS).values(project_id=target).where(ROWS.c.id.in_(moved))
        )
        count = sa.select(sa.cast(sa.func.count(), sa.Text)).where(
            ROWS.c.project_id == PROJECTS.c.id
        )
        await connection.execute(
            sa.update(PROJECTS)
            .values(description=count.scalar_subquery())
            .where(PROJECTS.c.id.in_(self.projects))
        )

    async def read(self, fields: list[str], way: Way) -> dict[str, list[int]]:
        """What the fields say of each project."""
        declared = ", ".join(
            f"${name}: ID!" for name in "ab" if any(f"${name}" in one for one in fields)
        )
        heading = f"query ({declared})" if declared else "query"
        a, b = (ids.encode("project", project) for project in self.projects)
        variables = {"a": a, "b": b}
        answered = await answer(self.person, f"{heading} {{ {' '.join(fields)} }}", variables, way)
        assert answered.data is not None, answered.errors
        said: dict[str, list[int]] = {a: [], b: []}
        for name, value in answered.data.items():
            if name == "of_a":
                said[a].append(value["totalCount"])
            elif name == "of_b":
                said[b].append(value["totalCount"])
            elif name == "tasks":
                counted = Counter(node["project"]["id"] for node in value["nodes"])
                said[a].append(counted[a])
                said[b].append(counted[b])
                _descriptions(said, [node["project"] for node in value["nodes"]])
            else:
                found = value if isinstance(value, list) else value.get("nodes", [value])
                _descriptions(said, found)
                for project in found:
                    tasks = project["tasks"]
                    counts = [len(tasks["nodes"])] if "nodes" in tasks else []
                    counts += [tasks["totalCount"]] if "totalCount" in tasks else []
                    said[project["id"]] += counts
        return said


def _descriptions(said: dict[str, list[int]], projects: list[Any]) -> None:
    for project in projects:
        if "description" in project:
            said[project["id"]].append(int(project["description"]))


def is_torn(said: dict[str, list[int]]) -> bool:
    """Whether readings cannot be of one moment."""
    if any(len(set(counts)) > 1 for counts in said.values()):
        return True
    return all(said.values()) and sum(counts[0] for counts in said.values()) != TASKS


async def test_no_response_sees_half_of_a_transfer(
    person: Person, admin_engine: AsyncEngine, tally: Counter[str]
) -> None:
    ledger = await a_ledger(person, admin_engine)
    chosen = random.Random(9)
    torn = 0

    async def reader() -> None:
        nonlocal torn
        while tally["responses"] < READS:
            tally["responses"] += 1
            fields = chosen.sample(FIELDS, chosen.randint(2, 5))
            said = await ledger.read(fields, list(Way)[tally["responses"] % 3])
            torn += is_torn(said)
            ledger.states.add(tuple(counts[0] for counts in said.values() if counts))

    async def readers() -> None:
        try:
            await asyncio.gather(*(reader() for _ in range(READERS)))
            tally["torn of pairs of responses"] = await pairs(ledger, chosen)
        finally:
            ledger.running = False

    await asyncio.gather(ledger.transfer(1), ledger.transfer(2), readers())
    tally["torn"] = torn
    tally["transfers meanwhile"] = ledger.transfers
    assert torn == 0
    assert tally["responses"] >= 300
    # It was worth looking: what is true of one response is not true of two.
    assert tally["torn of pairs of responses"] > 0
    assert len(ledger.states) > 10


async def pairs(ledger: Ledger, chosen: random.Random) -> int:
    """Torn readings among fields that are asked for one by one."""
    torn = 0
    for _ in range(100):
        one = await ledger.read([FIELDS[0]], Way.PLANNED)
        other = await ledger.read([FIELDS[1]], Way.PLANNED)
        both = {project: one[project] + other[project] for project in one}
        torn += is_torn(both)
    return torn


async def a_ledger(person: Person, admin: AsyncEngine) -> Ledger:
    """Two projects that share some tasks."""
    projects: list[UUID] = []
    async with admin.connect() as connection:
        for key in "AB":
            made = await connection.execute(
                sa.insert(PROJECTS)
                .values(owner_id=person.owner_id, key=key, name=key, description=str(TASKS // 2))
                .returning(PROJECTS.c.id)
            )
            projects.append(made.scalar_one())
    await store(
        admin,
        {
            "tasks": [
                {
                    "owner_id": person.owner_id,
                    "project_id": projects[number % 2],
                    "number": number + 1,
                    "title": "to move",
                    "created_by_id": person.worker_id,
                }
                for number in range(TASKS)
            ]
        },
    )
    return Ledger(person, admin, projects)
