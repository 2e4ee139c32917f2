"""GraphQL over server-sent events, byte by byte."""

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
from tests.edge.conftest import GRAPHQL, JSON, MakeSettings, NewLogin, Served, serving
from tests.edge.schema import SECRET, done, edge_schema
from tests.edge.waiting import until

EVENTS = "text/event-stream"
COMPLETE = b"event: complete\ndata:\n\n"


def event(payload: object) -> bytes:
    return b"event: next\ndata: " + orjson.dumps(payload) + b"\n\n"


@asynccontextmanager
async def streaming(
    served: Served, query: str, accept: str = EVENTS, **headers: str
) -> AsyncIterator[httpx.Response]:
    async with served.client.stream(
        "POST", "/graphql", json={"query": query}, headers={"accept": accept} | headers
    ) as response:
        yield response


async def whole(served: Served, query: str, accept: str = EVENTS) -> bytes:
    """The stream to its end, without the comment that opens it."""
    async with asyncio.timeout(10), streaming(served, query, accept) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-cache, no-transform"
        body = await response.aread()
    assert b"\r" not in body
    return body.removeprefix(b":\n\n")


async def test_a_subscription_is_a_stream(served: Served) -> None:
    assert await whole(served, "subscription { count(to: 2) }") == (
        event({"data": {"count": 0}}) + event({"data": {"count": 1}}) + COMPLETE
    )


@pytest.mark.parametrize("accept", [f"{GRAPHQL}, {EVENTS}", f"{EVENTS}, {JSON}", f"*/*, {EVENTS}"])
async def test_a_client_that_accepts_both_gets_streams_for_subscriptions_alone(
    served: Served, accept: str
) -> None:
    stream = await whole(served, "subscription { count(to: 1) }", accept)
    assert stream == event({"data": {"count": 0}}) + COMPLETE
    answer = await served.post("{ hello }", {"accept": accept})
    assert answer.json() == {"data": {"hello": "Hello, world!"}}


async def test_a_client_that_accepts_nothing_else_gets_streams(served: Served) -> None:
    hello = event({"data": {"hello": "Hello, world!"}})
    assert await whole(served, "{ hello }") == hello + COMPLETE
    written = event({"data": {"write": "stream"}})
    assert await whole(served, 'mutation { write(name: "stream") }') == written + COMPLETE


async def test_a_refused_document_is_an_event_with_errors(served: Served) -> None:
    stream = await whole(served, "{ nothing }")
    assert stream.startswith(b'event: next\ndata: {"errors":[{"message":"Cannot query field')
    assert stream.endswith(COMPLETE)


@pytest.mark.parametrize("query", ["subscription { breaks(after: 1) }", "{ boom }"])
async def test_faults_are_masked(served: Served, query: str) -> None:
    stream = await whole(served, query)
    assert b'"Internal server error"' in stream
    assert SECRET.encode() not in stream


async def test_a_client_that_leaves_ends_the_source(served: Served, name: str) -> None:
    query = f'subscription {{ count(to: 9, every: 9, name: "{name}") }}'
    async with streaming(served, query) as response:
        chunks = response.aiter_raw()
        assert await anext(chunks) == b":\n\n"  # the headers do not wait for an event
        assert await anext(chunks) == event({"data": {"count": 0}})
        await response.aclose()
    await until(lambda: done[f"{name} closed"] == 1)


async def test_a_client_that_leaves_lets_its_mutation_finish(served: Served, name: str) -> None:
    query = f'mutation {{ write(name: "{name}", seconds: 0.5) }}'
    async with streaming(served, query) as response:
        await until(lambda: done[f"{name} started"])
        await response.aclose()
    await until(lambda: done[f"{name} finished"] == 1)


async def test_a_quiet_stream_has_heartbeats_and_a_stopping_server_ends_it(
    make_settings: MakeSettings, name: str
) -> None:
    options = HttpOptions(heartbeat_seconds=0.1)
    app = create_app(make_settings(), schema=edge_schema, http_options=options)
    async with serving(app) as served:
        query = f'subscription {{ count(to: 9, every: 9, name: "{name}") }}'
        async with streaming(served, query) as response:
            chunks = response.aiter_raw()
            seen = b""
            while seen.count(b":\n\n") < 4:
                seen += await anext(chunks)
            app.state.stopping.set()
            assert b"".join([chunk async for chunk in chunks]).endswith(COMPLETE)
    assert done[f"{name} closed"] == 1


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
    assert b'"message":"The login that opened this stream has ended."' in rest
    assert rest.endswith(COMPLETE)


async def test_a_reader_that_does_not_read_is_given_up(
    make_settings: MakeSettings, name: str
) -> None:
    options = HttpOptions(send_seconds=0.5)
    app = create_app(make_settings(), schema=edge_schema, http_options=options)
    async with serving(app) as served:
        # a client of the standard library: it stops reading once its small buffer is full
        _reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1_000)
        query = f'subscription {{ flood(size: 100000, name: "{name}") }}'
        body = orjson.dumps({"query": query})
        writer.write(
            b"POST /graphql HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        await until(lambda: done[f"{name} closed"] == 1)
        assert done[f"{name} sent"] < 200
        writer.close()
        await writer.wait_closed()
