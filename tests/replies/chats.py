"""Chats of tests: sending, waiting, following."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import uuid4

import httpx

SECONDS = 20
MESSAGE = "id status content model inputTokens outputTokens version parent { id }"
GENERATION = (
    "id status model finishReason error lastSeq inputTokens outputTokens firstDeltaAt finishedAt"
)
SEND = f"""mutation($input: SendMessageInput!) {{ sendMessage(input: $input) {{
    message {{ id content role status }} reply {{ {MESSAGE} }} generation {{ {GENERATION} }}
    conversation {{ id version activeLeaf {{ id }} }}
    problems {{ code message path ... on ProviderUnavailable {{ reason }} }} }} }}"""
REGENERATE = SEND.replace("sendMessage", "regenerateMessage").replace("SendM", "RegenerateM")
STOP = f"""mutation($id: ID!) {{ stopGeneration(input: {{id: $id}}) {{
    generation {{ {GENERATION} stopRequestedAt }} message {{ {MESSAGE} }}
    problems {{ code message path }} }} }}"""
READ = f"""query($id: ID!) {{ node(id: $id) {{ ... on Generation {{ {GENERATION} context
    assistantMessage {{ {MESSAGE} parts {{ nodes {{ type text data toolCallId }} }} }} }} }} }}"""
STREAM = f"""subscription($id: ID!, $after: Int! = 0) {{
    generationStream(id: $id, afterSeq: $after) {{
        seq text reasoning message {{ {MESSAGE} }}
        problem {{ code message reason retryAfterSeconds }} }} }}"""
START = "mutation { createConversation(input: {}) { conversation { id } problems { code } } }"
ENDED = ("COMPLETE", "STOPPED", "FAILED", "INTERRUPTED")


class Caller(Protocol):
    """Who asks: a person of the tests at some server."""

    @property
    def token(self) -> str: ...
    async def execute(self, query: str, **variables: Any) -> dict[str, Any]: ...


def fresh(text: str = "Hello") -> str:
    """A text that nobody else says, by which the provider knows the request."""
    return f"{text} {uuid4().hex[:8]}"


async def ask(caller: Caller, document: str, **variables: Any) -> dict[str, Any]:
    """The one root field of an answer without errors."""
    body = await caller.execute(document, **variables)
    assert "errors" not in body, body["errors"]
    [found] = body["data"].values()
    return found  # type: ignore[no-any-return]  # an object of JSON


async def start(caller: Caller) -> str:
    """The id of a new conversation."""
    identifier: str = (await ask(caller, START))["conversation"]["id"]
    return identifier


async def send(
    caller: Caller, content: str, model: str | None = None, conversation: str = "", **input: Any
) -> dict[str, Any]:
    """The payload of sendMessage, in a new conversation unless told otherwise."""
    conversation = conversation or await start(caller)
    given = {"conversationId": conversation, "content": content, **input}
    if model:
        given["reply"] = {**given.get("reply", {}), "model": model}
    return await ask(caller, SEND, input=given)


async def sent(caller: Caller, content: str, model: str | None = None, **input: Any) -> Any:
    """The same, without problems."""
    payload = await send(caller, content, model, **input)
    assert payload["problems"] == []
    return payload


async def read(caller: Caller, generation: str) -> dict[str, Any]:
    return await ask(caller, READ, id=generation)


async def ended(caller: Caller, generation: str, seconds: float = SECONDS) -> dict[str, Any]:
    """The generation once it has ended."""
    async with asyncio.timeout(seconds):
        while (found := await read(caller, generation))["status"] not in ENDED:  # noqa: ASYNC110 - there is nothing to wait on
            await asyncio.sleep(0.02)
    return found


@dataclass
class Followed:
    """What a follower has seen."""

    lines: AsyncIterator[str]
    text: str = ""
    reasoning: str = ""
    seq: int = 0
    seqs: list[int] = field(default_factory=list)
    last: dict[str, Any] | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)

    async def next(self) -> dict[str, Any] | None:
        """The next event; None at the end of the stream."""
        async with asyncio.timeout(SECONDS):
            async for line in self.lines:
                if line == "event: complete":
                    return None
                if not line.startswith("data: "):
                    continue
                body = json.loads(line.removeprefix("data: "))
                if "errors" in body:
                    self.errors = body["errors"]
                    continue
                event: dict[str, Any] = body["data"]["generationStream"]
                self.seqs.append(event["seq"])
                self.seq = event["seq"]
                self.text += event["text"]
                self.reasoning += event["reasoning"]
                if event["message"]:
                    self.last = event
                return event
        return None

    async def until(self, text: str) -> None:
        """Read on until the text is there, and nothing beyond it."""
        while self.text != text:
            assert text.startswith(self.text), self.text
            assert await self.next() is not None, f"ended after {self.text!r}"

    async def to_the_end(self) -> dict[str, Any]:
        """Read all that comes; the last event."""
        while await self.next() is not None:
            pass
        assert self.last is not None, self.errors
        return self.last


@asynccontextmanager
async def following(
    url: str, caller: Caller, generation: str, after: int = 0
) -> AsyncIterator[Followed]:
    """A stream of a reply over server-sent events."""
    headers = {"accept": "text/event-stream", "authorization": f"Bearer {caller.token}"}
    body = {"query": STREAM, "variables": {"id": generation, "after": after}}
    async with (
        httpx.AsyncClient(timeout=30) as client,
        client.stream("POST", url, json=body, headers=headers) as response,
    ):
        yield Followed(response.aiter_lines())
