"""The load generator's process, from the side that starts it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.asking import Request
from benchmarks.peers import ROOT, Running

LIMIT_SECONDS = 180
"""The longest one job may take before it is given up."""


class LoadError(Exception):
    """A peer did not answer as it should have; the generator's words."""


@dataclass(frozen=True)
class Job:
    """What a generator does: so many requests over so many connections."""

    running: Running
    requests: Sequence[Request]
    """Sent in turn."""
    connections: int
    size: int
    """How many requests are sent in all, after the warm-up."""
    first: int = 0
    """The number that the first write bears."""
    limit_seconds: float = LIMIT_SECONDS

    @property
    def warmup(self) -> int:
        """Enough for each request on some connection, and each connection."""
        return max(self.connections, len(self.requests))


@contextmanager
def generator(job: Job) -> Iterator[Generator]:
    """A process that has warmed up and waits for the word; it does not outlive the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        started = Generator(process, job)
        started.prepare()
        yield started
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


class Generator:
    """One process of load."""

    def __init__(self, process: subprocess.Popen[str], job: Job) -> None:
        self._process = process
        self._job = job

    def prepare(self) -> None:
        job, port = self._job, self._job.running.port
        told = {
            "host": "127.0.0.1",
            "port": port,
            "connections": job.connections,
            "requests": job.size,
            "warmup": job.warmup,
            "first": job.first,
            "limit_seconds": job.limit_seconds,
            "variants": [request.job(port) for request in job.requests],
        }
        self._say(json.dumps(told))
        self._hear()

    def begin(self) -> None:
        """Let it send."""
        self._say("go")

    def end(self) -> dict[str, Any]:
        """Wait until everything is answered; what was measured on the client's side."""
        measured: dict[str, Any] = json.loads(self._hear())
        return measured

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _hear(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            _, said = self._process.communicate()
            raise LoadError(f"{self._job.running.peer.title}: {said.strip()[-2_000:]}")
        return line
