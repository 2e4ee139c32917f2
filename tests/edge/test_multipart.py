"""Subscriptions as the parts of one response, frame by frame."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import orjson
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from server.app import create_app
from server.graphql import HttpOptions
from server.negotiation import negotiate
from tests.edge.conftest import GRAPHQL, JSON, MakeSettings, NewLogin, Served, serving
from tests.edge.schema import SECRET, done, edge_schema
from tests.edge.waiting import until

# As Apollo Client sends it.
APOLLO = f"multipart/mixed;boundary=graphql;subscriptionSpec=1.0,{GRAPHQL},{JSON};q=0.9"
OPENING = b"\r\n--graphql"
ENDING = b"--\r\n"


def part(payload: object) -> bytes:
    head = b"\r\ncontent-type: application/json\r\n\r\n"
    return head + orjson.dumps(payload) + b"\r\n--graphql"


HEARTBEAT = part({})


@asynccontextmanager
async def streaming(
    served: Served, query: str, accept: str = APOLLO, **headers: str
) -> AsyncIterator[httpx.Response]:
    async with served.client.stream(
        "POST", "/graphql", json={"query": query}, headers={"accept": accept} | headers
    ) as response:
        yield response


async def whole(served: Served, query: str, accept: str = APOLLO) -> bytes:
    """The response to its end."""
    async with asyncio.timeout(10), streaming(served, query, accept) as response:
        assert response.status_code == 200
        media = 'multipart/mixed;boundary="graphql";subscriptionSpec=1.0'
        assert response.headers["content-type"] == media
        assert response.headers["cache-control"] == "no-cache, no-transform"
        return await response.aread()


async def test_each_answer_is_the_payload_of_a_part(served: Served) -> None:
    assert await whole(served, "subscription { count(to: 2) }") == (
        OPENING
        + part({"payload": {"data": {"count": 0}}})
        + part({"payload": {"data": {"count": 1}}})
        + ENDING
    )


async def test_an_error_of_a_field_is_in_the_payload(served: Served) -> None:
    body = await whole(served, "subscription { tooBig }")
    first = orjson.loads(body.split(b"\r\n\r\n")[1].split(b"\r\n--graphql")[0])
    assert first["payload"]["data"] is None
    assert first["payload"]["errors"][0]["path"] == ["tooBig"]
    assert "errors" not in first


async def test_what_is_refused_ends_with_errors_beside_no_payload(served: Served) -> None:
    body = await whole(served, "subscription { refused }")
    last = orjson.loads(body.split(b"\r\n\r\n")[1].split(b"\r\n--graphql")[0])
    assert last["payload"] is None
    assert last["errors"][0]["message"] == "Not for you."
    assert last["errors"][0]["extensions"] == {"code": "FORBIDDEN"}
    assert body.startswith(OPENING)
    assert body.endswith(b"--graphql" + ENDING)


async def test_what_breaks_is_masked(served: Served) -> None:
    body = await whole(served, "subscription { breaks(after: 1) }")
    assert part({"payload": {"data": {"breaks": 0}}}) in body
    assert b'{"payload":null,"errors":[{"message":"Internal server error"' in body
    assert body.endswith(ENDING)
    assert SECRET.encode() not in body


async def test_queries_and_bad_documents_are_answered_as_json(served: Served) -> None:
    for query, status in (("{ hello }", 200), ("subscription { nothing }", 400)):
        answer = await served.post(query, {"accept": APOLLO})
        assert answer.headers["content-type"] == f"{GRAPHQL}; charset=utf-8"
        assert answer.status_code == status


async def test_who_reads_nothing_else_gets_one_part(served: Served) -> None:
    body = await whole(served, "{ hello }", "multipart/mixed;subscriptionSpec=1.0")
    assert body == OPENING + part({"payload": {"data": {"hello": "Hello, world!"}}}) + ENDING


@pytest.mark.parametrize(
    ("accept", "multipart", "events"),
    [
        ("multipart/mixed;subscriptionSpec=1.0", True, False),
        ('Multipart/Mixed; boundary="graphql"; subscriptionSpec="1.0", */*', True, False),
        ("multipart/mixed;subscriptionSpec=2.0, application/json", False, False),
        ("multipart/mixed;deferSpec=20220824,application/json", False, False),
        ("multipart/mixed", False, False),
        ("multipart/mixed;subscriptionSpec=1.0;q=0", False, False),
        ("multipart/mixed;subscriptionSpec=1.0, text/event-stream", True, False),
        ("multipart/mixed;subscriptionSpec=1.0;q=0.5, text/event-stream", False, True),
        ("text/event-stream", False, True),
    ],
)
def test_who_gets_parts(accept: str, multipart: bool, events: bool) -> None:
    accepted = negotiate(accept)
    assert (accepted.multipart, accepted.events) == (multipart, events)


async def test_who_accepts_no_stream_gets_no_subscription(served: Served) -> None:
    for accept in (JSON, "multipart/mixed;deferSpec=20220824, application/json"):
        answer = await served.post("subscription { count(to: 1) }", {"accept": accept})
        assert answer.status_code == 406
        assert "subscriptionSpec=1.0" in answer.json()["errors"][0]["message"]


async def test_a_quiet_stream_has_heartbeats_and_a_stopping_server_ends_it(
    make_settings: MakeSettings, name: str
) -> None:
    options = HttpOptions(heartbeat_seconds=0.1)
    app = create_app(make_settings(), schema=edge_schema, http_options=options)
    async with serving(app) as served:
        query = f'subscription {{ count(to: 9, every: 9, name: "{name}") }}'
        async with streaming(served, query) as response:
            chunks = response.aiter_raw()
            assert await anext(chunks) == OPENING  # the headers do not wait for an answer
            seen = b""
            while seen.count(HEARTBEAT) < 3:
                seen += await anext(chunks)
            assert seen.startswith(part({"payload": {"data": {"count": 0}}}) + HEARTBEAT)
            app.state.stopping.set()
            assert b"".join([chunk async for chunk in chunks]).endswith(ENDING)
    assert done[f"{name} closed"] == 1


async def test_a_client_that_leaves_ends_the_source(served: Served, name: str) -> None:
    query = f'subscription {{ count(to: 9, every: 9, name: "{name}") }}'
    async with streaming(served, query) as response:
        await anext(response.aiter_raw())
        await response.aclose()
    await until(lambda: done[f"{name} closed"] == 1)


async def test_a_revoked_login_ends_its_stream(
    served: Served, new_login: NewLogin, admin_engine: AsyncEngine
) -> None:
    login = await new_login()
    query = "subscription { count(to: 99, every: 1) }"
    async with streaming(served, query, **login.headers) as response:
        chunks = response.aiter_raw()
        await anext(chunks)
        async with admin_engine.connect() as admin:
            revoke = "UPDATE login_sessions SET revoked_at = now() WHERE id = :id"
            await admin.execute(text(revoke), {"id": login.id})
        async with asyncio.timeout(10):
            rest = b"".join([chunk async for chunk in chunks])
    message = b'{"payload":null,"errors":[{"message":"The login that opened this stream has ended."'
    assert message in rest
    assert rest.endswith(ENDING)


async def test_a_reader_that_does_not_read_is_given_up(
    make_settings: MakeSettings, name: str
) -> None:
    options = HttpOptions(send_seconds=0.5)
    app = create_app(make_settings(), schema=edge_schema, http_options=options)
    async with serving(app) as served:
        _reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1_000)
        query = f'subscription {{ flood(size: 100000, name: "{name}") }}'
        body = orjson.dumps({"query": query})
        writer.write(
            b"POST /graphql HTTP/1.1\r\nHost: x\r\nAccept: %s\r\n" % APOLLO.encode()
            + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
            + body
        )
        await until(lambda: done[f"{name} closed"] == 1)
        assert done[f"{name} sent"] < 200
        writer.close()
        await writer.wait_closed()
