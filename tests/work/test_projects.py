"""Projects and workers: created, changed, deleted, restored, refused."""

from uuid import uuid4

from db.uuid7 import uuid7
from schema import ids
from tests.conftest import NewPerson
from tests.people import Person
from tests.work.asking import (
    done,
    human,
    kinds,
    mutate,
    new_project,
    new_task,
    new_worker,
    rules,
    task,
)

PROJECT = "project { id key name description version deletedAt }"
WORKER = "worker { id name kind capabilities version deletedAt }"


async def test_a_project_lives_and_dies_and_comes_back(person: Person) -> None:
    made = await done(person, "createProject", PROJECT, key="ENG", name="Engram")
    project = made["project"]
    assert project == {
        "id": project["id"],
        "key": "ENG",
        "name": "Engram",
        "description": "",
        "version": 1,
        "deletedAt": None,
    }
    id = project["id"]
    changed = await done(
        person, "updateProject", PROJECT, id=id, name="Memory", key="MEM", expectedVersion=1
    )
    assert changed["project"] == project | {"name": "Memory", "key": "MEM", "version": 2}
    same = await done(person, "updateProject", PROJECT, id=id, expectedVersion=2)
    assert same["project"] == changed["project"]
    deleted = (await done(person, "deleteProject", PROJECT, id=id, expectedVersion=2))["project"]
    assert deleted["deletedAt"] is not None
    assert deleted["version"] == 3
    data = await person.ask("query($id: ID!) { project(id: $id) { id } }", id=id)
    assert data["project"] is None
    restored = await done(person, "restoreProject", PROJECT, id=id, expectedVersion=3)
    assert restored["project"] == changed["project"] | {"version": 4}
    again = await done(person, "restoreProject", PROJECT, id=id)
    assert again["project"] == restored["project"]


async def test_every_bad_field_of_a_project_is_named(person: Person) -> None:
    refused = await mutate(
        person, "createProject", PROJECT, id="task_1", key="e-1", name="", description="x" * 10_001
    )
    assert refused["project"] is None
    assert rules(refused) == {
        ("id", "id"),
        ("key", "pattern"),
        ("name", "min_length"),
        ("description", "max_length"),
    }


async def test_keys_and_ids_are_unique_per_owner(person: Person, new_person: NewPerson) -> None:
    id = ids.encode("project", uuid7())
    assert await new_project(person, "ONE", id=id) == id
    other = await new_project(person, "TWO")
    refused = await mutate(person, "createProject", PROJECT, key="ONE", name="again")
    assert rules(refused) == {("key", "unique")}
    refused = await mutate(person, "updateProject", PROJECT, id=other, key="ONE")
    assert rules(refused) == {("key", "unique")}
    refused = await mutate(person, "createProject", PROJECT, key="THREE", name="3", id=id)
    assert rules(refused) == {("id", "unique")}
    refused = await mutate(
        person, "createProject", PROJECT, key="FOUR", name="4", id=ids.encode("project", uuid4())
    )
    assert rules(refused) == {("id", "uuidv7")}
    stranger = await new_person()
    assert await new_project(stranger, "ONE", id=id) == id


async def test_a_stale_version_gets_the_project_as_it_is(person: Person) -> None:
    id = await new_project(person)
    await done(person, "updateProject", PROJECT, id=id, name="newer")
    for name, input in (
        ("updateProject", {"name": "older"}),
        ("updateProject", {}),
        ("deleteProject", {}),
        ("restoreProject", {}),
    ):
        refused = await mutate(person, name, PROJECT, id=id, expectedVersion=1, **input)
        [problem] = refused["problems"]
        assert (problem["__typename"], problem["currentVersion"]) == ("Conflict", 2)
        assert problem["current"]["id"] == id


async def test_foreign_missing_and_malformed_ids_of_projects(
    person: Person, new_person: NewPerson
) -> None:
    foreign = await new_project(await new_person())
    missing = ids.encode("project", uuid7())
    for name in ("updateProject", "deleteProject", "restoreProject"):
        answers = [await mutate(person, name, PROJECT, id=id) for id in (foreign, missing)]
        assert answers[0] == answers[1]
        assert kinds(answers[0]) == [("NotFound", "id")]
        refused = await mutate(person, name, PROJECT, id="worker_1")
        assert rules(refused) == {("id", "id")}
    id = await new_project(person)
    await done(person, "deleteProject", PROJECT, id=id)
    for name in ("updateProject", "deleteProject"):
        assert kinds(await mutate(person, name, PROJECT, id=id)) == [("NotFound", "id")]


async def test_creating_a_project_is_done_once(person: Person) -> None:
    input = {"key": "ENG", "name": "Engram", "idempotencyKey": "k"}
    first = await done(person, "createProject", PROJECT, **input)
    assert await done(person, "createProject", PROJECT, **input) == first
    other = await mutate(person, "createProject", PROJECT, **input | {"name": "Other"})
    assert kinds(other) == [("IdempotencyConflict", "idempotencyKey")]
    data = await person.ask("{ projects { totalCount } }")
    assert data["projects"]["totalCount"] == 1


async def test_an_agent_is_created_changed_deleted_and_restored(person: Person) -> None:
    made = await done(person, "createWorker", WORKER, name="Bot", capabilities=["python"])
    worker = made["worker"]
    assert (worker["kind"], worker["capabilities"], worker["version"]) == ("AGENT", ["python"], 1)
    id = worker["id"]
    changed = await done(person, "updateWorker", WORKER, id=id, capabilities=[])
    assert changed["worker"] == worker | {"capabilities": [], "version": 2}
    refused = await mutate(person, "updateWorker", WORKER, id=id, name=None, capabilities=[""])
    assert rules(refused) == {("name", "not_null"), ("capabilities.0", "min_length")}
    deleted = await done(person, "deleteWorker", WORKER, id=id, expectedVersion=2)
    assert deleted["worker"]["deletedAt"] is not None
    restored = await done(person, "restoreWorker", WORKER, id=id)
    assert restored["worker"]["deletedAt"] is None


async def test_the_human_worker_can_be_renamed_and_not_deleted(person: Person) -> None:
    me = human(person)
    renamed = await done(person, "updateWorker", WORKER, id=me, name="Ada")
    assert renamed["worker"]["name"] == "Ada"
    refused = await mutate(person, "deleteWorker", WORKER, id=me)
    assert rules(refused) == {("id", "agent")}
    stale = await mutate(person, "deleteWorker", WORKER, id=me, expectedVersion=1)
    assert kinds(stale) == [("Conflict", "")]
    data = await person.ask("{ workers { nodes { name } } }")
    assert data["workers"]["nodes"] == [{"name": "Ada"}]


async def test_a_deleted_worker_keeps_its_tasks_and_gets_no_others(person: Person) -> None:
    project, worker = await new_project(person), await new_worker(person)
    id = await new_task(person, project, assigneeId=worker, createdById=worker)
    await done(person, "deleteWorker", WORKER, id=worker)
    shown = await task(person, id, "assignee { id deletedAt } createdBy { id }")
    assert shown["assignee"]["id"] == shown["createdBy"]["id"] == worker
    assert shown["assignee"]["deletedAt"] is not None
    refused = await mutate(
        person,
        "createTask",
        "task { id }",
        projectId=project,
        title="t",
        assigneeId=worker,
        createdById=worker,
    )
    assert rules(refused) == {("assigneeId", "reference"), ("createdById", "reference")}
    refused = await mutate(person, "claimTasks", "tasks { id }", workerId=worker)
    assert rules(refused) == {("workerId", "reference")}
