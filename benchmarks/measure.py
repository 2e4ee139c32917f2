"""Rounds: every peer in turn, in a new order each time, asked the same as much.

What a turn costs is read from outside: the CPU time of the peer's processes and of all of
PostgreSQL's, before the first and after the last request, and the peak of the peer's memory.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

from benchmarks import meters
from benchmarks.asking import Asked, ask, compare
from benchmarks.dataset import Dataset
from benchmarks.generator import Job, generator
from benchmarks.peers import NODE_PEERS, Running, node
from benchmarks.workloads import Workload

MS = 1_000
NUMBERS = 1_000_000
"""So far apart are the numbers that the writes of two turns bear."""
WARM = 8
"""The connections of the round that is not kept."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    workloads: Sequence[Workload]
    connections: Sequence[int]
    rounds: int
    requests: int | None = None
    """Of each turn, instead of the workload's own number."""

    def size(self, workload: Workload, running: Running, connections: int) -> int:
        """The requests of one turn, as many for each of its connections."""
        asked = self.requests or workload.requests * running.peer.share
        return max(1, round(asked / connections)) * connections


@dataclass(frozen=True)
class Sample:
    """One turn of one peer."""

    workload: str
    peer: str
    connections: int
    round: int
    requests: int
    seconds: float
    server_ms: float
    """CPU time of the peer for one request."""
    postgres_ms: float
    """CPU time of all of PostgreSQL for one request."""
    p50_ms: float
    p99_ms: float
    max_ms: float
    peak_mb: float
    body_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.workload:>12} {self.peer:<18}{self.connections:>3} connections:"
            f" server {self.server_ms:7.3f} ms, PostgreSQL {self.postgres_ms:6.3f} ms,"
            f" p50 {self.p50_ms:7.2f}, p99 {self.p99_ms:7.2f},"
            f" {self.requests / self.seconds:6.0f}/s"
        )


@dataclass
class Result:
    """What a run found, and where."""

    machine: dict[str, Any]
    samples: list[Sample] = field(default_factory=list)

    def save(self, file: Path) -> None:
        """Write it as JSON."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, file: Path) -> Result:
        """Read what `save` wrote."""
        found = json.loads(file.read_text())
        return cls(found["machine"], [Sample(**sample) for sample in found["samples"]])


class Bench:
    """Peers that run, beside one database."""

    def __init__(self, peers: Sequence[Running], dataset: Dataset) -> None:
        self._peers = peers
        self._dataset = dataset
        self._turns = count(1)

    async def measure(self, plan: Plan) -> Result:
        """Run a plan. Raises Disagreement, before anything is measured, if answers differ."""
        result = Result(machine(self._dataset, self._peers))
        random = Random()
        await self._dataset.forget_writes()
        asked = {workload.name: self.agree(workload) for workload in plan.workloads}
        print(f"same answers of {len(self._peers)} peers to {len(asked)} workloads", flush=True)
        # Round 0 is for the compilers and caches of all of them.
        for number in range(plan.rounds + 1):
            print(f"round {number}" if number else "warming up", flush=True)
            for workload in plan.workloads:
                for connections in plan.connections if number else (WARM,):
                    for one in random.sample(self._peers, len(self._peers)):
                        size = plan.size(workload, one, connections)
                        job = self.job(one, asked[workload.name][one.peer.name], connections, size)
                        sample = self.turn(workload, job, number)
                        if number:
                            result.samples.append(sample)
                            print(sample, flush=True)
                if workload.writes:
                    await self._dataset.forget_writes()
        return result

    def agree(self, workload: Workload) -> dict[str, Asked]:
        """The requests of a workload to each peer, all of which have the same answers."""
        asked = {one.peer.name: ask(one, workload, self._dataset) for one in self._peers}
        compare(workload, asked)
        return asked

    def job(self, running: Running, asked: Asked, connections: int, size: int) -> Job:
        """A job whose writes bear numbers of their own."""
        return Job(running, asked.requests, connections, size, first=next(self._turns) * NUMBERS)

    def turn(self, workload: Workload, job: Job, number: int) -> Sample:
        """Do a job and measure what it costs."""
        pid, postmaster = job.running.pid, self._dataset.postmaster
        with generator(job) as load:
            meters.forget_peak(pid)
            server, postgres = meters.CpuTime.of(pid), meters.CpuTime.of(postmaster)
            load.begin()
            measured = load.end()
            server_seconds = server.until(meters.CpuTime.of(pid))
            postgres_seconds = postgres.until(meters.CpuTime.of(postmaster))
        return Sample(
            workload=workload.name,
            peer=job.running.peer.name,
            connections=job.connections,
            round=number,
            server_ms=server_seconds * MS / job.size,
            postgres_ms=postgres_seconds * MS / job.size,
            peak_mb=meters.peak_mb(pid),
            **measured,
        )


def machine(dataset: Dataset, peers: Sequence[Running]) -> dict[str, Any]:
    """Where and with what a run is made."""
    facts: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "postgresql": dataset.server.sql("SHOW server_version"),
        "messages": dataset.messages,
    }
    if NODE_PEERS.intersection(one.peer.name for one in peers):
        shown = subprocess.run([node(), "--version"], capture_output=True, text=True, check=True)
        facts["node"] = shown.stdout.strip()
    return facts
