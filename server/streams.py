"""Answers over HTTP, one after the other, for as long as the operation and its login last.

How they are framed is the transport's: server-sent events (``server.sse``) or the parts of a
multipart response (``server.multipart``). Something is sent now and then that keeps proxies from
closing a quiet stream. A reader that does not read is waited for, not buffered for, and given up
after a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog
from starlette.types import Receive, Send

from server.execution import Answer
from server.failures import failure
from server.wire import ClientGone, encoded

__all__ = ["Framing", "send_answers"]

log = structlog.get_logger("engram.server")

ENDED = "The login that opened this stream has ended."


@dataclass(frozen=True, slots=True)
class Framing:
    """How answers look on the wire."""

    media: str
    opening: bytes
    """Sent with the headers, before the first answer."""
    heartbeat: bytes
    answer: Callable[[Answer, str], bytes]
    """An answer, under its request's id."""
    ending: bytes


async def send_answers(
    receive: Receive,
    send: Send,
    answers: AsyncGenerator[Answer, None],
    framing: Framing,
    *,
    request_id: str,
    headers: Mapping[str, str],
    heartbeat_seconds: float,
    check_seconds: float,
    send_seconds: float,
    stopping: asyncio.Event,
    still_allowed: Callable[[], Awaitable[bool]],
) -> None:
    """Stream answers until they end, the client goes, its login ends, or the server stops.

    Raises ClientGone when the client does not read for ``send_seconds``.
    """
    head = {
        "content-type": framing.media,
        "cache-control": "no-cache, no-transform",
        "x-accel-buffering": "no",
        **headers,
    }
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": encoded(head),
        }
    )
    loop = asyncio.get_running_loop()

    async def write(data: bytes, *, more: bool = True) -> None:
        try:
            async with asyncio.timeout(send_seconds):
                await send({"type": "http.response.body", "body": data, "more_body": more})
        except TimeoutError:
            log.warning("slow_reader", request_id=request_id)
            raise ClientGone from None

    async def wait_until_gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    gone = asyncio.create_task(wait_until_gone())
    stop = asyncio.create_task(stopping.wait())
    coming: asyncio.Future[Answer] = asyncio.ensure_future(anext(answers))
    written = checked = loop.time()
    pause = min(check_seconds, heartbeat_seconds)
    try:
        await write(framing.opening)  # the headers go out at once, before the first answer
        while True:
            waiting: set[asyncio.Future[Any]] = {gone, stop, coming}
            await asyncio.wait(waiting, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                return
            if stop.done():
                break
            if loop.time() - checked >= check_seconds:
                checked = loop.time()
                if not await still_allowed():
                    ended = Answer.refusal(failure(ENDED, "UNAUTHENTICATED"))
                    await write(framing.answer(ended, request_id))
                    break
            if coming.done():
                try:
                    answer = coming.result()
                except StopAsyncIteration:
                    break
                await write(framing.answer(answer, request_id))
                written = loop.time()
                coming = asyncio.ensure_future(anext(answers))
            elif loop.time() - written >= heartbeat_seconds:
                await write(framing.heartbeat)
                written = loop.time()
        await write(framing.ending, more=False)
    finally:
        gone.cancel()
        stop.cancel()
        coming.cancel()
        with suppress(asyncio.CancelledError, StopAsyncIteration):
            await coming
        await answers.aclose()
