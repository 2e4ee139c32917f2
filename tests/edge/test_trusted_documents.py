"""Documents of the operator's manifest: by their id, and as the only ones that are served."""

import json
from pathlib import Path
from typing import Any

import pytest

from server.app import create_app
from server.documents import Documents
from server.guard import Limits
from server.requests import GraphQLRequest, hash_of
from server.startup import StartupError
from tests.edge.conftest import GRAPHQL, JSON, MakeSettings, Served, serving
from tests.edge.manifest import DOCUMENTS, GREET, WHO
from tests.edge.persisted import FORBIDDEN, HELLO, MISS, hashed, new_query, post
from tests.edge.schema import edge_schema
from tests.edge.sockets import answer, complete, hear, opened, say, subscribe

# By id, over POST and over a socket


@pytest.mark.parametrize("identifier", ["greet", f"sha256:{hash_of(GREET)}", hash_of(GREET)])
async def test_a_document_is_known_by_its_id_and_by_its_hash(
    trusting: Served, identifier: str
) -> None:
    variables = {"name": "Anna"}
    expected = (200, {"data": {"hello": "Hello, Anna!"}})
    assert await post(trusting, {"documentId": identifier, "variables": variables}) == expected
    persisted = {"version": 1, "sha256Hash": identifier.removeprefix("sha256:")}
    request = {"extensions": {"persistedQuery": persisted}, "variables": variables}
    assert await post(trusting, request) == expected


@pytest.mark.parametrize(("media", "status"), [(JSON, 200), (GRAPHQL, 400)])
async def test_an_unknown_id_is_not_found(trusting: Served, media: str, status: int) -> None:
    for identifier in ("nobody", GREET, f"sha256:{hash_of('nobody')}"):
        assert await post(trusting, {"documentId": identifier}, media) == (status, MISS)


async def test_beside_the_manifest_everything_is_as_without_it(trusting: Served) -> None:
    assert (await trusting.post("{ hello }")).json() == HELLO
    query = new_query()
    assert await post(trusting, hashed(query)) == (200, MISS)
    assert await post(trusting, hashed(query, text=True)) == (200, HELLO)
    assert await post(trusting, hashed(query)) == (200, HELLO)


async def test_the_limits_of_variables_hold(trusting: Served) -> None:
    status, body = await post(trusting, {"documentId": "pages", "variables": {"first": 2}}, GRAPHQL)
    assert status == 200
    request = {"documentId": "pages", "variables": {"first": 50}}
    status, body = await post(trusting, request, GRAPHQL)
    assert (status, body["errors"][0]["extensions"]["limit"]) == (400, "cost")


def test_trusted_documents_are_never_evicted() -> None:
    documents = Documents(edge_schema._schema, Limits(), kept_documents=2)
    for identifier, text in DOCUMENTS.items():
        documents.trust(identifier, text)
    for _ in range(20):
        documents.prepare(new_query())
    assert len(documents) == 2
    for identifier, text in DOCUMENTS.items():
        found = [
            documents.find(GraphQLRequest(document_id=name)) for name in (identifier, hash_of(text))
        ]
        assert found[0] is found[1]
        assert found[0].errors == ()


async def test_entries_of_a_batch(trusting: Served, strict: Served) -> None:
    batch = [
        {"documentId": "greet"},
        {"documentId": "nobody"},
        hashed(GREET),
        {"query": "{ hello }"},
    ]
    assert await post(trusting, batch) == (200, [HELLO, MISS, HELLO, HELLO])
    assert await post(strict, batch) == (200, [HELLO, FORBIDDEN, HELLO, FORBIDDEN])


async def test_ids_over_a_socket(trusting: Served) -> None:
    async with opened(trusting) as connection:
        for payload, data in (
            ({"documentId": "greet"}, {"hello": "Hello, world!"}),
            ({"documentId": "two", "operationName": "A"}, {"hello": "Hello, world!"}),
        ):
            await say(connection, {"type": "subscribe", "id": "1", "payload": payload})
            assert await hear(connection) == answer(data)
            assert await hear(connection) == complete()
        unknown = {"type": "subscribe", "id": "1", "payload": {"documentId": "nobody"}}
        await say(connection, unknown)
        assert await hear(connection) == {"type": "error", "id": "1", "payload": MISS["errors"]}


# The only ones


@pytest.mark.parametrize(("media", "status"), [(JSON, 200), (GRAPHQL, 400)])
async def test_others_are_refused_where_only_these_are_served(
    strict: Served, media: str, status: int
) -> None:
    for request in (
        {"query": "{ hello }"},
        {"query": "{"},
        {"query": GREET + " "},
        {"documentId": "nobody"},
        hashed(new_query()),
        hashed(new_query(), text=True),
    ):
        assert await post(strict, request, media) == (status, FORBIDDEN)
    for request in ({"documentId": "greet"}, {"query": GREET}, hashed(GREET, text=True)):
        assert await post(strict, request, media) == (200, HELLO)


