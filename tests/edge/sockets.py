"""Speaking graphql-transport-ws by hand."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.edge.conftest import Served

PROTOCOL = Subprotocol("graphql-transport-ws")
INIT = {"type": "connection_init"}
ACK = {"type": "connection_ack"}


class HasToken(Protocol):
    @property
    def token(self) -> str: ...


@asynccontextmanager
async def opened(
    served: Served, login: HasToken | None = None, **options: Any
) -> AsyncIterator[ClientConnection]:
    """A socket that has been acknowledged."""
    async with connect(served.socket_url, subprotocols=[PROTOCOL], **options) as connection:
        payload = {"authorization": f"Bearer {login.token}"} if login else {}
        await say(connection, INIT | {"payload": payload})
        assert await hear(connection) == ACK
        yield connection


async def say(connection: ClientConnection, message: object) -> None:
    await connection.send(json.dumps(message))


async def hear(connection: ClientConnection) -> Any:
    async with asyncio.timeout(10):
        frame = await connection.recv()
    assert isinstance(frame, str), "frames are text"
    return json.loads(frame)


async def closed(connection: ClientConnection) -> tuple[int, str]:
    """Read on until the server closes; its code and reason."""
    async with asyncio.timeout(10):
        with pytest.raises(ConnectionClosed) as closing:
            while True:
                await connection.recv()
    received = closing.value.rcvd
    assert received is not None
    return received.code, received.reason


def subscribe(query: str, identifier: object = "1", **others: object) -> dict[str, object]:
    return {"type": "subscribe", "id": identifier, "payload": {"query": query} | others}


def answer(data: object, identifier: str = "1") -> dict[str, object]:
    return {"type": "next", "id": identifier, "payload": {"data": data}}


def complete(identifier: str = "1") -> dict[str, object]:
    return {"type": "complete", "id": identifier}
