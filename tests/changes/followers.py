"""Clients of the feed that are thrown off again and again, over each transport."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from random import Random
from typing import Any

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

DOCUMENT = """subscription($after: String) {
    changes(after: $after) { cursor entityId version }
}"""
Change = dict[str, Any]


class Refused(Exception):
    """The server said no."""


async def over_events(url: str, token: str, after: str | None) -> AsyncIterator[Change]:
    """As server-sent events."""
    async for line in _lines(url, token, after, "text/event-stream"):
        if line.startswith("data: {"):
            yield _change(json.loads(line.removeprefix("data: ")))


async def over_parts(url: str, token: str, after: str | None) -> AsyncIterator[Change]:
    """As the parts of a multipart response."""
    accept = "multipart/mixed;boundary=graphql;subscriptionSpec=1.0,application/json"
    async for line in _lines(url, token, after, accept):
        if line.startswith("{") and line != "{}":
            part = json.loads(line)
            yield _change(part["payload"] or part)


async def _lines(url: str, token: str, after: str | None, accept: str) -> AsyncIterator[str]:
    headers = {"authorization": f"Bearer {token}", "accept": accept}
    body = {"query": DOCUMENT, "variables": {"after": after}}
    async with (
        httpx.AsyncClient(timeout=30) as client,
        client.stream("POST", url, json=body, headers=headers) as response,
    ):
        if response.status_code >= 500:
            raise httpx.ReadError("not ready")
        async for line in response.aiter_lines():
            yield line


async def over_socket(url: str, token: str, after: str | None) -> AsyncIterator[Change]:
    """Over a WebSocket."""
    address = url.replace("http://", "ws://")
    async with connect(address, subprotocols=[Subprotocol("graphql-transport-ws")]) as socket:
        login = {"authorization": f"Bearer {token}"}
        await socket.send(json.dumps({"type": "connection_init", "payload": login}))
        request = {"query": DOCUMENT, "variables": {"after": after}}
        async for frame in socket:
            message = json.loads(frame)
            match message["type"]:
                case "connection_ack":
                    asked = {"type": "subscribe", "id": "1", "payload": request}
                    await socket.send(json.dumps(asked))
                case "next":
                    yield _change(message["payload"])
                case "error":
                    yield _change({"errors": message["payload"]})
                case "complete":
                    return


def _change(answer: dict[str, Any]) -> Change:
    if answer.get("errors"):
        error = answer["errors"][0]
        if error["extensions"]["code"] == "INTERNAL_SERVER_ERROR":
            raise httpx.ReadError(error["message"])  # the database was away
        raise Refused(error)
    change: Change = answer["data"]["changes"]
    return change


TRANSPORTS = (over_events, over_parts, over_socket)


class Follower:
    """Follows the feed, leaves when it likes, and comes back at any server with its cursor."""

    def __init__(self, servers: Callable[[], list[str]], token: str, seed: int) -> None:
        self._servers = servers
        self._token = token
        self._random = Random(seed)
        self._transport = TRANSPORTS[seed % len(TRANSPORTS)]
        self.seen: list[Change] = []
        self.cursor: str | None = None
        self.connected = 0

    async def follow(self) -> None:
        """Follow until cancelled."""
        while True:
            url = self._random.choice(self._servers())
            patience = self._random.uniform(0.2, 2.0)
            try:
                async with (
                    asyncio.timeout(patience),
                    aclosing(self._transport(url, self._token, self.cursor)) as changes,  # type: ignore[type-var]  # a generator
                ):
                    self.connected += 1
                    async for change in changes:
                        self.seen.append(change)
                        self.cursor = change["cursor"]
            except (httpx.TransportError, WebSocketException, OSError, TimeoutError):
                await asyncio.sleep(0.02)
