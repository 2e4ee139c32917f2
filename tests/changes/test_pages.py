"""`changes` as a query: pages of the feed."""

import base64
import itertools
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from db.repositories.journal import START
from schema import ids
from schema.changes import encode_cursor
from tests.changes.feed import PAGE, ask_as_key, codes, latest, page, settled, short
from tests.conftest import NewPerson
from tests.people import Person
from tests.work.asking import done, new_project, new_task, new_tasks


async def test_a_change_says_what_was_done_and_shows_the_row(person: Person) -> None:
    start = await latest(person)
    project = await new_project(person)
    await done(person, "updateProject", "project { id }", id=project, name="Other")
    await settled(person)
    found = await page(person, after=start)
    node = {"__typename": "Project", "id": project}
    common = {"entityType": "PROJECT", "entityId": project, "node": node}
    created, updated = found["nodes"]
    assert created == common | {"action": "create", "version": 1, "cursor": created["cursor"]}
    assert updated == common | {"action": "update", "version": 2, "cursor": updated["cursor"]}
    assert found["pageInfo"] == {
        "hasNextPage": False,
        "hasPreviousPage": True,
        "startCursor": created["cursor"],
        "endCursor": updated["cursor"],
    }
    assert found["latestCursor"] == updated["cursor"]
    rest = await page(person, after=created["cursor"])
    assert rest["nodes"] == [updated]
    assert (await page(person, after=updated["cursor"]))["nodes"] == []


async def test_pages_follow_each_other(person: Person) -> None:
    start = await latest(person)
    project = await new_project(person)
    made = await new_tasks(person, project, *({} for _ in range(7)))
    await settled(person)
    cursor, seen, sizes = start, list[str](), list[int]()
    more = True
    while more:
        found = await page(person, after=cursor, first=3)
        seen += [change["entityId"] for change in found["nodes"]]
        sizes.append(len(found["nodes"]))
        cursor, more = found["pageInfo"]["endCursor"], found["pageInfo"]["hasNextPage"]
    assert seen == [project, *made]
    assert sizes == [3, 3, 2]
    assert (await page(person, first=2))["pageInfo"]["hasPreviousPage"] is False


async def test_what_is_deleted_has_no_node(person: Person) -> None:
    start = await latest(person)
    project = await new_project(person)
    task = await new_task(person, project)
    other = await new_task(person, project)
    for mutation in ("addTaskDependency", "removeTaskDependency"):
        await done(person, mutation, "clientMutationId", taskId=task, dependsOnId=other)
    await done(person, "deleteProject", "project { id }", id=project)
    await settled(person)
    found = (await page(person, after=start))["nodes"]
    assert [change["node"] for change in found] == [None] * len(found)
    # of one statement, whose parts PostgreSQL runs in an order of its own
    assert sorted(map(short, found[5:])) == [
        ("delete", "PROJECT"),
        ("delete", "TASK"),
        ("delete", "TASK"),
    ]
    assert [short(change) for change in found[3:5]] == [
        ("create", "TASK_DEPENDENCY"),
        ("delete", "TASK_DEPENDENCY"),
    ]
    await done(person, "restoreProject", "project { id }", id=project)
    await settled(person)
    restored = (await page(person, after=start))["nodes"]
    assert {change["entityId"] for change in restored if change["node"]} == {project, task, other}


async def test_types_are_chosen_and_the_cursor_passes_the_others(person: Person) -> None:
    start = await latest(person)
    project = await new_project(person)
    await new_tasks(person, project, {}, {}, {})
    await settled(person)
    found = await page(person, after=start, types=["PROJECT", "WORKER"])
    assert [change["entityId"] for change in found["nodes"]] == [project]
    assert found["pageInfo"]["endCursor"] == found["latestCursor"]
    nothing = await page(person, after=start, types=["DOCUMENT"])
    assert nothing["nodes"] == []
    assert nothing["pageInfo"]["startCursor"] is None
    assert nothing["pageInfo"]["endCursor"] == found["latestCursor"]
    assert (await page(person, after=start, types=[]))["nodes"] == []


async def test_an_empty_feed_has_a_beginning(person: Person) -> None:
    # made without the API, the person has no events
    found = await page(person)
    assert (found["nodes"], found["latestCursor"]) == ([], encode_cursor(START))
    project = await new_project(person)
    await settled(person)
    found = await page(person, after=found["latestCursor"])
    assert [change["entityId"] for change in found["nodes"]] == [project]


