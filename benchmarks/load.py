"""The load: a closed loop over raw sockets, in a process of its own.

A fixed number of requests is shared by a number of connections; each sends its next request when
the last one is answered. Every request that was sent is waited for, and every answer is checked:
status 200, and the very bytes that were compared with the other peers' before (or, for a write, no
errors and the title that was sent). Anything else ends the run.

Reads a job as one line of JSON on standard input, warms up, prints `ready`, waits for a line, runs,
and prints what it measured.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from time import perf_counter_ns
from typing import Any, cast

import uvloop

SERIAL = b"@@@@@@@@@@"
"""In a body: the place of a number that differs in every request."""
LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
CHUNKED = re.compile(rb"(?i)\r\ntransfer-encoding: *chunked")
NANOSECONDS_PER_MS = 1e6


class BadAnswer(Exception):
    """An answer that a client could not have used."""


@dataclass(slots=True)
class Variant:
    """One request that is sent again and again, and what must come back."""

    head: bytes
    body: bytes
    digest: str | None
    """SHA-256 of the answer; None for a write, whose answers differ."""
    answer: bytes | None = None

    def request(self, serial: bytes) -> bytes:
        return self.head + (self.body if self.digest else self.body.replace(SERIAL, serial))

    def check(self, status: bytes, body: bytes, serial: bytes) -> None:
        if status != b"200":
            raise BadAnswer(f"status {status.decode()}: {body[:500].decode(errors='replace')}")
        if self.digest is None:
            if b'"errors"' in body or serial not in body:
                raise BadAnswer(f"not the write's answer: {body[:500].decode(errors='replace')}")
        elif self.answer is None:
            if sha256(body).hexdigest() != self.digest:
                raise BadAnswer(f"another answer: {body[:500].decode(errors='replace')}")
            self.answer = body
        elif body != self.answer:
            raise BadAnswer(f"another answer: {body[:500].decode(errors='replace')}")


class Run:
    """So many requests, handed out one by one."""

    def __init__(self, variants: list[Variant], requests: int, first: int) -> None:
        self.variants = variants
        self.requests = requests
        self.first = first
        self.latencies: list[int] = []
        self.bytes = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._numbers = iter(range(requests))

    def take(self) -> tuple[Variant, bytes] | None:
        number = next(self._numbers, None)
        if number is None:
            return None
        variant = self.variants[number % len(self.variants)]
        return variant, b"%010d" % (self.first + number)

    def answered(self, nanoseconds: int, size: int) -> None:
        self.latencies.append(nanoseconds)
        self.bytes += size
        if len(self.latencies) == self.requests and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Connection(asyncio.Protocol):
    """One keep-alive connection of HTTP/1.1, with one request under way at most."""

    def __init__(self) -> None:
        self._run: Run | None = None
        self._current: tuple[Variant, bytes] | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._whole: int | None = None
        self._sent = 0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def start(self, run: Run) -> None:
        self._run = run
        self._next()

    def close(self) -> None:
        self._run = None
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._whole is None:
            self._measure()
        if self._whole is not None and self._size >= self._whole:
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._run is not None and self._current is not None:
            self._run.fail(exc or BadAnswer("the server closed the connection"))

    def _next(self) -> None:
        assert self._run is not None
        self._parts.clear()
        self._size, self._whole = 0, None
        self._current = self._run.take()
        if self._current is not None:
            request = self._current[0].request(self._current[1])
            self._sent = perf_counter_ns()
            self._transport.write(request)

    def _measure(self) -> None:
        """How many bytes the whole answer has, once that can be known."""
        answer = b"".join(self._parts)
        end = answer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = LENGTH.search(answer, 0, end + 2)
        if length is not None:
            self._whole = end + 4 + int(length[1])
        elif CHUNKED.search(answer, 0, end + 2) and answer.endswith(b"\r\n0\r\n\r\n"):
            self._whole = self._size

    def _finish(self) -> None:
        elapsed = perf_counter_ns() - self._sent
        assert self._run is not None
        assert self._current is not None
        head, _, body = b"".join(self._parts).partition(b"\r\n\r\n")
        if LENGTH.search(head + b"\r\n") is None:
            body = b"".join(_chunks(body))
        try:
            self._current[0].check(head[9:12], body, self._current[1])
        except BadAnswer as error:
            self._run.fail(error)
            return
        self._run.answered(elapsed, len(body))
        self._next()


def _chunks(body: bytes) -> Iterator[bytes]:
    at = 0
    while True:
        end = body.index(b"\r\n", at)
        size = int(body[at:end], 16)
        if not size:
            return
        yield body[end + 2 : end + 2 + size]
        at = end + 4 + size


async def _run(
    connections: list[Connection], variants: list[Variant], requests: int, first: int, limit: float
) -> Run:
    run = Run(variants, requests, first)
    for connection in connections:
        connection.start(run)
    await asyncio.wait_for(run.done, limit)
    return run


def percentile(ordered: list[int], share: float) -> float:
    """A percentile in milliseconds, by nearest rank."""
    rank = max(0, -(-len(ordered) * share // 100) - 1)
    return ordered[int(rank)] / NANOSECONDS_PER_MS


async def main() -> None:
    """Do one job."""
    loop = asyncio.get_running_loop()
    job: dict[str, Any] = json.loads(sys.stdin.readline())
    variants = [
        Variant(b64decode(one["head"]), b64decode(one["body"]), one["digest"])
        for one in job["variants"]
    ]
    connections = [
        (await loop.create_connection(Connection, job["host"], job["port"]))[1]
        for _ in range(job["connections"])
    ]
    first, limit = job["first"], job["limit_seconds"]
    await _run(connections, variants, job["warmup"], first, limit)
    print("ready", flush=True)
    sys.stdin.readline()
    started = perf_counter_ns()
    run = await _run(connections, variants, job["requests"], first + job["warmup"], limit)
    elapsed = perf_counter_ns() - started
    for connection in connections:
        connection.close()
    ordered = sorted(run.latencies)
    measured = {
        "requests": len(ordered),
        "seconds": elapsed / 1e9,
        "p50_ms": percentile(ordered, 50),
        "p99_ms": percentile(ordered, 99),
        "max_ms": ordered[-1] / NANOSECONDS_PER_MS,
        "body_bytes": run.bytes // len(ordered),
    }
    print(json.dumps(measured), flush=True)


if __name__ == "__main__":
    try:
        uvloop.run(main())
    except (BadAnswer, OSError, TimeoutError) as error:
        sys.exit(f"the load stopped: {error or type(error).__name__}")
