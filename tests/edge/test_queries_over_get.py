"""Queries over GET: of the manifest of trusted documents, with validators, and no others."""

import json
from pathlib import Path

import pytest

from server.app import create_app
from server.requests import hash_of
from tests.edge.conftest import GRAPHQL, JSON, MakeSettings, NewLogin, Served, serving
from tests.edge.manifest import GREET
from tests.edge.persisted import FORBIDDEN, HELLO, MISS, get, hashed, new_query, post
from tests.edge.schema import done, edge_schema

REVALIDATED = {"cache-control": "private, no-cache", "vary": "Accept, Authorization"}


async def test_a_query_over_get_can_be_revalidated(trusting: Served, new_login: NewLogin) -> None:
    variables = json.dumps({"name": "Änne"})
    first = await get(trusting, documentId="greet", variables=variables, operationName="Greet")
    assert (first.status_code, first.json()) == (200, {"data": {"hello": "Hello, Änne!"}})
    assert first.headers["content-type"] == f"{JSON}; charset=utf-8"
    assert first.headers.items() >= REVALIDATED.items()
    tag = first.headers["etag"]
    for held in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = await get(
            trusting, {"if-none-match": held}, documentId="greet", variables=variables
        )
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers.items() >= (REVALIDATED | {"etag": tag}).items()
        assert "content-type" not in again.headers
    other = await get(trusting, {"if-none-match": tag}, documentId="greet")
    assert (other.status_code, other.json()) == (200, HELLO)
    graphql = await get(
        trusting, {"if-none-match": tag, "accept": GRAPHQL}, documentId="greet", variables=variables
    )
    assert graphql.status_code == 200  # another representation
    assert graphql.headers["content-type"] == f"{GRAPHQL}; charset=utf-8"


async def test_an_answer_over_get_is_the_callers_own(trusting: Served, new_login: NewLogin) -> None:
    anna, bert = await new_login(), await new_login()
    answers = [await get(trusting, login.headers, documentId="who") for login in (anna, bert)]
    assert [answer.json()["data"]["whoami"] for answer in answers] == [
        f"user {anna.owner_id}",
        f"user {bert.owner_id}",
    ]
    held = {"if-none-match": answers[0].headers["etag"]}
    assert (await get(trusting, anna.headers | held, documentId="who")).status_code == 304
    assert (await get(trusting, bert.headers | held, documentId="who")).status_code == 200
    wrong = await get(trusting, {"authorization": "Bearer nonsense"} | held, documentId="who")
    assert wrong.status_code == 401


async def test_a_hash_over_get_is_of_the_manifest(trusting: Served, strict: Served) -> None:
    extensions = json.dumps(hashed(GREET)["extensions"])
    assert (await get(trusting, extensions=extensions)).json() == HELLO
    assert (await get(trusting, documentId=f"sha256:{hash_of(GREET)}")).json() == HELLO
    query = new_query()
    await post(trusting, hashed(query, text=True))
    for parameters in (
        {"extensions": json.dumps(hashed(query)["extensions"])},
        {"documentId": f"sha256:{hash_of(query)}"},
        {"documentId": "nobody"},
    ):
        missed = await get(trusting, **parameters)
        assert (missed.status_code, missed.json()) == (200, MISS)
        assert missed.headers["cache-control"] == "no-store"
        assert "etag" not in missed.headers
        assert (await get(trusting, {"accept": GRAPHQL}, **parameters)).status_code == 400
        assert (await get(strict, **parameters)).json() == FORBIDDEN


@pytest.mark.parametrize(
    "parameters",
    [
        {"documentId": "write", "variables": '{"name": "get"}'},
        {"documentId": "two", "operationName": "B"},
        {"documentId": "count"},
        {"query": "{ hello }"},
        {"query": GREET},
        {"query": GREET, "documentId": "greet"},
        {"query": GREET, "extensions": json.dumps(hashed(GREET)["extensions"])},
        {"operationName": "Greet"},
        {},
    ],
)
async def test_nothing_but_queries_of_the_manifest_is_asked_for_with_get(
    trusting: Served, parameters: dict[str, str]
) -> None:
    before = done.total()
    refused = await get(trusting, **parameters)
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert refused.json()["errors"][0]["extensions"]["code"] == "METHOD_NOT_ALLOWED"
    assert refused.headers["cache-control"] == "no-store"
    assert done.total() == before
    assert (await get(trusting, documentId="two", operationName="A")).status_code == 200


async def test_without_a_manifest_nothing_is_asked_for_with_get(served: Served) -> None:
    for parameters in ({"documentId": "greet"}, {"documentId": f"sha256:{hash_of(GREET)}"}):
        await post(served, hashed(GREET, text=True))
        refused = await get(served, **parameters)
        assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


async def test_an_answer_with_errors_is_not_kept(trusting: Served) -> None:
    answer = await get(trusting, documentId="boom")
    assert (answer.status_code, answer.json()["data"]["boom"]) == (200, None)
    assert answer.headers["cache-control"] == "no-store"
    assert "etag" not in answer.headers


@pytest.mark.parametrize(
    ("url", "status", "message"),
    [
        ("documentId=greet&variables={", 400, "variables must be JSON."),
        ("documentId=greet&variables=[]", 400, "variables must be an object or null."),
        ("documentId=greet&variables=NaN", 400, "variables must be JSON."),
        ("extensions=1", 400, "extensions must be an object or null."),
        ("extensions={}", 400, "query must be a string."),
        ("documentId=greet&documentId=who", 400, "The URL names a parameter twice."),
        ("documentId=%ff", 400, "The parameters of the URL are not readable."),
        ("documentId=greet" + "&a=b" * 20, 400, "The parameters of the URL are not readable."),
        ("documentId=" + "x" * 20_000, 414, "The URL's query is longer than 16,384 bytes."),
    ],
)
async def test_a_bad_url_has_its_exact_answer(
    trusting: Served, url: str, status: int, message: str
) -> None:
    refused = await trusting.client.get(f"/graphql?{url}")
    assert (refused.status_code, refused.json()["errors"][0]["message"]) == (status, message)
    assert refused.headers["cache-control"] == "no-store"


async def test_a_url_holds_the_same_variables_as_a_body(trusting: Served) -> None:
    nul = await get(trusting, documentId="greet", variables='{"name": "\\u0000"}')
    assert nul.json()["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"
    empty = await get(trusting, documentId="greet", variables="", operationName="", extensions="")
    assert empty.json() == HELLO
    refused = await get(trusting, {"accept": "text/event-stream"}, documentId="greet")
    assert refused.status_code == 406


async def test_browsers_of_named_origins_may_get(
    make_settings: MakeSettings, manifest: Path
) -> None:
    settings = make_settings(trusted_documents=manifest, allowed_origins=("https://app.test",))
    async with serving(create_app(settings, schema=edge_schema)) as served:
        origin = {"origin": "https://app.test"}
        asked = {
            "access-control-request-method": "GET",
            "access-control-request-headers": "authorization,if-none-match",
        }
        assert (await served.client.options("/graphql", headers=origin | asked)).is_success
        answer = await get(served, origin, documentId="greet")
        assert answer.headers["access-control-allow-origin"] == "https://app.test"
        assert "etag" in answer.headers["access-control-expose-headers"]
        assert answer.headers["vary"] == "Accept, Authorization, Origin"
