"""Every input of the real schema, given what it must not be given.

The places come from the schema: a new mutation, field or connection is tried as well. Nothing may
be answered with a fault, show SQL, a path or whether a row of somebody else exists, or take long.
"""

import json
import re
from collections.abc import Mapping
from time import process_time
from typing import Any

import pytest
import pytest_asyncio
from graphql import GraphQLInputObjectType, GraphQLObjectType, get_named_type
from structlog.testing import capture_logs

from db.uuid7 import uuid7
from schema import ids
from tests.connections import Path, connections
from tests.edge.conftest import Served
from tests.edge.inputs import (
    SCHEMA,
    Place,
    document,
    entity,
    filled,
    is_chosen,
    mutations,
    places,
)
from tests.edge.test_bad_requests import CPU_SECONDS, LEAKS
from tests.edge.whole import Someone, sign_up

Ids = Mapping[str, str]

DIGITS = "9" * 5_000
NUL = "a\0b"
BAD_IDS = ["nonsense", "", "%", "task_' OR true --", "task_" + "0" * 5_000, f"nothing_{'0' * 32}"]
EXTREMES: dict[str, list[object]] = {
    "Int": [2**31 - 1, -(2**31)],
    "DateTime": ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"],
    "JSON": [{}, "text", [[[]]], 1e308, -0.0, None],
}
HASHING = re.compile(r"\b(signUp|logIn|changePassword|deleteAccount)\b")
"""What hashes a password takes as long as the hash is made to take."""


async def rows_of(someone: Someone) -> dict[str, str]:
    """The ids of one row of each type that an input can name."""
    task = (
        "createTask(input: {projectId: $project, title: %s}) { task { id } problems { message } }"
    )
    data = await someone.ask(
        """
        mutation {
          createProject(input: {key: "MINE", name: "Mine"}) { project { id } problems { message } }
          createWorker(input: {name: "Robot"}) { worker { id } problems { message } }
          createConversation(input: {}) { conversation { id } problems { message } }
          createDocument(input: {title: "Mine"}) { document { id } problems { message } }
          createApiKey(input: {name: "Mine", scopes: [READ]}) { apiKey { id } problems { message } }
        }
        """
    )
    found = {
        key: data[mutation][field]["id"]
        for key, mutation, field in (
            ("project", "createProject", "project"),
            ("worker", "createWorker", "worker"),
            ("conversation", "createConversation", "conversation"),
            ("document", "createDocument", "document"),
            ("api_key", "createApiKey", "apiKey"),
        )
    }
    tasks = await someone.ask(
        f"mutation($project: ID!, $a: String!, $b: String!) {{ a: {task % '$a'}"
        f" b: {task % '$b'} }}",
        a="a",
        b="b",
        project=found["project"],
    )
    message = await someone.ask(
        "mutation($id: ID!) { appendMessage(input: {conversationId: $id, role: USER,"
        ' content: "Hi"}) { message { id } problems { message } } }',
        id=found["conversation"],
    )
    sent = await someone.ask(
        "mutation { createConversation(input: {}) { conversation { id } problems { message } } }"
    )
    reply = await someone.ask(
        'mutation($id: ID!) { sendMessage(input: {conversationId: $id, content: "Hi"})'
        " { generation { id } problems { message } } }",
        id=sent["createConversation"]["conversation"]["id"],
    )
    sessions = await someone.ask("{ loginSessions { nodes { id } } viewer { id } }")
    return found | {
        "task": tasks["a"]["task"]["id"],
        "other_task": tasks["b"]["task"]["id"],
        "message": message["appendMessage"]["message"]["id"],
        "generation": reply["sendMessage"]["generation"]["id"],
        "login_session": sessions["loginSessions"]["nodes"][0]["id"],
        "user": sessions["viewer"]["id"],
    }


@pytest_asyncio.fixture(scope="session")
async def mine(anna: Someone) -> Ids:
    return await rows_of(anna)


@pytest_asyncio.fixture(scope="session")
async def theirs(bert: Someone) -> Ids:
    return await rows_of(bert)


async def harmless(someone: Someone, query: str, variables: str = "{}") -> tuple[int, Any]:
    """Status and body of an answer that costs little, and neither is a fault nor shows one."""
    spent = []
    for attempt in range(3):
        # a document is kept once checked: each try is another one, and checked again
        text = json.dumps(query + " " * attempt)
        body = f'{{"query": {text}, "variables": {variables}}}'.encode()
        with capture_logs() as logs:
            before = process_time()
            answer = await someone.post(body)
            spent.append(process_time() - before)
        assert answer.status_code in (200, 400), answer.text
        assert [line for line in logs if line["log_level"] in ("error", "critical")] == []
        assert LEAKS.search(answer.text.replace(query, "")) is None
        assert "INTERNAL_SERVER_ERROR" not in answer.text
        if spent[-1] < (CPU_SECONDS if not HASHING.search(query) else 1):
            return answer.status_code, answer.json()
    raise AssertionError(f"{min(spent) * 1000:.0f} ms of CPU: {query[:500]}")


