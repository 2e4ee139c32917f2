"""The real schema through the real server: bad requests, foreign ids, subscriptions, log-outs."""

import asyncio
import base64
import json
from time import process_time
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from db.notifications import Listener, Subscription
from tests.edge.conftest import Served
from tests.edge.sockets import answer, closed, hear, opened, say, subscribe
from tests.edge.waiting import until
from tests.edge.whole import Someone, sign_up


@pytest_asyncio.fixture(scope="session")
async def project(anna: Someone) -> str:
    data = await anna.ask(
        'mutation { createProject(input: {key: "ENG", name: "100% _x_"})'
        " { project { id } problems { message } } }"
    )
    identifier: str = data["createProject"]["project"]["id"]
    return identifier


@pytest_asyncio.fixture(scope="session")
async def task(anna: Someone, project: str) -> str:
    data = await anna.ask(CREATE_TASK, project=project, title="first")
    identifier: str = data["createTask"]["task"]["id"]
    return identifier


CREATE_TASK = (
    "mutation($project: ID!, $title: String!) {"
    " createTask(input: {projectId: $project, title: $title})"
    " { task { id } problems { message } } }"
)
MALFORMED = "An id is a type name, an underscore and 32 hex digits."
BETWEEN = "`first` must be between 0 and 1000."
NO_CURSOR = "`after` is not a cursor of this connection in this order."
BAD_ARGUMENTS = [
    ('{ node(id: "nonsense") { id } }', "BAD_ID", MALFORMED),
    ('{ node(id: "task_00") { id } }', "BAD_ID", MALFORMED),
    ('{ node(id: "task_\' OR true --") { id } }', "BAD_ID", MALFORMED),
    (
        f'{{ task(id: "project_{"0" * 12}7{"0" * 3}8{"0" * 15}") {{ id }} }}',
        "BAD_ID",
        "This must be the id of a task, not of a project.",
    ),
    ("{ projects(first: -1) { nodes { id } } }", "BAD_USER_INPUT", BETWEEN),
    ("{ projects(first: 100000) { nodes { id } } }", "BAD_USER_INPUT", BETWEEN),
    (
        "{ projects(first: 1, last: 1) { nodes { id } } }",
        "BAD_USER_INPUT",
        "Ask for `first` or for `last`, not for both.",
    ),
    ('{ projects(after: "nonsense") { nodes { id } } }', "BAD_CURSOR", NO_CURSOR),
    ('{ projects(after: "") { nodes { id } } }', "BAD_CURSOR", NO_CURSOR),
]


@pytest.mark.parametrize(("query", "code", "message"), BAD_ARGUMENTS)
async def test_a_bad_argument_has_its_exact_answer(
    anna: Someone, query: str, code: str, message: str
) -> None:
    before = process_time()
    body = await anna.execute(query)
    spent = process_time() - before
    [error] = body["errors"]
    assert (error["extensions"], error["message"]) == ({"code": code}, message)
    print(f"{spent * 1000:.1f} ms of CPU")


async def test_a_cursor_is_of_one_order(anna: Someone, task: str) -> None:
    data = await anna.ask("{ tasks(first: 1) { pageInfo { endCursor } } }")
    cursor = data["tasks"]["pageInfo"]["endCursor"]
    other = "orderBy: [{field: PRIORITY, direction: DESC}]"
    body = await anna.execute(f'{{ tasks(after: "{cursor}", {other}) {{ nodes {{ id }} }} }}')
    assert body["errors"][0]["extensions"] == {"code": "BAD_CURSOR"}


@pytest.mark.parametrize(
    ("pattern", "found"), [("%", True), ("_x", True), ("100%", True), ("%%", False), ("\\", False)]
)
async def test_wildcards_are_letters(
    anna: Someone, project: str, pattern: str, found: bool
) -> None:
    query = "query($p: String!) { projects(filter: {name: {contains: $p}}) { nodes { id } } }"
    data = await anna.ask(query, p=pattern)
    assert data["projects"]["nodes"] == ([{"id": project}] if found else [])


