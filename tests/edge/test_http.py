"""GraphQL over HTTP: media types, status codes, batches, ids of requests, clients that leave."""

import asyncio
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from structlog.testing import capture_logs

from server.app import create_app
from tests.edge.conftest import GRAPHQL, JSON, MakeSettings, NewLogin, Served, serving
from tests.edge.schema import SECRET, done, edge_schema
from tests.edge.waiting import until

HELLO = {"data": {"hello": "Hello, world!"}}


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        (None, JSON),
        ("*/*", JSON),
        (JSON, JSON),
        ("application/*", JSON),
        (GRAPHQL, GRAPHQL),
        (f"{GRAPHQL}, {JSON}", GRAPHQL),
        (f"{JSON}, {GRAPHQL}", GRAPHQL),
        (f"{GRAPHQL};q=0.5, {JSON}", JSON),
        (f"{GRAPHQL}; charset=utf-8, */*;q=0.1", GRAPHQL),
        # urql asks for everything it can read, and expects JSON for a query
        (
            f"{GRAPHQL}, application/graphql+json, {JSON}, text/event-stream, multipart/mixed",
            GRAPHQL,
        ),
        ("text/event-stream, */*", JSON),
    ],
)
async def test_the_answer_is_what_the_client_accepts(
    served: Served, accept: str | None, media: str
) -> None:
    request = served.client.build_request("POST", "/graphql", json={"query": "{ hello }"})
    del request.headers["accept"]
    if accept is not None:
        request.headers["accept"] = accept
    answer = await served.client.send(request)
    assert (answer.status_code, answer.json()) == (200, HELLO)
    assert answer.headers["content-type"] == f"{media}; charset=utf-8"
    assert answer.headers["vary"] == "Accept"


@pytest.mark.parametrize("query", ["{", "{ nothing }", "query($n: Int!) { number(value: $n) }"])
@pytest.mark.parametrize(("media", "status"), [(JSON, 200), (GRAPHQL, 400)])
async def test_a_refused_document_has_no_data(
    served: Served, query: str, media: str, status: int
) -> None:
    answer = await served.post(query, {"accept": media})
    assert answer.status_code == status
    assert set(answer.json()) == {"errors"}


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
async def test_only_post_asks(served: Served, method: str) -> None:
    answer = await served.client.request(method, "/graphql?query={hello}")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    if method != "HEAD":
        assert answer.json()["errors"][0]["extensions"]["code"] == "METHOD_NOT_ALLOWED"


async def test_the_operation_is_chosen_by_its_name(served: Served) -> None:
    two = 'query A { hello } query B { hello(name: "B") }'
    answer = await served.client.post("/graphql", json={"query": two, "operationName": "B"})
    assert answer.json() == {"data": {"hello": "Hello, B!"}}


@pytest.mark.parametrize(
    ("query", "data", "path"),
    [
        ("{ hello boom }", {"hello": "Hello, world!", "boom": None}, ["boom"]),
        ("{ hello boomNonNull }", None, ["boomNonNull"]),
        ("{ tooBig }", {"tooBig": None}, ["tooBig"]),
    ],
)
async def test_a_fault_is_masked_and_logged_under_the_id_that_the_client_sees(
    served: Served, query: str, data: object, path: list[str]
) -> None:
    with capture_logs() as logs:
        answer = await served.post(query)
    assert answer.status_code == 200
    body = answer.json()
    assert body["data"] == data
    [error] = body["errors"]
    assert (error["message"], error["path"]) == ("Internal server error", path)
    request_id = answer.headers["x-request-id"]
    assert error["extensions"] == {"code": "INTERNAL_SERVER_ERROR", "requestId": request_id}
    assert SECRET not in answer.text
    [fault] = [line for line in logs if line["event"] == "unexpected_error"]
    assert fault["request_id"] == request_id
    assert isinstance(fault["exc_info"], Exception)


