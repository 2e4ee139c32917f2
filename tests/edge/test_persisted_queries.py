"""Automatic persisted queries: a document by its hash, once it has been sent with it."""

import pytest

from server.documents import Documents
from server.guard import Limits
from server.requests import BadRequest, GraphQLRequest, hash_of
from tests.edge.conftest import GRAPHQL, JSON, Served
from tests.edge.persisted import HELLO, MISS, hashed, new_query, post
from tests.edge.schema import edge_schema
from tests.edge.sockets import answer, closed, complete, hear, opened, say


@pytest.mark.parametrize(("media", "status"), [(JSON, 200), (GRAPHQL, 400)])
async def test_a_hash_is_served_once_its_document_was_sent(
    served: Served, media: str, status: int
) -> None:
    query = new_query("($name: String!) { hello(name: $name) }")
    variables = {"name": "Anna"}
    assert await post(served, hashed(query), media) == (status, MISS)
    # the text alone does not register its hash
    await post(served, {"query": query, "variables": variables})
    assert await post(served, hashed(query), media) == (status, MISS)
    sent = await post(served, hashed(query, text=True, variables=variables), media)
    assert sent == (200, {"data": {"hello": "Hello, Anna!"}})
    for name in ("Bert", "Carla"):
        found = await post(served, hashed(query, variables={"name": name}), media)
        assert found == (200, {"data": {"hello": f"Hello, {name}!"}})


async def test_the_id_of_the_draft_is_the_same_hash(served: Served) -> None:
    query = new_query()
    by_id = {"documentId": f"sha256:{hash_of(query)}"}
    assert await post(served, by_id) == (200, MISS)
    await post(served, hashed(query, text=True))
    assert await post(served, by_id) == (200, HELLO)
    assert await post(served, {"documentId": "sha256:nonsense"}) == (200, MISS)
    assert await post(served, {"documentId": ""}) == (200, MISS)


@pytest.mark.parametrize("media", [JSON, GRAPHQL])
async def test_a_wrong_hash_registers_nothing(served: Served, media: str) -> None:
    query, other = new_query(), new_query("{ number(value: 1) }")
    wrong = hashed(other) | {"query": query}
    status, body = await post(served, wrong, media)
    assert (status, body["errors"][0]) == (
        400,
        {
            "message": "sha256Hash is not the SHA-256 of the query.",
            "extensions": {"code": "BAD_REQUEST"},
        },
    )
    for neither in (query, other):
        assert (await post(served, hashed(neither)))[1] == MISS


async def test_a_text_cannot_pose_as_the_document_of_a_hash(served: Served) -> None:
    query = new_query()
    for text in (hash_of(query), f"sha256:{hash_of(query)}"):
        assert (await post(served, {"query": text}))[1]["errors"][0]["extensions"] == {
            "code": "GRAPHQL_PARSE_FAILED"
        }
    assert await post(served, hashed(query)) == (200, MISS)
    assert await post(served, hashed(query, text=True)) == (200, HELLO)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("{", "GRAPHQL_PARSE_FAILED"),
        ("{ nothing }", "GRAPHQL_VALIDATION_FAILED"),
        ("{ " + "hello " * 300 + "}", "QUERY_TOO_COMPLEX"),
        ("{ hello }" + " " * 100_000, "QUERY_TOO_COMPLEX"),
    ],
)
async def test_a_refused_document_is_refused_by_its_hash_as_well(
    served: Served, query: str, code: str
) -> None:
    status, refused = await post(served, hashed(query, text=True), GRAPHQL)
    assert (status, refused["errors"][0]["extensions"]["code"]) == (400, code)
    again = (await post(served, hashed(query), GRAPHQL))[1]
    # what is too long is not kept either
    assert again == (MISS if len(query) > 100_000 else refused)


async def test_entries_of_a_batch_name_documents_for_themselves(developing: Served) -> None:
    query, other = new_query(), new_query()
    batch = [
        hashed(query),
        hashed(query, text=True),
        hashed(query),
        hashed(other) | {"query": query},
        hashed(other),
    ]
    status, answers = await post(developing, batch)
    assert status == 200
    assert answers[0] == answers[4] == MISS
    assert answers[1]["data"] == answers[2]["data"] == HELLO["data"]
    assert answers[3]["errors"][0]["extensions"]["code"] == "BAD_REQUEST"


async def test_hashes_over_a_socket(served: Served) -> None:
    query = new_query()
    async with opened(served) as connection:
        await say(connection, {"type": "subscribe", "id": "1", "payload": hashed(query)})
        assert await hear(connection) == {"type": "error", "id": "1", "payload": MISS["errors"]}
        for payload in (hashed(query, text=True), hashed(query)):
            await say(connection, {"type": "subscribe", "id": "1", "payload": payload})
            assert await hear(connection) == answer(HELLO["data"])
            assert await hear(connection) == complete()
        wrong = hashed(new_query()) | {"query": query}
        await say(connection, {"type": "subscribe", "id": "1", "payload": wrong})
        reason = "Invalid message: sha256Hash is not the SHA-256 of the query."
        assert await closed(connection) == (4400, reason)


HASH = "0" * 64
MALFORMED = [
    ({"documentId": 1}, "documentId must be a string."),
    ({"documentId": None}, "query must be a string."),
    ({"documentId": "x", "query": "{ hello }"}, "A request has a query or a documentId, not both."),
    (
        {"documentId": "x", **hashed("{ hello }")},
        "A request has a documentId or a persistedQuery, not both.",
    ),
    ({"extensions": {"persistedQuery": "x"}}, "persistedQuery must be an object of version 1."),
    (
        {"extensions": {"persistedQuery": {"version": 2, "sha256Hash": HASH}}},
        "persistedQuery must be an object of version 1.",
    ),
    ({"extensions": {"persistedQuery": {"version": 1}}}, "sha256Hash must be a string."),
    ({"query": "", **hashed("")}, "query must not be empty."),
    ({"query": 1, **hashed("{ hello }")}, "query must be a string."),
]


@pytest.mark.parametrize(("value", "message"), MALFORMED)
async def test_a_malformed_name_is_a_bad_request(
    served: Served, value: dict[str, object], message: str
) -> None:
    status, body = await post(served, value)
    assert (status, body["errors"][0]["message"]) == (400, message)
    with pytest.raises(BadRequest, match=message.replace(".", r"\.")):
        GraphQLRequest.read(value)


def test_what_is_remembered_is_bounded_in_number_and_in_size() -> None:
    documents = Documents(edge_schema._schema, Limits(), kept_documents=10, kept_characters=200)

    def ask(query: str, text: bool = True) -> bool:
        request = GraphQLRequest.read(hashed(query, text=text))
        return documents.find(request).errors == ()

    first, used = "{ hello } # first", "{ hello } # used"
    assert ask(first)
    assert ask(used)
    for number in range(12):
        assert ask(f"{{ hello }} # {number}")
        assert ask(used, text=False)  # what is used stays
    assert len(documents) == 10
    assert not ask(first, text=False)
    assert ask("{ hello } #" + "x" * 170)
    assert len(documents) <= 2
    assert not ask("{ hello } # 11", text=False)
