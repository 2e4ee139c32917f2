"""Clients that are slow, silent, gone or many, at a server process of their own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from uuid import uuid4

import asyncpg
import httpx
import psutil
import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.examples.running import Account, sign_up
from tests.faults.requests import CREATE, PROJECT, close_writing, headers_of, post
from tests.processes import Serving
from tests.properties import IS_LONG

PROTOCOL = Subprotocol("graphql-transport-ws")
SOCKETS = 1_000
MOST_BYTES_OF_A_SOCKET = 200_000
HEADER_SECONDS = 2
CHANGES = 300 if IS_LONG else 80
"""Of 200,000 bytes each, as a subscriber is told of them."""


@pytest_asyncio.fixture(scope="module")
async def serving(
    database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Serving]:
    settings = {
        "DATABASE_URL": database_url,
        "DATABASE_POOL_SIZE": "4",
        "BODY_TIMEOUT_SECONDS": str(HEADER_SECONDS),
        "BACKGROUND_WORK": "false",
        "LOG_LEVEL": "error",
        "RATE_LIMIT_COST": "off",
    }
    folder = tmp_path_factory.mktemp("clients")
    served = await asyncio.to_thread(lambda: Serving(folder, **settings))
    yield served
    await asyncio.to_thread(served.kill)


@pytest_asyncio.fixture(scope="module")
async def someone(serving: Serving) -> Account:
    return await sign_up(serving)


@pytest_asyncio.fixture(scope="module")
async def project(someone: Account) -> str:
    identifier: str = (await someone.ask(PROJECT))["createProject"]["project"]["id"]
    return identifier


@pytest_asyncio.fixture
async def admin(admin_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(admin_url)
    yield connection
    await connection.close()


async def until(come: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(20):
        while not await come():  # noqa: ASYNC110  # the database tells nobody
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "sent", [b"", b"POST /graphql HTTP/1.1\r\nhost: a\r\n", headers_of(b"", length=100) + b'{"que']
)
async def test_a_request_that_does_not_arrive_is_not_waited_for(
    serving: Serving, someone: Account, sent: bytes
) -> None:
    """Slow headers and slow bodies: they end, and cost nobody else anything."""
    slow = [await asyncio.open_connection("127.0.0.1", serving.port) for _ in range(50)]
    for _, writer in slow:
        writer.write(sent)
    await someone.ask("{ viewer { id } }")
    async with asyncio.timeout(HEADER_SECONDS + 15):
        for reader, writer in slow:
            rest = await reader.read()
            assert rest == b"" or rest.startswith(b"HTTP/1.1 408 ")
            writer.close()


async def test_headers_that_trickle_in_after_an_answer_are_not_waited_for(
    serving: Serving,
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
    await reader.readuntil(b"}")
    writer.write(b"GET /healthz HTTP/1.1\r\n")

    async def trickle() -> None:
        while True:
            writer.write(b"x: y\r\n")
            await asyncio.sleep(0.2)

    trickling = asyncio.create_task(trickle())
    async with asyncio.timeout(HEADER_SECONDS + 15):
        assert await reader.read() == b""
    trickling.cancel()
    writer.close()


async def test_a_client_that_says_no_more_has_its_mutation_done(
    serving: Serving, someone: Account, project: str
) -> None:
    """A half-closed socket is a client that leaves, as far as anybody can tell."""
    for number in range(20):
        _, writer = await asyncio.open_connection("127.0.0.1", serving.port)
        writer.write(post(someone.token, CREATE, project=project, title=f"half {number}"))
        close_writing(writer)
        writer.close()

    async def all_there() -> bool:
        data = await someone.ask("{ tasks(first: 100) { nodes { title } } }")
        titles = {node["title"] for node in data["tasks"]["nodes"]}
        return {f"half {number}" for number in range(20)} <= titles

    await until(all_there)


async def test_a_client_that_leaves_ends_its_query_and_not_its_mutation(
    serving: Serving, someone: Account, project: str, admin: asyncpg.Connection
) -> None:
    """Seen in the database: what waits for a lock there is cancelled, or waits on."""

    async def waiting() -> int:
        count: int = await admin.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock'"
        )
        return count

    title = uuid4().hex
    async with admin.transaction():
        await admin.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        _, query = await asyncio.open_connection("127.0.0.1", serving.port)
        query.write(post(someone.token, "{ tasks(first: 1) { nodes { id } } }"))
        await until(waiting)
        query.transport.abort()

        async def nobody() -> bool:
            return await waiting() == 0

        await until(nobody)
        _, mutation = await asyncio.open_connection("127.0.0.1", serving.port)
        mutation.write(post(someone.token, CREATE, project=project, title=title))
        await until(waiting)
        mutation.transport.abort()
    there = "SELECT count(*) FROM tasks WHERE title = $1"
    await until(lambda: admin.fetchval(there, title))


async def introduced(serving: Serving, account: Account) -> ClientConnection:
    url = f"ws://127.0.0.1:{serving.port}/graphql"
    connection = await connect(
        url, subprotocols=[PROTOCOL], compression=None, ping_interval=None, close_timeout=1
    )
    payload = {"authorization": f"Bearer {account.token}"}
    await connection.send(json.dumps({"type": "connection_init", "payload": payload}))
    assert json.loads(await connection.recv())["type"] == "connection_ack"
    return connection


async def test_a_thousand_idle_sockets(
    serving: Serving, someone: Account, record_property: Callable[[str, object], None]
) -> None:
    process = psutil.Process(serving.process.pid)
    before = process.memory_info().rss
    async with AsyncExitStack() as stack:
        sockets: list[ClientConnection] = []
        for _ in range(SOCKETS // 50):
            opening = (introduced(serving, someone) for _ in range(50))
            sockets += await asyncio.gather(*opening)
        for connection in sockets:
            stack.push_async_callback(connection.close)
        each = (process.memory_info().rss - before) / SOCKETS
        await someone.ask("{ viewer { id } }")
        assert all(connection.close_code is None for connection in sockets)
    record_property("idle sockets", SOCKETS)
    record_property("bytes of memory each", round(each))
    assert each < MOST_BYTES_OF_A_SOCKET


async def test_a_subscriber_that_never_reads_costs_nobody_anything(
    serving: Serving,
    someone: Account,
    project: str,
    record_property: Callable[[str, object], None],
) -> None:
    fields = " ".join(f"d{number}: description" for number in range(20))
    query = f'subscription {{ taskChanged(projectId: "{project}") {{ {fields} }} }}'
    message = json.dumps({"id": "1", "type": "subscribe", "payload": {"query": query}})
    deaf, reader = [await introduced(serving, someone) for _ in range(2)]
    for connection in (deaf, reader):
        await connection.send(message)
    deaf.transport.pause_reading()
    process = psutil.Process(serving.process.pid)
    data = await someone.ask(CREATE, project=project, title="deaf")
    task = data["createTask"]["task"]["id"]
    before, heard = process.memory_info().rss, 0
    change = (
        "mutation($id: ID!, $text: String!) { updateTask(input: { id: $id, description: $text })"
        " { problems { message } } }"
    )

    async def listen() -> None:
        nonlocal heard
        async for frame in reader:
            heard += json.loads(frame)["type"] == "next"

    listening = asyncio.create_task(listen())
    for _ in range(CHANGES):
        await someone.ask(change, id=task, text="x" * 10_000)

    async def well_heard() -> bool:
        return heard >= CHANGES // 2  # changes of one row that come together are told as one

    await until(well_heard)
    listening.cancel()
    grown = process.memory_info().rss - before
    record_property("bytes said to the deaf", CHANGES * 200_000)
    record_property("bytes kept for it", grown)
    assert grown < CHANGES * 200_000 / 2
    deaf.transport.abort()
    await deaf.wait_closed()
    await reader.close()


async def test_all_connections_are_given_back(
    serving: Serving, someone: Account, admin: asyncpg.Connection
) -> None:
    """After all of the above."""
    async with httpx.AsyncClient(base_url=serving.url, timeout=20) as client:
        headers = {"authorization": f"Bearer {someone.token}"}
        asked = {"query": "{ tasks(first: 1) { nodes { id } } }"}
        answers = await asyncio.gather(
            *(client.post("/graphql", json=asked, headers=headers) for _ in range(30))
        )
    assert all("errors" not in answer.json() for answer in answers)
    idle = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND state LIKE 'idle in transaction%'"
    )
    assert await admin.fetchval(idle) == 0
