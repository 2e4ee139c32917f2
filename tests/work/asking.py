"""The documents of the tests of work, and short ways to send them."""

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from schema import ids
from tests.people import Person

PROBLEMS = """
    problems {
      __typename code message path
      ... on ValidationProblem { rule bound }
      ... on Conflict { currentVersion current { id ... on Task { status claimEpoch title } } }
    }
"""
TASK = """
    id number title description status priority tags dueAt runAfter parentId claimEpoch
    leaseExpiresAt attempts maxAttempts result version deletedAt
"""


def _mutation(name: str, input_type: str, shows: str) -> str:
    answer = f"answer: {name}(input: $input) {{ {shows} {PROBLEMS} }}"
    return f"mutation($input: {input_type}!) {{ {answer} }}"


async def mutate(person: Person, mutation: str, shows: str, /, **input: Any) -> dict[str, Any]:
    """The payload of a mutation whose input type is named after it."""
    input_type = f"{mutation[0].upper()}{mutation[1:]}Input"
    data = await person.ask(_mutation(mutation, input_type, shows), input=input)
    answer: dict[str, Any] = data["answer"]
    return answer


async def done(person: Person, mutation: str, shows: str, /, **input: Any) -> dict[str, Any]:
    """The payload of a mutation that must have no problems."""
    answer = await mutate(person, mutation, shows, **input)
    assert answer["problems"] == [], answer["problems"]
    return answer


async def new_project(person: Person, key: str = "ENG", /, **values: Any) -> str:
    """The id of a new project."""
    made = await done(person, "createProject", "project { id }", key=key, name=key, **values)
    return str(made["project"]["id"])


async def new_worker(person: Person, name: str = "Agent", /, **values: Any) -> str:
    """The id of a new agent."""
    made = await done(person, "createWorker", "worker { id }", name=name, **values)
    return str(made["worker"]["id"])


async def new_task(person: Person, project: str, title: str = "a task", /, **values: Any) -> str:
    """The id of a new task."""
    made = await done(person, "createTask", "task { id }", projectId=project, title=title, **values)
    return str(made["task"]["id"])


async def new_tasks(person: Person, project: str, *tasks: dict[str, Any]) -> list[str]:
    """The ids of new tasks, which are titled by their place."""
    items = [{"projectId": project, "title": f"task {n}", **task} for n, task in enumerate(tasks)]
    made = await done(person, "createTasks", "tasks { id }", tasks=items)
    return [task["id"] for task in made["tasks"]]


async def claim(person: Person, worker: str, **input: Any) -> list[dict[str, Any]]:
    """The tasks that a worker is given."""
    shows = f"tasks {{ {TASK} claimedBy {{ id }} }}"
    tasks: list[dict[str, Any]] = (
        await done(person, "claimTasks", shows, workerId=worker, **input)
    )["tasks"]
    return tasks


async def lapse(admin_engine: AsyncEngine, person: Person, seconds: float = 7_200) -> None:
    """Let all leases of a person have ended so long ago; by default longer than any pause."""
    async with admin_engine.connect() as connection:
        await connection.execute(
            text(
                "UPDATE tasks SET lease_expires_at = now() - :ago * interval '1 second'"
                " WHERE owner_id = :owner_id AND lease_expires_at IS NOT NULL"
            ),
            {"owner_id": person.owner_id, "ago": seconds},
        )


async def task(person: Person, id: str, shows: str = TASK) -> Any:
    """A live task."""
    data = await person.ask(f"query($id: ID!) {{ task(id: $id) {{ {shows} }} }}", id=id)
    return data["task"]


def rules(answer: dict[str, Any]) -> set[tuple[str, str]]:
    """The path and the rule of every violation."""
    return {
        (".".join(problem["path"][1:]), problem["rule"])
        for problem in answer["problems"]
        if problem["__typename"] == "ValidationProblem"
    }


def kinds(answer: dict[str, Any]) -> list[tuple[str, str]]:
    """The type and the path of every problem."""
    return [
        (problem["__typename"], ".".join(problem["path"][1:])) for problem in answer["problems"]
    ]


def human(person: Person) -> str:
    """The global id of the person's own worker."""
    return ids.encode("worker", person.worker_id)