async def test_others_are_refused_over_a_socket_as_well(strict: Served) -> None:
    async with opened(strict) as connection:
        for payload in (
            {"query": "{ hello }"},
            {"query": "subscription { count(to: 2) }"},
            hashed(new_query(), text=True),
            {"documentId": "nobody"},
        ):
            await say(connection, {"type": "subscribe", "id": "1", "payload": payload})
            refused = {"type": "error", "id": "1", "payload": FORBIDDEN["errors"]}
            assert await hear(connection) == refused
        await say(connection, {"type": "subscribe", "id": "1", "payload": {"documentId": "count"}})
        assert [await hear(connection) for _ in range(3)] == [
            answer({"count": 0}),
            answer({"count": 1}),
            complete(),
        ]
        await say(connection, subscribe(GREET))
        assert await hear(connection) == answer(HELLO["data"])


async def test_there_is_no_page_to_try_other_documents_on(trusting: Served, strict: Served) -> None:
    html = {"accept": "text/html"}
    assert (await trusting.client.get("/graphql", headers=html)).status_code == 200
    assert (await strict.client.get("/graphql", headers=html)).status_code == 405


# The file


APOLLO: dict[str, Any] = {
    "format": "apollo-persisted-query-manifest",
    "version": 1,
    "operations": [
        {"id": hash_of(GREET), "name": "Greet", "type": "query", "body": GREET},
        {"id": "custom", "name": "Who", "type": "query", "body": WHO},
    ],
}


async def test_the_manifest_of_apollo(make_settings: MakeSettings, tmp_path: Path) -> None:
    path = tmp_path / "persisted-query-manifest.json"
    path.write_text(json.dumps(APOLLO))
    settings = make_settings(trusted_documents=path, trusted_documents_only=True)
    async with serving(create_app(settings, schema=edge_schema)) as served:
        for request in ({"documentId": hash_of(GREET)}, hashed(GREET)):
            assert await post(served, request) == (200, HELLO)
        assert await post(served, {"documentId": "custom"}) == (200, {"data": {"whoami": None}})


BROKEN = [
    ("{", "is not JSON: unexpected end of data."),
    ("[]", "is no manifest of trusted documents that Engram knows."),
    ('{"a": 1}', "is no manifest of trusted documents that Engram knows."),
    ('{"a": " "}', "is no manifest of trusted documents that Engram knows."),
    (json.dumps(APOLLO | {"version": 2}), "is no manifest of trusted documents that Engram knows."),
    (
        json.dumps(APOLLO | {"operations": [{"id": "a"}]}),
        "is no manifest of trusted documents that Engram knows.",
    ),
    (
        json.dumps(
            APOLLO | {"operations": [APOLLO["operations"][0], {"id": hash_of(GREET), "body": WHO}]}
        ),
        f'has two documents of the id "{hash_of(GREET)}".',
    ),
    (
        json.dumps({f"sha256:{hash_of(WHO)}": GREET}),
        f': "sha256:{hash_of(WHO)}" is not the hash of its document.',
    ),
    (
        json.dumps({"greet": GREET, "wrong": "query Wrong {\n  nothing\n}"}),
        'The trusted document "wrong" (query Wrong { nothing }) cannot be served: '
        "Cannot query field 'nothing' on type 'Query' (line 2, column 3).",
    ),
    (
        json.dumps({"half": "query {"}),
        'The trusted document "half" (query {) cannot be served: '
        "Syntax Error: Expected Name, found <EOF> (line 1, column 8).",
    ),
    (
        json.dumps({"many": "{ " + "hello " * 300 + "}"}),
        'The trusted document "many" (' + "{ " + "hello " * 8 + "hello…) cannot be served: "
        "The document is too complex: root fields 300, at most 20 allowed (line 1, column 1).",
    ),
]


@pytest.mark.parametrize(("text", "message"), BROKEN)
def test_a_document_that_cannot_be_served_stops_the_start(
    make_settings: MakeSettings, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "documents.json"
    path.write_text(text)
    with pytest.raises(StartupError) as error:
        create_app(make_settings(trusted_documents=path), schema=edge_schema)
    assert str(error.value).endswith(message)
    path.write_text(json.dumps(DOCUMENTS))
    create_app(make_settings(trusted_documents=path), schema=edge_schema)


def test_a_manifest_that_is_not_there_stops_the_start(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    path = tmp_path / "nothing.json"
    with pytest.raises(StartupError) as error:
        create_app(make_settings(trusted_documents=path), schema=edge_schema)
    expected = f"The trusted documents cannot be read: {path}: No such file or directory."
    assert str(error.value) == expected
