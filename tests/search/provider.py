"""A provider of embeddings that speaks the real protocol: OpenAI's API for them.

An embedding says which words a text has, by their first letters: words with a common beginning are
near each other, as in `search` and `searching`. Words with digits in them say nothing, as real
models hardly know codes. A model's name ends in its dimensions: `bag-256`.

In a test it runs beside it, on the same loop: `async with embedding() as provider`. Alone:
`python -m tests.search.provider PORT`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send

KEY = "sk-secret-of-the-tests"
BEGINNING = 5
WORD = re.compile(r"\w+")


def embed(text: str, dimensions: int) -> list[float]:
    """The embedding of a text; zero when it has no words."""
    numbers = [0.0] * dimensions
    words = [word for word in WORD.findall(text.casefold()) if not any(map(str.isdigit, word))]
    for word, count in Counter(words).items():
        for feature, weight in ((word[:BEGINNING], 1.0), (f"={word}", 0.4)):
            value = int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=8).digest())
            sign = 1 if value & 1 else -1
            numbers[(value >> 1) % dimensions] += sign * weight * (1 + math.log(count))
    length = math.sqrt(sum(number * number for number in numbers))
    return [number / length for number in numbers] if length else numbers


@dataclass
class Answer:
    """What the next request gets in the place of embeddings."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "no"


@dataclass
class FakeEmbeddings:
    """Its requests, and what it does."""

    port: int = 0
    asked: list[dict[str, Any]] = field(default_factory=list)
    answers: deque[Answer] = field(default_factory=deque)
    """What the next requests get."""
    refused: str | None = None
    """Texts with this in them are refused."""
    dimensions: int | None = None
    """What it gives, whatever the model should."""
    gate: asyncio.Event | None = None
    """Until it is set, nobody is answered."""
    nonsense: bytes | None = None
    """What everybody gets as the body of a good answer."""
    away: Answer | None = None
    """What everybody gets."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def texts(self) -> list[str]:
        """All texts it was asked about, in their order."""
        return [text for asked in self.asked for text in asked["input"]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        status, answer, headers = await self._answer(scope, json.loads(body))
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        raw.append((b"content-type", b"application/json"))
        await send({"type": "http.response.start", "status": status, "headers": raw})
        written = json.dumps(answer).encode()
        if status == 200 and self.nonsense is not None:
            written = self.nonsense
        await send({"type": "http.response.body", "body": written})

    async def _answer(
        self, scope: Scope, body: dict[str, Any]
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        key = dict(scope["headers"]).get(b"authorization", b"").decode()
        if scope["path"] != "/v1/embeddings":
            return _error(Answer(404))
        if key != f"Bearer {KEY}":
            return _error(Answer(401, message=f"Incorrect API key: {key}"))
        self.asked.append(body)
        if self.gate is not None:
            await self.gate.wait()
        if self.away is not None:
            return _error(self.away)
        if self.answers:
            return _error(self.answers.popleft())
        texts: list[str] = body["input"]
        if self.refused is not None and any(self.refused in text for text in texts):
            return _error(Answer(400, message=f"a text is too long, says {self.url}"))
        dimensions = self.dimensions or body.get("dimensions") or dimensions_of(body["model"])
        data = [
            {"object": "embedding", "index": n, "embedding": embed(text, dimensions)}
            for n, text in enumerate(texts)
        ]
        used = sum(len(text) // 4 for text in texts)
        usage = {"prompt_tokens": used, "total_tokens": used}
        answer = {"object": "list", "model": body["model"], "data": data, "usage": usage}
        return 200, answer, {}


def dimensions_of(model: str) -> int:
    """The dimensions in a model's name."""
    return int(model.rpartition("-")[2])


def _error(answer: Answer) -> tuple[int, dict[str, Any], dict[str, str]]:
    return answer.status, {"error": {"message": answer.message, "type": "error"}}, answer.headers


@asynccontextmanager
async def embedding() -> AsyncIterator[FakeEmbeddings]:
    """A provider on a port of its own, on this loop."""
    provider = FakeEmbeddings()
    server = _server(provider, 0)
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    provider.port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield provider
    finally:
        if provider.gate is not None:
            provider.gate.set()
        server.should_exit = True
        await task


def _server(provider: FakeEmbeddings, port: int) -> uvicorn.Server:
    config = uvicorn.Config(
        provider, host="127.0.0.1", port=port, log_config=None, lifespan="off",
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    return uvicorn.Server(config)


if __name__ == "__main__":
    asyncio.run(_server(FakeEmbeddings(), int(sys.argv[1])).serve())
