"""What Engram costs as pages, tables and time grow."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic

from benchmarks import dataset, meters
from benchmarks.asking import Request, ask
from benchmarks.dataset import Dataset, Person
from benchmarks.generator import Job, generator
from benchmarks.measure import Bench
from benchmarks.peers import Running, running
from benchmarks.workloads import WORKLOADS, Arguments, Workload

CONNECTIONS = 8
CONVERSATIONS = (1, 2, 5, 10, 20, 50, 100)
ROWS = (10, 30, 100, 300, 1_000)
FLAT = ("one_row", "deep", "lists", "chat_lists")
"""Workloads whose cost must not depend on the size of the tables."""
MIXED = ("one_row", "lists", "levels", "deep", "chat_lists", "insert", "insert_keyed")
SLICES = 10
SOAK_REQUESTS = 2_000
"""Of each part of a soak: between them the state of the server is looked at."""


@dataclass(frozen=True)
class Engram:
    """Engram alone, beside a data set."""

    running: Running
    data: Dataset

    def cost(self, workload: Workload, size: int) -> tuple[float, float]:
        """CPU milliseconds of a request: Engram's and PostgreSQL's, after as many unmeasured."""
        bench = Bench([self.running], self.data)
        asked = bench.agree(workload)[self.running.peer.name]
        for number in (0, 1):
            sample = bench.turn(workload, bench.job(self.running, asked, CONNECTIONS, size), number)
        return sample.server_ms, sample.postgres_ms

    def mixed(self, names: Sequence[str]) -> list[Request]:
        """Requests of many kinds, in turn."""
        kinds = [ask(self.running, WORKLOADS[name], self.data).requests for name in names]
        return [request for together in zip(*kinds, strict=True) for request in together]


@asynccontextmanager
async def _engram(messages: int) -> AsyncIterator[Engram]:
    with dataset.server() as server:
        data = await dataset.load(server, messages)
        await data.forget_writes()
        with running(["engram"], data) as (engram,):
            yield Engram(engram, data)
        await data.forget_writes()


async def growth(messages: int, *, large: bool) -> None:
    """Print the cost of a request by rows of a page and, if `large`, by rows of the tables."""
    lists, rows = WORKLOADS["chat_lists"], WORKLOADS["rows"]
    small: dict[str, tuple[float, float]] = {}
    async with _engram(messages) as engram:
        print(f"{'':>32}{'server ms':>11}{'PostgreSQL ms':>15}{'server µs per row':>19}")
        for many in CONVERSATIONS:
            workload = replace(lists, arguments=partial(_with, lists, many))
            _print(f"{many} conversations of 20", engram.cost(workload, 160), many * 21)
        for many in ROWS:
            workload = replace(rows, arguments=partial(_with, rows, many))
            _print(f"{many} rows of 6 fields", engram.cost(workload, 320), many)
        if large:
            small = {name: engram.cost(WORKLOADS[name], 400) for name in FLAT}
    if not large:
        return
    async with _engram(10 * messages) as engram:
        print(f"\nfrom {messages:,} to {10 * messages:,} messages")
        for name in FLAT:
            before, after = small[name], engram.cost(WORKLOADS[name], 400)
            print(
                f"{WORKLOADS[name].title:>32}: server {before[0]:.3f} -> {after[0]:.3f} ms,"
                f" PostgreSQL {before[1]:.3f} -> {after[1]:.3f} ms"
            )


def _with(workload: Workload, first: int, person: Person) -> Arguments:
    """A workload's arguments, but for the size of the page."""
    return {**workload.arguments(person), "first": first}


def _print(title: str, cost: tuple[float, float], rows: int) -> None:
    print(f"{title:>32}{cost[0]:>11.3f}{cost[1]:>15.3f}{cost[0] * 1_000 / rows:>19.2f}", flush=True)


async def memory(messages: int, requests: int) -> None:
    """Print Engram's resident memory after each tenth of many reads."""
    async with _engram(messages) as engram:
        pid = engram.running.pid
        kinds = engram.mixed(("one_row", "deep"))
        size = max(1, requests // SLICES // CONNECTIONS) * CONNECTIONS
        print(f"{0:>9,} requests: {meters.resident_mb(pid):7.1f} MiB", flush=True)
        for part in range(1, SLICES + 1):
            _run(Job(engram.running, kinds, CONNECTIONS, size, limit_seconds=1_800))
            print(f"{part * size:>9,} requests: {meters.resident_mb(pid):7.1f} MiB", flush=True)


async def soak(messages: int, minutes: float) -> None:
    """Mixed load for so many minutes. Raises LoadError at the first answer that is wrong."""
    async with _engram(messages) as engram:
        kinds = engram.mixed(MIXED)
        until = monotonic() + minutes * 60
        sent = part = 0
        while monotonic() < until:
            part += 1
            job = Job(engram.running, kinds, 32, SOAK_REQUESTS, first=part * 1_000_000)
            _run(job)
            sent += job.size
            if part % 10 == 1:
                await engram.data.forget_writes()
                left = (until - monotonic()) / 60
                mib = meters.resident_mb(engram.running.pid)
                print(f"{sent:>9,} requests, {mib:7.1f} MiB, {left:5.1f} minutes to go", flush=True)
        print(f"{sent:,} requests were answered rightly, and the server runs")


def _run(job: Job) -> None:
    with generator(job) as load:
        load.begin()
        load.end()
