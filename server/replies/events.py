"""The stream of a provider: server-sent events, each with a chunk of the answer as JSON.

As the HTML Standard reads them: comments, and events without data, say nothing. The decoder of the
openai package reports such events, and holds a line for as long as it grows.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import httpx2
import openai
from openai import AsyncStream

MAX_EVENT_BYTES = 2**20
"""Room for as many letters as a message has, in one event."""
DRAIN_SECONDS = 0.1
"""How long the end of the body is waited for: then the connection can be used again."""
END = "[DONE]"

_LINE_END = re.compile(b"\r\n|\r|\n")


class TooLong(Exception):
    """An event that does not end."""


class Decoder:
    """Takes bytes as they arrive, and gives the data of events."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._after_return = False
        self._data: list[str] = []
        self._held = 0

    def feed(self, received: bytes) -> Iterator[str]:
        """The data of the events that are whole now.

        Raises TooLong, or ValueError when it is no UTF-8.
        """
        if self._after_return and received.startswith(b"\n"):
            received = received[1:]
        self._after_return = received.endswith(b"\r") or (self._after_return and not received)
        *ended, rest = _LINE_END.split(received)
        for part in ended:
            self._append(part)
            line = self._line.decode()
            self._line.clear()
            yield from self._read(line)
        self._append(rest)

    def finish(self) -> Iterator[str]:
        """The end of the stream, if nothing but its last line's end is missing."""
        if self._line.decode("utf-8", "replace").removeprefix("data:").strip() == END:
            yield END

    def _append(self, part: bytes) -> None:
        self._line += part
        if self._held + len(self._line) > MAX_EVENT_BYTES:
            raise TooLong

    def _read(self, line: str) -> Iterator[str]:
        if not line:
            data, self._data, self._held = "\n".join(self._data), [], 0
            if data.strip():
                yield data
            return
        name, _, value = line.partition(":")
        if name.removeprefix("\ufeff") != "data":
            return
        value = value.removeprefix(" ")
        if value.strip() == END and not self._data:
            yield END
            return
        self._data.append(value)
        self._held += len(line)


class Events(AsyncStream[object]):
    """The chunks of an answer, and END if the provider says that it is one.

    Raises openai.APIError for an error that the provider sends; httpx2.HTTPError, TooLong and
    ValueError for what is wrong with the stream.
    """

    async def __stream__(self) -> AsyncIterator[object]:
        """Called by the openai package, whose connections these are."""
        received = self.response.aiter_bytes()
        try:
            async for data in _read(received):
                if data == END:
                    yield END
                    with suppress(httpx2.HTTPError, TimeoutError):
                        async with asyncio.timeout(DRAIN_SECONDS):
                            async for _ in received:
                                pass
                    return
                chunk = json.loads(data)
                if isinstance(chunk, dict) and chunk.get("error"):
                    raise openai.APIError("", request=self.response.request, body=chunk["error"])
                yield chunk
        finally:
            await self.response.aclose()


async def _read(received: AsyncIterator[bytes]) -> AsyncIterator[str]:
    decoder = Decoder()
    async for some in received:
        for data in decoder.feed(some):
            yield data
    for data in decoder.finish():
        yield data
