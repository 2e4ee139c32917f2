"""Clients that ask for much and read nothing of it, over HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import psutil
import pytest_asyncio

from server.app import create_app
from server.connections import http_protocol
from tests.edge.conftest import MakeSettings, Served, serving
from tests.edge.whole import Someone, sign_up

TAKE_SECONDS = 0.5
CHARS = 400_000
QUERY = "{ documents(first: 20) { nodes { content } } }"
CREATE = (
    "mutation($documents: [NewDocumentInput!]!, $key: String!) {"
    " createDocuments(input: { documents: $documents, idempotencyKey: $key })"
    " { problems { message } } }"
)


@pytest_asyncio.fixture(scope="module")
async def impatient(make_settings: MakeSettings) -> AsyncIterator[Served]:
    """A server that does not wait long for readers."""
    protocol = http_protocol(5, take_seconds=TAKE_SECONDS)
    async with serving(create_app(make_settings()), http=protocol) as served:
        yield served


@pytest_asyncio.fixture(scope="module")
async def someone(impatient: Served) -> Someone:
    """A person with more than sockets hold."""
    someone = await sign_up(impatient)
    for key in ("1", "2"):
        documents = [{"title": f"{n}", "content": "x" * CHARS} for n in range(10)]
        await someone.ask(CREATE, documents=documents, key=key)
    return someone


async def ask(
    served: Served, someone: Someone
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    body = json.dumps({"query": QUERY}).encode()
    head = (
        "POST /graphql HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {someone.token}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    small.connect(("127.0.0.1", served.port))
    reader, writer = await asyncio.open_connection(sock=small, limit=1_024)
    writer.write(head.encode() + body)
    return reader, writer


def is_kept(served: Served, writer: asyncio.StreamWriter) -> bool:
    """Whether the server holds the connection still."""
    ends = served.port, writer.get_extra_info("sockname")[1]
    held = psutil.Process().net_connections("tcp")
    return any((one.laddr.port, one.raddr.port) == ends for one in held if one.raddr)


async def test_an_answer_that_nobody_takes_is_not_kept(impatient: Served, someone: Someone) -> None:
    reader, writer = await ask(impatient, someone)
    await reader.readuntil(b"\r\n\r\n")  # and no more, so that its buffers fill
    assert is_kept(impatient, writer)
    async with asyncio.timeout(20):
        while is_kept(impatient, writer):  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0.05)
    writer.transport.abort()


async def test_a_slow_reader_gets_all_of_it(impatient: Served, someone: Someone) -> None:
    reader, writer = await ask(impatient, someone)
    await reader.readuntil(b"\r\n\r\n")
    for _ in range(20):
        await reader.readexactly(CHARS)
        await asyncio.sleep(TAKE_SECONDS / 5)
    writer.close()