def code(body: Any) -> str:
    """The code of an answer's first error."""
    return str(body["errors"][0]["extensions"]["code"])


@pytest.mark.parametrize("mutation", mutations())
async def test_a_nul_in_any_text_is_refused(anna: Someone, mine: Ids, mutation: str) -> None:
    for place in places(mutation, "String", "JSON", "ID"):
        value = filled(mutation, place, NUL, mine)
        status, body = await harmless(anna, document(mutation), json.dumps({"input": value}))
        assert (status, code(body)) == (400, "BAD_USER_INPUT"), place
        assert "U+0000" in body["errors"][0]["message"]


@pytest.mark.parametrize("mutation", mutations())
async def test_a_number_of_5000_digits_is_refused(anna: Someone, mine: Ids, mutation: str) -> None:
    for place in places(mutation, "Int", "JSON", "BigInt", "String", "ID", "DateTime"):
        value = json.dumps({"input": filled(mutation, place, "#", mine)}).replace('"#"', DIGITS)
        status, body = await harmless(anna, document(mutation), value)
        assert (status, code(body)) == (400, "BAD_REQUEST"), place
    for place in places(mutation, "Int", "JSON", "BigInt"):
        text = literal(filled(mutation, place, "#", mine)).replace('"#"', DIGITS)
        status, body = await harmless(anna, document(mutation, text))
        assert status == 400, place
        assert code(body) in ("BAD_USER_INPUT", "GRAPHQL_VALIDATION_FAILED"), body


