"""How soon what a model writes is read, and what writing it down costs.

One process of Engram, a provider of models in another (`tests/provider.py`, which speaks the real
protocol), and followers in a third, on a disk that is waited for. Each word of the model is the
time when the provider sent it, so what is measured is all that lies between: reading the provider,
gathering, the commit, the notice, reading it again, the socket.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from benchmarks.asking import Disagreement
from benchmarks.dataset import HOME, Dataset
from benchmarks.following import ADMIT
from benchmarks.meters import CpuTime
from benchmarks.peers import PEERS, Peer, Running, started
from db import tokens
from db.embedded import EmbeddedServer
from db.migrate import upgrade

FOLDER = HOME / "replies"
DATABASE = "replies"
PER_SOCKET = 50
WORD_CHARS = 3.33
"""The mean length of a word of prose, with its space."""
PERSON = """
    INSERT INTO users (username, email, password_hash)
    VALUES ('bench' || $1::int, 'bench' || $1::int || '@example.org', 'none') RETURNING id
"""
START = "mutation { answer: createConversation(input: {}) { conversation { id } } }"
SEND = """mutation($input: SendMessageInput!) { answer: sendMessage(input: $input) {
    generation { id } problems { message } } }"""
STREAM = """subscription($id: ID!) { generationStream(id: $id) {
    seq text message { status content } } }"""
WORD = re.compile(r"\d+\.\d{4}")


@dataclass
class Person:
    """Somebody, and a way to ask."""

    owner: UUID
    token: str
    client: httpx.AsyncClient

    async def ask(self, query: str, **variables: Any) -> Any:
        response = await self.client.post(
            "/graphql",
            json={"query": query, "variables": variables},
            headers={"authorization": f"Bearer {self.token}"},
        )
        body = response.json()
        if "errors" in body or body["data"]["answer"].get("problems"):
            raise Disagreement(response.text[:500])
        return body["data"]["answer"]

    async def send(self, model: str) -> str:
        """The id of the generation of a new reply in a new conversation."""
        conversation = (await self.ask(START))["conversation"]["id"]
        given = {"conversationId": conversation, "content": "Hi", "reply": {"model": model}}
        identifier: str = (await self.ask(SEND, input=given))["generation"]["id"]
        return identifier


@dataclass
class Heard:
    """What a follower heard: how late each word was, and of each delta the first."""

    words: list[float]
    firsts: list[float]
    deltas: int = 0
    content: str = ""


async def follow(connection: ClientConnection, ids: list[str]) -> dict[str, Heard]:
    """Follow replies over one socket to their end."""
    heard = {str(n): Heard([], []) for n in range(len(ids))}
    left = set(heard)
    for number, id in enumerate(ids):
        payload = {"query": STREAM, "variables": {"id": id}}
        await connection.send(
            orjson.dumps({"type": "subscribe", "id": str(number), "payload": payload}).decode()
        )
    while left:
        message = orjson.loads(await connection.recv())
        now = time.time()
        if message["type"] == "complete":
            left.discard(message["id"])
        elif message["type"] == "next":
            one = heard[message["id"]]
            event = message["payload"]["data"]["generationStream"]
            text = event["text"]
            if event["message"]:
                one.content = event["message"]["content"]
                text = " ".join(WORD.findall(one.content)[len(one.words) :])
            late = [(now - float(word)) * 1000 for word in WORD.findall(text)]
            if late and not one.words:
                one.firsts.append(late[0])
            one.words += late
            one.deltas += 1
        elif message["type"] != "pong":
            raise Disagreement(str(message)[:500])
    return heard


@asynccontextmanager
async def socket_of(port: int, token: str) -> AsyncIterator[ClientConnection]:
    """A socket that has been acknowledged."""
    protocol = Subprotocol("graphql-transport-ws")
    url = f"ws://127.0.0.1:{port}/graphql"
    async with connect(url, subprotocols=[protocol], compression=None, max_size=None) as socket:
        hello = {"type": "connection_init", "payload": {"authorization": f"Bearer {token}"}}
        await socket.send(orjson.dumps(hello).decode())
        await socket.recv()
        yield socket


class Bench:
    """The server, its people, and what is measured."""

    def __init__(self, data: Dataset, server: Running, people: list[Person]) -> None:
        self.data = data
        self.server = server
        self.people = people
        self.postmaster = int((FOLDER / "postgres" / "postmaster.pid").read_text().split("\n")[0])

    async def first(self, times: int) -> None:
        """Print how late the first delta of a reply is, when nothing else goes on."""
        late = []
        person = self.people[0]
        async with socket_of(self.server.port, person.token) as socket:
            for number in range(times + 5):
                [heard] = (await follow(socket, [await person.send("clock-3-400")])).values()
                if number >= 5:
                    late.append(heard.firsts[0])
        late.sort()
        print(
            f"first delta of {times} replies, one after the other: p50 {median(late):.1f} ms,"
            f" p99 {late[times * 99 // 100]:.1f}, most {late[-1]:.1f}",
            flush=True,
        )

    async def many(self, streams: int, words: int, pause: float) -> None:
        """Print how late words are when many replies are written at once."""
        model = f"clock-{words}-{pause}"
        by_person: dict[str, list[str]] = {}

        async def begin(number: int) -> None:
            await asyncio.sleep(number * 0.01)
            person = self.people[number % len(self.people)]
            by_person.setdefault(person.token, []).append(await person.send(model))

        async def watch(token: str, ids: list[str]) -> list[Heard]:
            async with socket_of(self.server.port, token) as socket:
                return list((await follow(socket, ids)).values())

        await asyncio.gather(*(begin(number) for number in range(streams)))
        pids = (self.server.pid, self.postmaster)
        before, started_at = [CpuTime.of(pid) for pid in pids], time.perf_counter()
        found = await asyncio.gather(
            *(
                watch(token, ids[first : first + PER_SOCKET])
                for token, ids in by_person.items()
                for first in range(0, len(ids), PER_SOCKET)
            )
        )
        seconds = time.perf_counter() - started_at
        spent = [
            one.until(CpuTime.of(pid)) / seconds for one, pid in zip(before, pids, strict=True)
        ]
        heard = [one for some in found for one in some]
        if any(len(one.words) < words for one in heard):
            raise Disagreement("words are missing")
        # Followers come when replies are under way: what they missed is not late, it was early.
        late = sorted(word for one in heard for word in one.words[words // 4 :])
        count = len(late)
        deltas = sum(one.deltas for one in heard)
        print(
            f"{streams} replies at once of {len(by_person)} people, {1000 / pause:.0f} words a"
            f" second each, {deltas / seconds:.0f} deltas a second in all:"
            f" p50 {late[count // 2]:.0f} ms, p99 {late[count * 99 // 100]:.0f},"
            f" most {late[-1]:.0f}; server {spent[0]:.2f} cores, PostgreSQL {spent[1]:.2f}",
            flush=True,
        )

    async def wal(self, replies: int, kilobytes: int, pause: float) -> None:
        """Print how much is written ahead for a reply of so many kilobytes."""
        connection = await asyncpg.connect(self.data.server.admin_url(self.data.name))
        person = self.people[0]
        words = int(kilobytes * 1024 / WORD_CHARS)

        async def reply() -> tuple[int, int]:
            async with socket_of(self.server.port, person.token) as socket:
                [heard] = (
                    await follow(socket, [await person.send(f"prose-{words}-{pause}")])
                ).values()
            return heard.deltas, len(heard.content)

        await reply()
        await connection.execute("CHECKPOINT")
        await reply()  # after a checkpoint each page is written whole once
        before = await connection.fetchval("SELECT pg_current_wal_insert_lsn()::text")
        done = await asyncio.gather(*(reply() for _ in range(replies)))
        written = await connection.fetchval(
            "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1::text::pg_lsn)", before
        )
        await connection.close()
        size = median(size for _, size in done) / 1024
        print(
            f"written ahead for each of {replies} replies of {size:.0f} KB in"
            f" {median(deltas for deltas, _ in done):.0f} deltas:"
            f" {float(written) / replies / 1e6:.3f} MB",
            flush=True,
        )

    async def waiting(self, streams: int) -> None:
        """Print how many connections are in use while providers are silent."""
        people = self.people
        ids = await asyncio.gather(
            *(people[n % len(people)].send("hangs-0") for n in range(streams))
        )
        await asyncio.sleep(2)
        connection = await asyncpg.connect(self.data.server.admin_url(self.data.name))
        seen = []
        for _ in range(100):
            seen.append(
                await connection.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND pid <> pg_backend_pid() AND state <> 'idle'"
                )
            )
            await asyncio.sleep(0.02)
        await connection.close()
        print(
            f"connections in use while {len(ids)} replies wait for the provider, seen 100 times:"
            f" median {median(seen):.0f}, most {max(seen)} (leases are held every few seconds)",
            flush=True,
        )


async def replies(*, streams: int, people: int, kilobytes: int) -> None:
    """Print latencies, the write-ahead log of a reply, and connections in use."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with EmbeddedServer.start(FOLDER) as server:
        server.drop_database(DATABASE)
        server.create_database(DATABASE)
        await upgrade(server.url(DATABASE))
        data = Dataset(server, DATABASE, 0, (), ())
        with (
            started(_provider(), data) as provider,
            started(_engram(provider.port), data) as engram,
        ):
            print(f"load of the machine before: {os.getloadavg()[0]:.2f} on {os.cpu_count()}")
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{engram.port}", timeout=60
            ) as client:
                bench = Bench(data, engram, await _people(data, people, client))
                await bench.first(50)
                await bench.many(streams, 200, 50.0)
                await bench.wal(5, kilobytes, 60_000 * WORD_CHARS / (kilobytes * 1024))
                await bench.waiting(streams)
            print(f"load of the machine after: {os.getloadavg()[0]:.2f}")
        server.drop_database(DATABASE)


def _provider() -> Peer:
    return Peer(
        "provider",
        "The provider of models",
        PEERS["engram"].dialect,
        lambda _: [sys.executable, "-m", "tests.provider"],
        lambda _: {},
    )


def _engram(provider: int) -> Peer:
    engram = PEERS["engram"]
    model = {"LLM_BASE_URL": f"http://127.0.0.1:{provider}/v1", "LLM_MODEL": "echo"}
    return replace(engram, environment=lambda data: {**engram.environment(data), **model})


async def _people(data: Dataset, count: int, client: httpx.AsyncClient) -> list[Person]:
    connection = await asyncpg.connect(data.server.admin_url(data.name))
    found = []
    for number in range(count):
        owner = UUID(int=(await connection.fetchval(PERSON, number)).int)
        minted = tokens.mint(owner)
        await connection.execute(ADMIT, owner, minted.hash)
        found.append(Person(owner, minted.token, client))
    await connection.close()
    return found