async def test_foreign_ids_are_as_ids_of_nothing(bert: Someone, project: str, task: str) -> None:
    nothing = f"task_{uuid4().hex[:12]}7{uuid4().hex[:3]}8{uuid4().hex[:15]}"
    answers = []
    for identifier in (task, nothing):
        query = (
            "query($id: ID!) { node(id: $id) { id } task(id: $id) { id } nodes(ids: [$id]) { id }"
            " taskTree(id: $id) { id } }"
        )
        change = (
            'mutation($id: ID!) { updateTask(input: {id: $id, title: "mine"})'
            " { task { id } problems { code message path } } }"
        )
        answers.append(
            (await bert.execute(query, id=identifier), await bert.execute(change, id=identifier))
        )
    foreign, missing = answers
    assert foreign == missing
    assert foreign[0]["data"] == {"node": None, "task": None, "nodes": [None], "taskTree": []}
    assert foreign[1]["data"]["updateTask"]["problems"][0]["code"] == "NOT_FOUND"


async def test_without_a_token_the_data_is_not_shown(whole: Served) -> None:
    body = (await whole.post("{ projects { nodes { id } } }")).json()
    assert body["data"] is None
    assert body["errors"][0]["extensions"] == {"code": "UNAUTHENTICATED"}


async def next_data(connection: ClientConnection) -> Any:
    message = await hear(connection)
    assert message["type"] == "next", message
    return message["payload"]["data"]


@pytest.fixture
def subscriptions(monkeypatch: pytest.MonkeyPatch) -> list[Subscription]:
    """The subscriptions that began during the test."""
    begun: list[Subscription] = []
    subscribe = Listener.subscribe

    def noted(listener: Listener, *topic: Any) -> Subscription:
        begun.append(subscribe(listener, *topic))
        return begun[-1]

    monkeypatch.setattr(Listener, "subscribe", noted)
    return begun


async def test_task_changed_over_a_socket(
    anna: Someone, bert: Someone, project: str, subscriptions: list[Subscription]
) -> None:
    query = f'subscription {{ taskChanged(projectId: "{project}") {{ title project {{ id }} }} }}'
    async with opened(anna.served, anna) as mine, opened(bert.served, bert) as foreign:
        for connection in (mine, foreign):
            await say(connection, subscribe(query))
        await until(lambda: subscriptions)
        data = await anna.ask(CREATE_TASK, project=project, title="seen")
        identifier = data["createTask"]["task"]["id"]
        assert await next_data(mine) == {
            "taskChanged": {"title": "seen", "project": {"id": project}}
        }
        await anna.ask(
            'mutation($id: ID!) { updateTask(input: {id: $id, title: "seen again"})'
            " { problems { message } } }",
            id=identifier,
        )
        assert (await next_data(mine))["taskChanged"]["title"] == "seen again"
        # nothing of it reaches the other one: the next frame is the answer to this
        await say(foreign, subscribe("{ __typename }", "2"))
        heard = await hear(foreign)
        while heard["id"] != "2":
            assert heard["type"] in ("error", "complete"), heard
            heard = await hear(foreign)
        assert heard == answer({"__typename": "Query"}, "2")


async def test_message_added_over_an_event_stream(
    anna: Someone, subscriptions: list[Subscription]
) -> None:
    data = await anna.ask(
        'mutation { createConversation(input: {title: "Talk"})'
        " { conversation { id } problems { message } } }"
    )
    conversation = data["createConversation"]["conversation"]["id"]
    query = f'subscription {{ messageAdded(conversationId: "{conversation}") {{ content }} }}'
    headers = {"accept": "text/event-stream", "authorization": f"Bearer {anna.token}"}
    async with (
        asyncio.timeout(10),
        anna.served.client.stream(
            "POST", "/graphql", json={"query": query}, headers=headers
        ) as response,
    ):
        lines = response.aiter_lines()
        await anext(lines)
        await until(lambda: subscriptions)
        await anna.ask(
            "mutation($id: ID!) { appendMessage(input:"
            ' {conversationId: $id, role: USER, content: "Hello"})'
            " { message { id } problems { message } } }",
            id=conversation,
        )
        async for line in lines:
            if line.startswith("data: "):
                assert json.loads(line[6:]) == {"data": {"messageAdded": {"content": "Hello"}}}
                break


