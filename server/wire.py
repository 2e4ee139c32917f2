"""Reading a body with bounds, and writing an answer, on plain ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Protocol

import orjson
from starlette.types import Receive, Send

from server.failures import Failure, failure

__all__ = ["ClientGone", "Refusal", "StopWhenGone", "read_body", "send_bytes"]

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
            size, more = 0, True
            while more:
                chunk, more = await _chunk(receive)
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


async def _chunk(receive: Receive) -> tuple[bytes, bool]:
    """The next part of a body, and whether another follows. Raises ClientGone."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message.get("body", b""), message.get("more_body", False)


async def drain(receive: Receive, size: int) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            more = True
            while more and size <= DRAINED_BYTES:
                chunk, more = await _chunk(receive)
                size += len(chunk)


async def send_bytes(
    send: Send,
    status: int,
    body: bytes,
    media: str | None,
    headers: Mapping[str, str] | None = None,
    own: Mapping[str, str] | None = None,
) -> None:
    """Write a whole response; without a media type one that has no body.

    ``own`` are headers that hardly another response has.
    """
    named = _encoded(media, tuple((headers or {}).items()))
    if media is not None:
        named = [*named, (b"content-length", b"%d" % len(body))]
    if own:
        named = [*named, *encoded(own)]
    await send({"type": "http.response.start", "status": status, "headers": named})
    await send({"type": "http.response.body", "body": body})


@lru_cache(maxsize=64)  # most responses have the same
def _encoded(media: str | None, headers: tuple[tuple[str, str], ...]) -> list[tuple[bytes, bytes]]:
    kind = {} if media is None else {"content-type": f"{media}; charset=utf-8"}
    return encoded({**dict(headers), **kind})


def encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI wants them."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


async def send_json(
    send: Send, status: int, value: object, media: str, headers: Mapping[str, str] | None = None
) -> None:
    await send_bytes(send, status, orjson.dumps(value), media, headers)


class StopWhenGone:
    """Stops the work inside when the client goes away, and raises ClientGone.

    Servers do not do that by themselves: abandoned queries would hold their connections to the
    end. The watch starts only for work that takes a while; most is done before.
    """

    __slots__ = ("_gone", "_receive", "_running", "_task", "_timer", "_watcher")

    def __init__(self, receive: Receive, running: Cancellable) -> None:
        self._receive = receive
        self._running = running
        self._gone = False
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(WATCH_AFTER_SECONDS, self._start, loop)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._gone and kind is asyncio.CancelledError:
            assert self._task is not None
            self._task.uncancel()
            raise ClientGone from None

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._watcher = loop.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        await self._running.cancel()
        assert self._task is not None
        self._task.cancel()