async def test_strangers_changes_are_not_there(person: Person, new_person: NewPerson) -> None:
    stranger = await new_person()
    project = await new_project(stranger)
    theirs = await latest(stranger)
    assert (await page(person))["nodes"] == []
    answer = await person.execute(PAGE, after=theirs)
    assert codes(answer["errors"]) == ["BAD_CURSOR"]
    found = (await page(stranger))["nodes"]
    assert [change["entityId"] for change in found] == [project]


NOBODY = "01a1fb4da1727cc49b0e0c794bb7f082"


def made_up(*content: Any) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(content)).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "nonsense",
        "x" * 10_000,
        made_up("changes", 1),
        made_up("changes", -1, NOBODY),
        made_up("changes", 2**63, NOBODY),
        made_up("changes", 1.5, NOBODY),
        made_up("changes", "1", NOBODY),
        made_up("changes", 1, 1),
        made_up("changes", 1, "g" * 32),
        made_up("number", 1, NOBODY),
        made_up("changes", 1, NOBODY),  # well made, of no event
        made_up("changes", 2**62, NOBODY),  # of a time to come
        base64.urlsafe_b64encode(b"{}").decode(),
    ],
    ids=itertools.count(),
)
async def test_what_is_no_cursor_of_the_feed_is_refused(person: Person, cursor: str) -> None:
    answer = await person.execute(PAGE, after=cursor)
    assert codes(answer["errors"]) == ["BAD_CURSOR"]
    assert answer["data"] is None


@pytest.mark.parametrize("first", [-1, 1001])
async def test_a_page_has_a_size(person: Person, first: int) -> None:
    answer = await person.execute(PAGE, first=first)
    assert codes(answer["errors"]) == ["BAD_USER_INPUT"]


async def test_a_key_sees_what_its_scopes_allow(person: Person) -> None:
    await new_project(person)
    await done(person, "updateViewer", "viewer { id }", displayName="Me")
    await settled(person)

    async def types(*scopes: str, **variables: Any) -> list[str]:
        answer = await ask_as_key(person, PAGE, *scopes, **variables)
        if "errors" in answer:
            return codes(answer["errors"])
        return [change["entityType"] for change in answer["data"]["changes"]["nodes"]]

    everything = [change["entityType"] for change in (await page(person))["nodes"]]
    assert everything == ["PROJECT", "USER"]
    assert await types("read", "account") == everything
    assert await types("account") == ["FORBIDDEN"]
    assert await types("read", types=["LOGIN_SESSION"]) == ["FORBIDDEN"]
    assert await types("read", types=["PROJECT"]) == ["PROJECT"]
    assert "LOGIN_SESSION" not in await types("read")


async def test_statements_depend_on_the_types_alone(person: Person) -> None:
    start = await latest(person)
    project = await new_project(person)
    await new_tasks(person, project, *({} for _ in range(30)))
    await settled(person)
    shown = "node { ... on Task { title project { name } } }"
    document = PAGE.replace("node { __typename id }", shown)
    counts = []
    for first in (2, 5, 50):
        await person.ask(document, after=start, first=first)
        counts.append(len(person.statements))
    # the cursor's place, the page and the end of the feed; projects, tasks, the projects of tasks
    assert counts == [6, 6, 6]


async def test_the_ids_of_changes_are_global(person: Person) -> None:
    start = await latest(person)
    project = await new_project(person)
    await settled(person)
    [change] = (await page(person, after=start))["nodes"]
    assert ids.decode(change["entityId"])[0] == "project"
    assert (await person.ask("query($id: ID!) { node(id: $id) { id } }", id=project)) == {
        "node": {"id": change["entityId"]}
    }


async def test_events_of_what_is_not_served_are_passed_over(
    person: Person, admin_engine: AsyncEngine
) -> None:
    event = sa.text(
        "INSERT INTO audit_events"
        " (owner_id, actor_kind, actor_id, action, entity_type, entity_id, request_id)"
        " VALUES (:owner, 'user', :owner, 'create', 'something_of_ours', :owner, 'test')"
    )
    async with admin_engine.connect() as connection:
        await connection.execute(event, {"owner": person.owner_id})
    await settled(person)
    found = await page(person)
    assert found["nodes"] == []
    assert found["pageInfo"]["endCursor"] == found["latestCursor"] != encode_cursor(START)
    project = await new_project(person)
    await settled(person)
    found = await page(person, after=found["latestCursor"])
    assert [change["entityId"] for change in found["nodes"]] == [project]