@pytest.mark.parametrize("field", ["noJson", "surrogate"])
async def test_data_that_json_cannot_hold_is_a_fault(served: Served, field: str) -> None:
    answer = await served.post(f"{{ {field} }}")
    assert answer.status_code == 200
    assert answer.json()["data"] is None
    assert answer.json()["errors"][0]["extensions"]["code"] == "INTERNAL_SERVER_ERROR"


async def test_an_error_with_a_code_is_shown(served: Served) -> None:
    [error] = (await served.post("{ badId }")).json()["errors"]
    assert error == {
        "message": "This is no id.",
        "locations": [{"line": 1, "column": 3}],
        "path": ["badId"],
        "extensions": {"code": "BAD_ID"},
    }


async def test_a_request_keeps_its_sane_id(served: Served) -> None:
    answer = await served.post("{ requestId }", {"x-request-id": "abc-123.DEF:4"})
    assert answer.headers["x-request-id"] == "abc-123.DEF:4"
    assert answer.json() == {"data": {"requestId": "abc-123.DEF:4"}}


@pytest.mark.parametrize(
    "brought", ["short", "has spaces in it", 'quote"quote', "x" * 65, "-dashed-"]
)
async def test_an_id_that_is_not_sane_is_replaced(served: Served, brought: str) -> None:
    answer = await served.post("{ requestId }", {"x-request-id": brought})
    request_id = answer.headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", request_id)
    assert answer.json() == {"data": {"requestId": request_id}}


async def test_an_operation_is_one_line_in_the_log(served: Served, new_login: NewLogin) -> None:
    login = await new_login()
    with capture_logs() as logs:
        answer = await served.post("query Count { statements(count: 3) whoami }", login.headers)
    assert answer.json()["data"]["whoami"] == f"user {login.owner_id}"
    [line] = [line for line in logs if line["event"] == "operation"]
    assert line["milliseconds"] >= line.pop("database_ms") > 0
    assert line.pop("milliseconds") < 5_000
    assert line == {
        "event": "operation",
        "log_level": "info",
        "name": "Count",
        "type": "query",
        "actor_id": str(login.id),
        "statements": 3,
        "rows": 3,
        "cost": 0,
        "status": "ok",
        "request_id": answer.headers["x-request-id"],
    }


async def test_developers_see_what_an_answer_cost(developing: Served, served: Served) -> None:
    query = "{ statements things { nodes { name } } }"
    cost = (await developing.post(query)).json()["extensions"]["engram"]
    assert (cost["rows"], cost["cost"]) == (2, 20)
    assert [statement["sql"] for statement in cost["statements"]] == ["SELECT 1 AS one"] * 2
    assert cost["milliseconds"] > 0
    assert "extensions" not in (await served.post(query)).json()


async def test_developers_get_suggestions_and_nobody_else(
    developing: Served, served: Served
) -> None:
    [error] = (await developing.post("{ helo }")).json()["errors"]
    assert "Did you mean 'hello'?" in error["message"]
    [error] = (await served.post("{ helo }")).json()["errors"]
    assert "hello" not in error["message"]


async def test_a_batch_answers_each_entry_by_itself(developing: Served) -> None:
    batch = [
        {"query": "{ hello }"},
        {"query": "{ nothing }"},
        42,
        {"query": "{ boom }"},
        {"query": "subscription { count(to: 1) }"},
        {"query": 'mutation { write(name: "batch") }'},
    ]
    answer = await developing.client.post("/graphql", json=batch)
    assert answer.status_code == 200
    entries = answer.json()
    assert (entries[0]["data"], entries[5]["data"]) == (HELLO["data"], {"write": "batch"})
    assert [entry["errors"][0]["extensions"]["code"] for entry in entries[1:5]] == [
        "GRAPHQL_VALIDATION_FAILED",
        "BAD_REQUEST",
        "INTERNAL_SERVER_ERROR",
        "BAD_REQUEST",
    ]
    for wrong in ([], [{"query": "{ hello }"}] * 9):
        refused = await developing.client.post("/graphql", json=wrong)
        assert refused.status_code == 400
        assert refused.json()["errors"][0]["message"] == "A batch holds 1 to 8 requests."