async def test_logging_out_ends_the_token_and_its_sockets(whole: Served) -> None:
    carla = await sign_up(whole)
    async with opened(whole, carla) as connection:
        await carla.ask("mutation { logOut(input: {}) { problems { message } } }")
        refused = await whole.post("{ viewer { id } }", {"authorization": f"Bearer {carla.token}"})
        assert refused.status_code == 401
        assert await closed(connection) == (4401, "Unauthorized: the login has ended")


def tampered(*values: object) -> str:
    """A cursor of conversations with values that no page gave."""
    return base64.urlsafe_b64encode(json.dumps(["-last_message_at,-id", *values]).encode()).decode()


SOME_ID = "01a1fbf8-99d1-76d4-b0e5-881acb267c60"


@pytest.mark.parametrize(
    ("moment", "identifier"),
    [
        ("0001-01-01T00:00:00+23:59", SOME_ID),
        ("9999-12-31T23:59:59-23:59", SOME_ID),
        ("2026-01-01T00:00:00Z", 5),
        ("2026-01-01T00:00:00Z", [SOME_ID]),
        (5, SOME_ID),
        (None, SOME_ID),
        ("2026-01-01T00:00:00Z", None),
    ],
)
async def test_a_tampered_cursor_is_no_cursor(
    anna: Someone, moment: object, identifier: object
) -> None:
    for side in ("after", "before"):
        cursor = tampered(moment, identifier)
        body = await anna.execute(f'{{ conversations({side}: "{cursor}") {{ nodes {{ id }} }} }}')
        assert body["errors"][0]["extensions"] == {"code": "BAD_CURSOR"}


async def test_a_cursor_may_hold_any_moment(anna: Someone) -> None:
    for moment in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999+00:00"):
        cursor = tampered(moment, SOME_ID)
        await anna.ask(f'{{ conversations(after: "{cursor}") {{ nodes {{ id }} }} }}')


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
async def test_a_moment_out_of_the_calendar_is_refused(anna: Someone, moment: str) -> None:
    literal = f'{{ tasks(filter: {{dueAt: {{lt: "{moment}"}}}}) {{ nodes {{ id }} }} }}'
    body = await anna.execute(literal)
    assert body["errors"][0]["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"
    variable = "query($m: DateTime) { tasks(filter: {dueAt: {lt: $m}}) { nodes { id } } }"
    body = await anna.execute(variable, m=moment)
    assert body["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"


LOG_OUT = "mutation { logOut(input: {}) { problems { message } } }"


async def test_a_socket_that_logged_out_does_nothing_more(whole: Served) -> None:
    someone = await sign_up(whole)
    async with opened(whole, someone) as connection:
        await say(connection, subscribe("{ viewer { username } }"))
        assert "errors" not in (await hear(connection))["payload"]
        assert (await hear(connection))["type"] == "complete"
        await say(connection, subscribe(LOG_OUT))
        assert (await hear(connection))["payload"]["data"] == {"logOut": {"problems": []}}
        create = 'mutation { createProject(input: {key: "LATE", name: "Late"}) { project { id } } }'
        await say(connection, subscribe(create, "2"))
        assert await hear(connection) == {"type": "complete", "id": "1"}
        with pytest.raises(ConnectionClosed) as closing:
            await hear(connection)
        assert closing.value.rcvd is not None
        assert closing.value.rcvd.code == 4401


async def test_a_socket_whose_login_was_ended_elsewhere_does_nothing_more(whole: Served) -> None:
    someone = await sign_up(whole)
    async with opened(whole, someone) as connection:
        await someone.ask(LOG_OUT)
        await say(connection, subscribe("{ viewer { username } }"))
        assert await closed(connection) == (4401, "Unauthorized: the login has ended")


@pytest.mark.parametrize("path", ["/graphql/", "/readyz/", "/exports/"])
async def test_a_slash_too_many_leads_nowhere(anna: Someone, path: str) -> None:
    found = await anna.served.client.get(path, headers={"host": "elsewhere.example"})
    assert found.status_code == 404
    assert "location" not in found.headers