def literal(value: Any) -> str:
    """A value as it stands in a document; enum values are told by their capitals."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {literal(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, str) and value.isalpha() and value.isupper():
        return value
    return json.dumps(value)


@pytest.mark.parametrize("mutation", mutations())
async def test_an_extreme_value_is_no_fault(anna: Someone, mine: Ids, mutation: str) -> None:
    for kind, values in EXTREMES.items():
        for place in places(mutation, kind):
            for extreme in values:
                value = filled(mutation, place, extreme, mine)
                await harmless(anna, document(mutation), json.dumps({"input": value}))


WITH_IDS = [name for name in mutations() if any(places(name, "ID"))]


@pytest.mark.parametrize("mutation", WITH_IDS)
async def test_what_is_no_id_is_a_problem_of_its_field(
    anna: Someone, mine: Ids, mutation: str
) -> None:
    for place in places(mutation, "ID"):
        key = entity(mutation, place[-1]).removeprefix("other_")
        other = mine["project"] if key != "project" else mine["task"]
        for bad in [*BAD_IDS, other]:
            value = filled(mutation, place, bad, mine)
            status, body = await harmless(anna, document(mutation), json.dumps({"input": value}))
            assert status == 200
            [problem] = body["data"][mutation]["problems"]
            assert (problem["code"], problem["rule"], problem["bound"]) == ("VALIDATION", "id", key)
            assert [part for part in problem["path"] if part != "0"] == ["input", *place]


@pytest.mark.parametrize("mutation", WITH_IDS)
async def test_a_strangers_id_is_as_the_id_of_nothing(
    anna: Someone, mine: Ids, theirs: Ids, mutation: str
) -> None:
    for place in places(mutation, "ID"):
        if is_chosen(mutation, place):
            continue
        key = entity(mutation, place[-1])
        missing = ids.encode(key.removeprefix("other_"), uuid7())
        answers = []
        for given in (theirs[key], missing):
            value = filled(mutation, place, given, mine)
            answer = await harmless(anna, document(mutation), json.dumps({"input": value}))
            answers.append(json.dumps(answer).replace(given, "the id"))
        assert answers[0] == answers[1], place
        [payload] = json.loads(answers[0])[1]["data"].values()
        assert payload["problems"] or mutation == "claimTasks", place


@pytest.mark.parametrize(
    ("mutation", "place"),
    [(name, place) for name in WITH_IDS for place in places(name, "ID") if is_chosen(name, place)],
)
async def test_a_strangers_id_can_be_chosen_as_any_other(
    whole: Served, bert: Someone, theirs: Ids, mutation: str, place: Place
) -> None:
    key = entity(mutation, place[-1])
    answers = []
    for given in (theirs[key], ids.encode(key, uuid7())):
        carla = await sign_up(whole)
        value = filled(mutation, place, given, await rows_of(carla))
        _, body = await harmless(carla, document(mutation), json.dumps({"input": value}))
        assert body["data"][mutation]["problems"] == []
        assert given in json.dumps(body)
        answers.append(re.sub("[0-9a-f]{32}", "an id", json.dumps(body)))
    assert answers[0] == answers[1]
    kept = await bert.ask("query($id: ID!) { node(id: $id) { id } }", id=theirs[key])
    assert kept == {"node": {"id": theirs[key]}}


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, field in SCHEMA.query_type.fields.items()  # type: ignore[union-attr]  # it has one
        if any(get_named_type(argument.type).name == "ID" for argument in field.args.values())
    ],
)
async def test_a_strangers_id_in_a_query_is_as_the_id_of_nothing(
    anna: Someone, theirs: Ids, name: str
) -> None:
    assert SCHEMA.query_type is not None
    field = SCHEMA.query_type.fields[name]
    [argument] = [one for one, about in field.args.items() if "ID" in str(about.type)]
    kind = get_named_type(field.type).name
    for key, identifier in theirs.items():
        answers = []
        for given in (identifier, ids.encode(key.removeprefix("other_"), uuid7())):
            query = (
                f"query($id: {field.args[argument].type}) {{ {name}({argument}: $id) {{ id }} }}"
            )
            listed = [given] if "[" in str(field.args[argument].type) else given
            answer = await harmless(anna, query, json.dumps({"id": listed}))
            answers.append(json.dumps(answer).replace(given, "the id"))
        assert answers[0] == answers[1], (kind, key)


def asked(path: Path, own: Ids, arguments: str, shown: str = "id") -> str:
    """A document that asks a connection with these arguments."""
    if path.is_root:
        return f"{{ {path.name}({arguments}) {{ nodes {{ {shown} }} }} }}"
    parent = SCHEMA.type_map[path.parent]
    assert isinstance(parent, GraphQLObjectType)
    needed = [name for name in parent.fields[path.name].args if name == "leafId"]
    named = "".join(f'{name}: "{own["message"]}", ' for name in needed)
    [identifier] = [own[key] for key in own if key == key_of(path.parent)]
    selection = f"{path.name}({named}{arguments}) {{ nodes {{ {shown} }} }}"
    return f'{{ node(id: "{identifier}") {{ ... on {path.parent} {{ {selection} }} }} }}'


def key_of(type_name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in type_name).removeprefix("_")


@pytest.mark.parametrize("path", connections(), ids=str)
async def test_bad_pages_are_refused_everywhere(anna: Someone, mine: Ids, path: Path) -> None:
    for arguments, allowed in (
        ("first: -1", {"BAD_USER_INPUT"}),
        ("last: -1", {"BAD_USER_INPUT"}),
        ("first: 100000", {"BAD_USER_INPUT", "QUERY_TOO_COMPLEX"}),
        ("last: 100000", {"BAD_USER_INPUT", "QUERY_TOO_COMPLEX"}),
        ("first: 1, last: 1", {"BAD_USER_INPUT"}),
        ('after: ""', {"BAD_CURSOR"}),
        ('after: "nonsense"', {"BAD_CURSOR"}),
        ('before: "bm9uc2Vuc2U="', {"BAD_CURSOR"}),
        (f'before: "{"A" * 50_000}"', {"BAD_CURSOR"}),
    ):
        _, body = await harmless(anna, asked(path, mine, arguments))
        assert code(body) in allowed, (arguments, body)


@pytest.mark.parametrize("path", connections(), ids=str)
async def test_wildcards_are_letters_everywhere(anna: Someone, mine: Ids, path: Path) -> None:
    parent = SCHEMA.type_map[path.parent]
    assert isinstance(parent, GraphQLObjectType)
    filter_type = get_named_type(parent.fields[path.name].args["filter"].type)
    assert isinstance(filter_type, GraphQLInputObjectType)
    for name, field in filter_type.fields.items():
        if get_named_type(field.type).name != "StringFilter":
            continue
        for pattern in ("%", "_", "\\", "%\\"):
            for operator, holds in (("contains", str.__contains__), ("startsWith", str.startswith)):
                arguments = f"filter: {{{name}: {{{operator}: {json.dumps(pattern)}}}}}"
                status, body = await harmless(anna, asked(path, mine, arguments, name))
                assert status == 200
                [page] = (
                    [body["data"][path.name]] if path.is_root else body["data"]["node"].values()
                )
                values = [node[name] for node in page["nodes"]]
                assert all(holds(value, pattern) for value in values), (name, pattern, values)
