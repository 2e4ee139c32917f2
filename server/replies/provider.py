"""The provider of models: any endpoint that speaks OpenAI's chat completions, streamed.

What it says is told as pieces; whatever goes wrong is a ProviderError with a code of ours and a
message that holds neither the key nor the address.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import ceil, isnan
from typing import Any, TypeAlias

import httpx2
import openai
from openai import AsyncOpenAI

from server.replies.events import END, MAX_EVENT_BYTES, Events, TooLong

OFFICIAL = "https://api.openai.com/v1"
CONNECT_SECONDS = 10.0
ATTEMPTS = 4
"""How often a request is sent in all, as long as nothing of an answer came."""
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 20.0
"""A provider that asks to be left alone for longer is not asked again."""
MAX_MESSAGE_CHARS = 500


@dataclass(frozen=True, slots=True)
class Text:
    """More of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """More of a call of a tool; `server.replies.calls` says of which."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What was read and written, in tokens."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class End:
    """The model has ended, and why."""

    reason: str


Piece: TypeAlias = Text | Reasoning | ToolCall | Usage | End


class ProviderError(Exception):
    """The provider did not do it. The message is for the user."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: int | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        """`code` is one of those in docs/replies.md; `status` is HTTP's."""
        self.code = code
        self.status = status
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)

    @property
    def facts(self) -> dict[str, Any]:
        """The error as a generation keeps it."""
        after = self.retry_after_seconds
        given = {"status": self.status, "retryAfterSeconds": None if after is None else ceil(after)}
        found = {name: value for name, value in given.items() if value is not None}
        return {"code": self.code, "message": str(self), **found}


