"""A provider of models that speaks the real protocol: OpenAI's chat completions, streamed.

What it does is in the name of the model that is asked, so that any client can choose it:

    echo               says what it was told, word by word
    words-N-MS         N words, one every MS milliseconds (and parts of them)
    clock-N-MS         the same, each word the time when it was sent
    prose-N-MS         the same, with words as often as in a language
    gated              words, each of which waits for `release`
    thinks             reasons, then answers;  thinks-openrouter: under the other name of the field
    tools              calls two tools, in pieces;  tools-same: all pieces have the index 0;
                       tools-none: none, and each piece repeats its id
    noisy              as words, among comments and events without data
    done-N             N words, then the end of the stream without a reason
    endless            a word, then a line that never ends
    status-N           answers with the status N
    busy-N             429 with Retry-After the first N times, then as echo
    busy-long          429 with a Retry-After of an hour
    broke              429, as the credit is used up
    breaks-N           N words, then the connection breaks
    ends-N             N words, then the answer ends without having ended
    hangs-N            N words, then nothing more
    silent             not even headers
    malformed          three words, then what is no JSON;  malformed-shape: JSON of another shape;
                       malformed-number: a number that is too large
    fails              three words, then an error in the stream
    cut                says that it had to stop at the limit
    odd                characters that cannot be stored, and halves of one in two pieces
    halves             the same with time between the halves, in the reason to end and the usage too

In a test it runs beside it, on the same loop: `async with providing() as provider`. Alone:
`PORT=8001 python -m tests.provider`.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import uvicorn
from starlette.types import Message, Receive, Scope, Send

KEY = "sk-secret-of-the-tests"
VOCABULARY = ["the", "of", "and", "to", "in", "a", "is", "that", "it", "was", "for", "on", "are"]

NOISE = [
    b": ping\n\n", b"retry: 5\n\n", b"event: x\n\n", b"id: 1\r\n\r\n", b"data:\n\n", b"no\r\r",
]  # fmt: skip


class Broken(Exception):
    """The connection is cut."""


class Raw(bytes):
    """Bytes of the stream as they are."""


@dataclass
class Asked:
    """A request."""

    body: dict[str, Any]
    key: str
    gone: bool = False
    """Whether the client went away before the end."""

    @property
    def model(self) -> str:
        return str(self.body["model"])

    @property
    def last(self) -> str:
        """The content of the last message."""
        return str(self.body["messages"][-1]["content"])


@dataclass
class FakeProvider:
    """Its requests, and the gate."""

    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    gates: dict[str, asyncio.Semaphore] = field(default_factory=dict)
    sent_at: dict[str, list[float]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def about(self, text: str) -> list[Asked]:
        """The requests whose last message is this."""
        return [asked for asked in self.asked if asked.last == text]

    def gate(self, text: str) -> asyncio.Semaphore:
        return self.gates.setdefault(text, asyncio.Semaphore(0))

    def release(self, text: str, words: int = 1) -> None:
        """Let more words out of gated answers to this message."""
        for _ in range(words):
            self.gate(text).release()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = await _body(receive)
        key = dict(scope["headers"]).get(b"authorization", b"").decode().removeprefix("Bearer ")
        if scope["path"] != "/v1/chat/completions":
            await _plain(send, 404, {"error": {"message": f"no such path: {scope['path']}"}})
            return
        asked = Asked(json.loads(body), key)
        self.asked.append(asked)
        answering = asyncio.ensure_future(self._answer(asked, send))
        leaving = asyncio.ensure_future(_gone(receive))
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if not answering.done():
            asked.gone = True
            answering.cancel()
            await asyncio.wait({answering})
            return
        await answering

    async def _answer(self, asked: Asked, send: Send) -> None:
        name, _, rest = asked.model.partition("-")
        match name:
            case "status":
                message = f"Not with the key {asked.key} at {self.url}, says {asked.model}."
                await _plain(send, int(rest), {"error": {"message": message, "code": "no"}})
                return
            case "broke":
                error = {"message": "You have no credit.", "code": "insufficient_quota"}
                await _plain(send, 429, {"error": error})
                return
            case "busy" if rest == "long":
                await _plain(send, 429, {"error": {"message": "Later."}}, retry_after="3600")
                return
            case "busy" if len(self.about(asked.last)) <= int(rest):
                await _plain(send, 429, {"error": {"message": "Later."}}, retry_after="0.05")
                return
            case "silent":
                await asyncio.sleep(3600)
        head = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        written = 0
        try:
            async for delta, reason in self._deltas(asked, name, rest):
                written += 1
                if isinstance(delta, Raw):
                    await send({"type": "http.response.body", "body": delta, "more_body": True})
                    continue
                if isinstance(delta, bytes):
                    await send(_data(delta))
                    continue
                await send(_data(_chunk(asked, delta, reason)))
                self.sent_at.setdefault(asked.last, []).append(time.time())
            usage = {"prompt_tokens": len(asked.body["messages"]), "completion_tokens": written}
            if (asked.body.get("stream_options") or {}).get("include_usage"):
                whole = {"choices": [], "usage": {**usage, "total_tokens": sum(usage.values())}}
                await send(_data(json.dumps(whole).encode()))
            await send(_data(b"[DONE]"))
        except EOFError:
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _deltas(
        self, asked: Asked, name: str, rest: str
    ) -> AsyncIterator[tuple[dict[str, Any] | bytes, str | None]]:
        """What is said, and on the last the reason to end. Raises EOFError to end without."""
        yield {"role": "assistant", "content": ""}, None
        match name:
            case "words" | "clock" | "prose":
                count, pause = (float(part) for part in rest.split("-"))
                prose, started = Random(asked.last), time.monotonic()
                for number in range(int(count)):
                    if name == "clock":
                        said = f"{time.time():.4f} "
                    elif name == "prose":
                        said = f"w{int(prose.paretovariate(0.6)) % 5_000} "
                    else:
                        said = word(number)
                    yield {"content": said}, None
                    due = started + (number + 1) * pause / 1000
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
            case "gated":
                gate = self.gate(asked.last)
                number = 0
                while True:
                    await gate.acquire()
                    if number == int(rest or 1_000_000):
                        break
                    yield {"content": word(number)}, None
                    number += 1
            case "thinks":
                key = "reasoning" if rest else "reasoning_content"
                for piece in ("Let me ", "think."):
                    yield {key: piece}, None
                yield {"content": "Yes."}, None
            case "tools":
                yield {"content": "I look it up."}, None
                for index, tool in enumerate(("weather", "time")):
                    for part in _call(0 if rest == "same" else index, tool):
                        if rest == "none":
                            part = {**part, "id": f"call_{tool}"}
                            part.pop("index")
                        yield {"tool_calls": [part]}, None
                yield {}, "tool_calls"
                return
            case "noisy":
                for number, noise in enumerate(NOISE):
                    yield Raw(noise), None
                    yield {"content": word(number)}, None
            case "endless":
                yield {"content": word(0)}, None
                yield Raw(b"data: "), None
                while True:
                    yield Raw(b"a" * 65_536), None
                    await asyncio.sleep(0)
            case "breaks" | "ends" | "hangs" | "done":
                for number in range(int(rest)):
                    yield {"content": word(number)}, None
                if name == "breaks":
                    raise Broken
                if name == "ends":
                    raise EOFError
                if name == "done":
                    return
                await asyncio.sleep(3600)
            case "malformed" | "fails":
                for number in range(3):
                    yield {"content": word(number)}, None
                if name == "fails":
                    yield b'{"error": {"message": "out of memory", "type": "server_error"}}', None
                elif rest == "number":
                    yield b'{"choices": [{"delta": {"tool_calls": [{"index": 1e999}]}}]}', None
                elif rest:
                    yield b'{"choices": [{"delta": {"content": 5}}]}', None
                else:
                    yield b'{"choices": [', None
            case "cut":
                yield {"content": "As I was say"}, None
                yield {}, "length"
                return
            case "odd":
                for piece in ("a\0b", "\ud83d", "\ude00", "\udfff", "!"):
                    yield {"content": piece}, None
            case "halves":
                for piece in ("a", "b\ud83d", "\ude00c", "\ud83d"):
                    yield {"content": piece}, None
                    await asyncio.sleep(0.4)
                yield {}, "st\0p\ud83d"
                yield b'{"choices": [], "usage": {"prompt_tokens": null}}', None
                return
            case _:
                for piece in f"You said: {asked.last}".split(" "):
                    yield {"content": f"{piece} "}, None
        yield {}, "stop"


def word(number: int) -> str:
    """The words it says, in their order."""
    return f"{VOCABULARY[number % len(VOCABULARY)]}{number} "


def words(count: int) -> str:
    """The first of them."""
    return "".join(word(number) for number in range(count))


def _call(index: int, tool: str) -> list[dict[str, Any]]:
    start = {"index": index, "id": f"call_{tool}", "type": "function"}
    return [
        {**start, "function": {"name": tool, "arguments": ""}},
        {"index": index, "function": {"arguments": '{"place":'}},
        {"index": index, "function": {"arguments": ' "Bern"}'}},
    ]


def _chunk(asked: Asked, delta: dict[str, Any], reason: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    chunk = {"id": "c", "object": "chat.completion.chunk", "model": asked.model}
    return json.dumps({**chunk, "created": int(time.time()), "choices": [choice]}).encode()


def _data(payload: bytes) -> Message:
    return {
        "type": "http.response.body",
        "body": b"data: " + payload + b"\n\n",
        "more_body": True,
    }


async def _plain(send: Send, status: int, body: object, *, retry_after: str = "") -> None:
    headers = [(b"content-type", b"application/json")]
    if retry_after:
        headers.append((b"retry-after", retry_after.encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


async def _body(receive: Receive) -> bytes:
    pieces: list[bytes] = []
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(pieces)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@asynccontextmanager
async def providing() -> AsyncIterator[FakeProvider]:
    """A provider on a free port, until the block ends."""
    provider = FakeProvider()
    config = uvicorn.Config(
        provider, host="127.0.0.1", port=0, log_config=None, lifespan="off", access_log=False,
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    while not server.started:
        assert not task.done()
        await asyncio.sleep(0.01)
    provider.port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield provider
    finally:
        server.should_exit = True
        await task


if __name__ == "__main__":
    uvicorn.run(
        FakeProvider(), host="127.0.0.1", port=int(os.environ["PORT"]), lifespan="off",
        log_level="error", access_log=False, loop="uvloop",
    )  # fmt: skip
