"""What is not counted as it happens but looked up when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from platform import python_version

import psutil
from sqlalchemy.ext.asyncio import AsyncEngine

from db.meter import meter_of
from db.migrate import head_revision
from db.pool import ReadyPool
from server.background import Background
from server.observability.exposition import Family
from server.reading import Reading

__all__ = ["Process", "database", "process", "replica_families"]


def database(engines: Mapping[str, AsyncEngine]) -> Callable[[], Iterator[Family]]:
    """Statements of engines by what they are for, and the pools of those that have one."""

    def families() -> Iterator[Family]:
        seconds = Family(
            "engram_statement_duration_seconds",
            "histogram",
            "How long SQL statements took, by what the connection is for.",
        )
        failed = Family("engram_statements_failed_total", "counter", "SQL statements that failed.")
        rows = Family("engram_rows_total", "counter", "Rows that came from the database.")
        connections = Family(
            "engram_pool_connections", "gauge", "Connections of the pool, by their state."
        )
        size = Family("engram_pool_size", "gauge", "The most connections there may be.")
        waiting = Family("engram_pool_waiting", "gauge", "How many wait for a connection.")
        waits = Family(
            "engram_pool_wait_seconds", "histogram", "How long was waited for a connection."
        )
        timeouts = Family(
            "engram_pool_timeouts_total", "counter", "How often no connection became free in time."
        )
        for use, engine in engines.items():
            meter = meter_of(engine)
            if meter is not None:
                seconds.add_histogram(meter.seconds, use=use)
                failed.add(meter.failed, use=use)
                rows.add(meter.rows, use=use)
            pool = engine.sync_engine.pool
            if isinstance(pool, ReadyPool):
                connections.add(pool.checkedout(), use=use, state="in_use")
                connections.add(pool.idle, use=use, state="idle")
                size.add(pool.size(), use=use)
                waiting.add(pool.waiting, use=use)
                waits.add_histogram(pool.waits, use=use)
                timeouts.add(pool.timeouts, use=use)
        yield from (seconds, failed, rows, connections, size, waiting, waits, timeouts)

    return families


def replica_families(reading: Reading | None) -> Callable[[], Iterator[Family]]:
    """A replica, if there is one, and which queries it answers."""

    def families() -> Iterator[Family]:
        used = Family("engram_replica_used", "gauge", "Whether the replica answers queries.")
        lag = Family(
            "engram_replica_lag_seconds", "gauge", "How old what the replica answers is, at most."
        )
        if reading is not None:
            replica = reading.replica
            used.add(replica.state == "ok")
            if replica.lag_seconds is not None:
                lag.add(replica.lag_seconds)
        yield used
        yield lag
        yield by_label(
            "engram_reads_total",
            "Queries that read: from the replica, or from the primary and why.",
            "from",
            {} if reading is None else reading.counts,
        )

    return families


@dataclass(frozen=True)
class Process:
    """What a process does beside operations, as functions that look."""

    background: Sequence[Background]
    removed: Mapping[str, int]
    """Rows that were swept, by what they were."""
    documents: Callable[[], int]
    generations: Callable[[], int]
    replies: Mapping[str, int]
    """Generations that ended here, by how."""
    embedded: Mapping[str, int]
    """Texts that a provider was asked for, by what came of it."""
    listening: Callable[[], bool]


def process(watched: Process) -> Callable[[], Iterator[Family]]:
    """The process itself, and its work in the background."""
    itself = psutil.Process()

    def families() -> Iterator[Family]:
        with itself.oneshot():
            cpu = itself.cpu_times()
            yield Family("process_cpu_seconds_total", "counter", "CPU time of the process.").add(
                cpu.user + cpu.system
            )
            yield Family("process_resident_memory_bytes", "gauge", "Memory of the process.").add(
                itself.memory_info().rss
            )
            yield Family(
                "process_start_time_seconds", "gauge", "When the process began, in Unix time."
            ).add(itself.create_time())
        yield Family("engram_build_info", "gauge", "Always 1; its labels say what runs.").add(
            1, revision=head_revision(), python=python_version()
        )
        yield Family("engram_listening", "gauge", "Whether changes are heard of by LISTEN.").add(
            watched.listening()
        )
        yield Family("engram_documents", "gauge", "GraphQL documents that are kept ready.").add(
            watched.documents()
        )
        yield Family("engram_generations_running", "gauge", "Generations that run here.").add(
            watched.generations()
        )
        yield by_label("engram_generations_total", "Generations ended.", "status", watched.replies)
        yield by_label("engram_embedded_total", "Texts embedded.", "outcome", watched.embedded)
        yield by_label("engram_swept_rows_total", "Rows removed.", "kind", watched.removed)
        yield from background(watched.background)

    return families


def background(works: Sequence[Background]) -> Iterator[Family]:
    """How often work in the background was done, and when last."""
    runs = Family("engram_background_runs_total", "counter", "Runs of background work.")
    last = Family(
        "engram_background_last_success_seconds", "gauge", "When it last succeeded, in Unix time."
    )
    for work in works:
        for outcome, count in work.runs.items():
            runs.add(count, work=work.name, outcome=outcome)
        if work.succeeded_at is not None:
            last.add(work.succeeded_at, work=work.name)
    yield from (runs, last)


def by_label(name: str, help: str, label: str, counts: Mapping[str, int]) -> Family:
    """A counter of some kinds of one thing."""
    family = Family(name, "counter", help)
    for value, count in counts.items():
        family.add(count, **{label: value})
    return family
