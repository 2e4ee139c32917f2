"""Reading a body with bounds, and writing an answer, on plain ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import orjson
from starlette.types import Receive, Send

from server.failures import Failure, failure

__all__ = ["ClientGone", "Refusal", "read_body", "send_bytes", "stop_when_gone"]

# A client that is refused while it still sends rarely looks for the answer: what it sends on is
# read and thrown away for a moment, so that it does.
DRAINED_BYTES = 32 * 1024 * 1024
DRAIN_SECONDS = 5.0
WATCH_AFTER_SECONDS = 0.05


class ClientGone(Exception):
    """The client has closed its connection; nobody waits for the answer."""


class Refusal(Exception):
    """A request that is not GraphQL over HTTP, with the status that says so."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.failure: Failure = failure(message, code)
        self.headers = dict(headers or {})


class Cancellable(Protocol):
    """Something that runs until it is told to stop."""

    async def cancel(self) -> None: ...


async def read_body(
    receive: Receive, declared: str | None, *, max_bytes: int, seconds: float
) -> bytes:
    """The whole body. Raises Refusal (413, 408) and ClientGone."""
    try:
        async with asyncio.timeout(seconds):
            if declared is not None and declared.isdecimal() and int(declared[:20]) > max_bytes:
                await drain(receive, 0)
                raise too_large(max_bytes)
            chunks: list[bytes] = []
            size = 0
            async for chunk in chunks_of(receive):
                size += len(chunk)
                if size > max_bytes:
                    chunks.clear()
                    await drain(receive, size)
                    raise too_large(max_bytes)
                chunks.append(chunk)
    except TimeoutError:
        message = f"The body did not arrive within {seconds:g} seconds."
        raise Refusal(408, "REQUEST_TIMEOUT", message, {"connection": "close"}) from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def too_large(max_bytes: int) -> Refusal:
    message = f"The body is larger than {max_bytes:,} bytes."
    return Refusal(413, "PAYLOAD_TOO_LARGE", message, {"connection": "close"})


async def chunks_of(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        yield chunk


async def drain(receive: Receive, size: int) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            async for chunk in chunks_of(receive):
                size += len(chunk)
                if size > DRAINED_BYTES:
                    return


async def send_bytes(
    send: Send,
    status: int,
    body: bytes,
    media: str | None,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Write a whole response; without a media type one that has no body."""
    named = dict(headers or {})
    if media is not None:
        named |= {"content-type": f"{media}; charset=utf-8", "content-length": str(len(body))}
    await send({"type": "http.response.start", "status": status, "headers": encoded(named)})
    await send({"type": "http.response.body", "body": body})


def encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI wants them."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


async def send_json(
    send: Send, status: int, value: object, media: str, headers: Mapping[str, str] | None = None
) -> None:
    await send_bytes(send, status, orjson.dumps(value), media, headers)


@asynccontextmanager
async def stop_when_gone(receive: Receive, running: Cancellable) -> AsyncIterator[None]:
    """Stop the work inside when the client goes away, and raise ClientGone.

    Servers do not do that by themselves: abandoned queries would hold their connections to the
    end. The watch starts only for work that takes a while; most is done before.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    watcher: asyncio.Task[None] | None = None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        await running.cancel()
        task.cancel()

    def start() -> None:
        nonlocal watcher
        watcher = loop.create_task(watch())

    timer = loop.call_later(WATCH_AFTER_SECONDS, start)
    try:
        yield
    except asyncio.CancelledError:
        if gone:
            task.uncancel()
            raise ClientGone from None
        raise
    finally:
        timer.cancel()
        if watcher is not None:
            watcher.cancel()