async def leave(served: Served, query: str, started: str) -> None:
    """Ask, and close the connection once the server works on it."""
    async with httpx.AsyncClient(base_url=served.client.base_url) as client:
        asking = asyncio.create_task(client.post("/graphql", json={"query": query}))
        await until(lambda: done[started])
        await asyncio.sleep(0.1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_a_client_that_leaves_stops_its_query(served: Served, name: str) -> None:
    with capture_logs() as logs:
        query = f'{{ sleep(seconds: 20, name: "{name}") }}'
        await leave(served, query, f"{name} started")
        await until(lambda: [line for line in logs if line["event"] == "operation"], 5)
    [line] = [line for line in logs if line["event"] == "operation"]
    assert line["status"] in ("cancelled", "errors")
    assert line["milliseconds"] < 5_000
    assert done[f"{name} finished"] == 0
    assert [line for line in logs if line["log_level"] == "error"] == []


async def test_abandoned_queries_do_not_exhaust_the_pool(served: Served, name: str) -> None:
    query = f'{{ sleep(seconds: 20, name: "{name}") }}'
    await asyncio.gather(*(leave(served, query, f"{name} started") for _ in range(12)))
    async with asyncio.timeout(5):
        answer = await served.post("{ statements }")
    assert answer.json() == {"data": {"statements": 2}}


async def test_a_client_that_leaves_lets_its_mutation_finish(served: Served, name: str) -> None:
    query = f'mutation {{ write(name: "{name}", seconds: 0.5) }}'
    await leave(served, query, f"{name} started")
    await until(lambda: done[f"{name} finished"] == 1)


async def test_a_body_that_trickles_in_is_not_waited_for(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
    writer.write(b"Content-Length: 100\r\n\r\n{")
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n")
    assert head == b"HTTP/1.1 408 Request Timeout\r\n"
    writer.close()


async def test_whether_it_lives_and_whether_it_can_work(served: Served) -> None:
    assert (await served.client.get("/healthz")).json() == {"status": "ok"}
    ready = await served.client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json() == {
        "status": "ok",
        "database": "ok",
        "migrations": "ok",
        "row_security": "ok",
        "pool": "ok",
    }


async def test_only_named_origins_may_ask_from_browsers(make_settings: MakeSettings) -> None:
    settings = make_settings(allowed_origins=("https://app.test",))
    async with serving(create_app(settings, schema=edge_schema)) as served:
        asked = {
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type",
        }
        for origin, allowed in (("https://app.test", True), ("https://evil.test", False)):
            headers = asked | {"origin": origin}
            preflight = await served.client.options("/graphql", headers=headers)
            assert preflight.is_success is allowed
            answer = await served.post("{ hello }", {"origin": origin})
            expected = origin if allowed else None
            assert answer.headers.get("access-control-allow-origin") == expected
            assert "access-control-allow-credentials" not in answer.headers


async def test_a_body_without_a_length_is_bounded_as_well(served: Served) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b'{"query": "'
        for _ in range(400):
            yield b"x" * 50_000

    headers = {"content-type": JSON}
    answer = await served.client.post("/graphql", content=endless(), headers=headers)
    assert answer.status_code == 413
    assert answer.json()["errors"][0]["extensions"]["code"] == "PAYLOAD_TOO_LARGE"
    assert (await served.post("{ hello }")).json() == HELLO


@pytest.mark.parametrize("path", ["/", "/nothing", "/graphql/", "/graphql/assets/../app.py"])
async def test_every_answer_has_an_id(served: Served, path: str) -> None:
    answer = await served.client.get(path)
    assert answer.status_code in (307, 404, 405)
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
    assert answer.headers["x-content-type-options"] == "nosniff"