class Provider:
    """One endpoint and its key."""

    def __init__(
        self, *, base_url: str | None, api_key: str | None, silence_seconds: float
    ) -> None:
        """`silence_seconds` is how long it may say nothing before it is given up."""
        address = (base_url or OFFICIAL).rstrip("/")
        # OpenAI refuses the old name for its newer models; others know only that one.
        self._limit = "max_completion_tokens" if address == OFFICIAL else "max_tokens"
        self._secrets = [one for one in (api_key, address, httpx2.URL(address).host) if one]
        self._client = AsyncOpenAI(
            api_key=api_key or "none",
            base_url=address,
            max_retries=0,
            timeout=httpx2.Timeout(silence_seconds, connect=CONNECT_SECONDS),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def stream(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        temperature: float | None = None,
        max_output_tokens: int | None = None,
        tools: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[Piece]:
        """What the model answers, as it comes; an End if the provider says why it ended.

        Asked again, with growing pauses or the one that the provider names, as long as nothing has
        come. Raises ProviderError.
        """
        body: dict[str, Any] = {
            "model": model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if temperature is not None:
            body["temperature"] = temperature
        if max_output_tokens is not None:
            body[self._limit] = max_output_tokens
        if tools:
            body["tools"] = [_tool(name, about) for name, about in tools.items()]
        async with await self._opened(body) as chunks:
            ended = False
            try:
                async for chunk in chunks:
                    if chunk == END:
                        # Some providers say this alone, and not why.
                        ended = True
                        continue
                    for piece in _pieces(chunk):
                        ended = ended or isinstance(piece, End)
                        yield piece
            except httpx2.TimeoutException:
                raise ProviderError("timeout", "The provider went silent.") from None
            except openai.APIError as error:
                raise self._refusal(error) from None
            except TooLong:
                message = f"The provider sent an event of more than {MAX_EVENT_BYTES >> 20} MiB."
                raise ProviderError("too_long", message) from None
            except httpx2.HTTPError:
                if not ended:
                    raise _broken() from None
            except (
                ValueError,
                TypeError,
                LookupError,
                AttributeError,
                OverflowError,
                RecursionError,
            ):
                message = "The provider sent something that is not of the protocol."
                raise ProviderError("malformed", message) from None
            if not ended:
                raise _broken()

    async def _opened(self, body: Mapping[str, Any]) -> Events:
        """The answer to a request, once it begins. Raises ProviderError."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._client.post(
                    "/chat/completions",
                    body=body,
                    cast_to=object,
                    stream=True,
                    stream_cls=Events,
                )
            except openai.APITimeoutError:
                # It may have been understood and billed: not sent again.
                raise ProviderError("timeout", "The provider did not answer in time.") from None
            except openai.APIConnectionError:
                refusal = ProviderError("unreachable", "The provider cannot be reached.")
                again = True
            except openai.APIStatusError as error:
                refusal = self._refusal(error)
                again = _may_pass(error)
            except openai.APIError as error:
                raise self._refusal(error) from None
            pause = refusal.retry_after_seconds
            if pause is None:
                spread = random.uniform(0.75, 1.25)  # noqa: S311  # no secret
                pause = FIRST_PAUSE_SECONDS * 2 ** (attempt - 1) * spread
            if not again or attempt == ATTEMPTS or pause > LONGEST_PAUSE_SECONDS:
                raise refusal
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    def _refusal(self, error: openai.APIError) -> ProviderError:
        """What the provider said, without what nobody may read."""
        status = error.status_code if isinstance(error, openai.APIStatusError) else None
        said = self._said(error)
        if status in (401, 403):
            # What it says about a key may quote the key.
            return ProviderError("unauthorized", "The provider refuses the key.", status=status)
        if status == 429:
            after = _retry_after(error)
            message = "The provider is asked too often, or the credit is used up."
            return ProviderError("rate_limited", message, status=429, retry_after_seconds=after)
        if status == 404:
            message = f"The provider does not know the model or the address{said}"
            return ProviderError("not_found", message, status=status)
        if status is not None and 400 <= status < 500:
            return ProviderError(
                "rejected", f"The provider refuses the request{said}", status=status
            )
        return ProviderError(
            "provider_error",
            f"The provider failed{said}",
            status=status,
            retry_after_seconds=_retry_after(error),
        )

    def _said(self, error: openai.APIError) -> str:
        body: Any = error.body
        inner = body.get("error", body) if isinstance(body, dict) else None
        message = inner.get("message") if isinstance(inner, dict) else None
        if not isinstance(message, str) or not message:
            return "."
        message = clean(message)
        for secret in self._secrets:
            message = message.replace(secret, "[hidden]")
        message = _ADDRESS.sub("[hidden]", message)
        return f": {message[:MAX_MESSAGE_CHARS]}"


_ADDRESS = re.compile(r"\bhttps?://\S+|\bsk-[\w*-]+")
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}


def clean(text: str) -> str:
    """The text without what PostgreSQL cannot store; halves of a character that meet are joined."""
    return (
        text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").replace("\0", "�")
    )


def _broken() -> ProviderError:
    return ProviderError("disconnected", "The connection to the provider broke.")


def _may_pass(error: openai.APIStatusError) -> bool:
    """Whether the same request may be answered a little later."""
    return error.status_code in _PASSING and error.code != "insufficient_quota"


def _retry_after(error: openai.APIError) -> float | None:
    """How many seconds the provider asks to be left alone, a day at most."""
    if not isinstance(error, openai.APIStatusError):
        return None
    given = error.response.headers.get("retry-after", "")
    try:
        seconds = float(given)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(given) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return None if isnan(seconds) else min(max(0.0, seconds), 86_400.0)


def _tool(name: str, about: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **about}}


def _pieces(chunk: Any) -> list[Piece]:
    """What a chunk says.

    Raises ValueError, TypeError, LookupError, AttributeError or OverflowError when it is none.
    """
    pieces: list[Piece] = []
    for choice in chunk.get("choices") or ():
        delta = choice.get("delta") or {}
        # Two names for it are in use.
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if thought:
            pieces.append(Reasoning(_text(thought)))
        if delta.get("content"):
            pieces.append(Text(_text(delta["content"])))
        for number, call in enumerate(delta.get("tool_calls") or ()):
            function = call.get("function") or {}
            pieces.append(
                ToolCall(
                    number if call.get("index") is None else int(call["index"]),
                    _text(call.get("id") or ""),
                    _text(function.get("name") or ""),
                    _text(function.get("arguments") or ""),
                )
            )
        if choice.get("finish_reason"):
            pieces.append(End(clean(_text(choice["finish_reason"]))[:64]))
    usage = chunk.get("usage")
    if usage:
        # A reply that is whole does not fail as its price is not known.
        with suppress(ValueError, TypeError, LookupError, OverflowError):
            read, wrote = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
            pieces.append(Usage(_count(read), _count(wrote)))
    return pieces


def _count(tokens: int) -> int:
    return min(max(0, tokens), 2**31 - 1)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("text was expected")
    return value
