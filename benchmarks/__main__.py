"""Measure Engram beside what its users would pick instead: `python -m benchmarks`, `make bench`."""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import (
    claims,
    dataset,
    draw,
    entry,
    following,
    growth,
    judging,
    migrating,
    replicas,
    replies,
    report,
    searching,
)
from benchmarks.asking import Disagreement
from benchmarks.generator import LoadError
from benchmarks.measure import Bench, Plan, Result
from benchmarks.peers import PEERS, USUAL_PEERS, PeerError, running
from benchmarks.workloads import USUAL, WORKLOADS

RESULTS = dataset.HOME / "results"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)

Messages = Annotated[int, typer.Option(help="Messages in the data set.")]


@app.command()
def run(
    workload: Annotated[list[str] | None, typer.Option(help=", ".join(WORKLOADS))] = None,
    peer: Annotated[list[str] | None, typer.Option(help=", ".join(PEERS))] = None,
    connections: Annotated[
        list[int] | None, typer.Option(help="Connections that ask at once; 1, 8 and 32.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    requests: Annotated[int | None, typer.Option(help="Of each turn; else as fits.")] = None,
    messages: Messages = 1_000_000,
) -> None:
    """Measure peers beside each other, print a table, keep the result as JSON."""
    chosen = [WORKLOADS[name] for name in workload or USUAL]
    plan = Plan(chosen, connections or [1, 8, 32], rounds, requests)

    async def work() -> Result:
        with dataset.server() as server:
            data = await dataset.load(server, messages)
            with running(peer or USUAL_PEERS, data) as peers:
                return await Bench(peers, data).measure(plan)

    result = asyncio.run(work())
    file = RESULTS / f"{datetime.now():%Y-%m-%d-%H%M%S}.json"
    result.save(file)
    print(f"\n{report.table(result)}\n\nkept in {file}")


@app.command()
def table(file: Path) -> None:
    """Print the table of a result again."""
    print(report.table(Result.load(file)))


@app.command("draw")
def draw_pictures(
    file: Path,
    folder: Annotated[Path, typer.Option(help="Where the pictures go.")] = Path("docs"),
    connections: Annotated[int, typer.Option(help="Of the samples that are drawn.")] = 32,
) -> None:
    """Draw a result: one picture for each workload."""
    for picture in draw.pictures(Result.load(file), folder, connections):
        print(picture)


@app.command("growth")
def grow(
    messages: Messages = 1_000_000,
    large: Annotated[bool, typer.Option(help="Compare with ten times as many messages.")] = False,
) -> None:
    """How Engram's cost grows with the page and with the table."""
    asyncio.run(growth.growth(messages, large=large))


@app.command()
def memory(
    messages: Messages = 1_000_000,
    requests: Annotated[int, typer.Option(min=1)] = 100_000,
) -> None:
    """How Engram's memory develops over many requests."""
    asyncio.run(growth.memory(messages, requests))


@app.command()
def soak(
    messages: Messages = 1_000_000,
    minutes: Annotated[float, typer.Option(min=0.1)] = 20,
) -> None:
    """Mixed reads and writes for so long; every answer is checked, a crash is an error."""
    asyncio.run(growth.soak(messages, minutes))


@app.command("claims")
def claim(
    tasks: Annotated[int, typer.Option(min=100)] = 20_000,
    done: Annotated[int, typer.Option(min=0, help="Tasks that are done already.")] = 100_000,
    workers: Annotated[int, typer.Option(min=1)] = 50,
    servers: Annotated[int, typer.Option(min=1, help="Processes of Engram.")] = 2,
    batch: Annotated[list[int] | None, typer.Option(help="Tasks of one claim.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    """How many tasks workers claim, and complete, in a second."""
    asyncio.run(
        claims.claims(
            tasks=tasks,
            done=done,
            workers=workers,
            servers=servers,
            batches=batch or [100, 10],
            rounds=rounds,
        )
    )


@app.command("migration")
def migrate(
    people: Annotated[int, typer.Option(min=1)] = 8,
    tasks: Annotated[int, typer.Option(min=100)] = 200_000,
    seconds: Annotated[float, typer.Option(min=1, help="Undisturbed, to compare with.")] = 10,
) -> None:
    """How long requests wait for a migration that runs beside them."""
    asyncio.run(migrating.migrating(people=people, tasks=tasks, seconds=seconds))


@app.command("changes")
def follow(
    subscribers: Annotated[int, typer.Option(min=1)] = 1_000,
    rate: Annotated[list[int] | None, typer.Option(help="Commits a second.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="Of each rate.")] = 10,
) -> None:
    """How soon subscribers of the change feed hear of a commit, and what they cost."""
    asyncio.run(
        following.following(subscribers=subscribers, rates=rate or [20, 100, 200], seconds=seconds)
    )


@app.command("replies")
def reply(
    streams: Annotated[int, typer.Option(min=1, help="Replies at once.")] = 200,
    people: Annotated[int, typer.Option(min=1, help="Whose they are.")] = 20,
    kilobytes: Annotated[int, typer.Option(min=1, help="Of one reply.")] = 40,
) -> None:
    """How soon what a model writes is read, and what writing it down costs."""
    asyncio.run(replies.replies(streams=streams, people=people, kilobytes=kilobytes))


@app.command("replica")
def replicate(
    messages: Messages = 200_000,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    connections: Annotated[int, typer.Option(min=1, help="That ask at once.")] = 8,
) -> None:
    """What a read replica takes off the primary, and what asking it costs."""
    asyncio.run(replicas.replicas(messages=messages, rounds=rounds, connections=connections))


@app.command("search")
def look(
    chunks: Annotated[int, typer.Option(min=1_000)] = 1_000_000,
    owners: Annotated[int, typer.Option(min=20)] = 200,
    dimensions: Annotated[int, typer.Option(min=8, max=2_000)] = 256,
    queries: Annotated[int, typer.Option(min=2, help="Of each owner.")] = 20,
    keep: Annotated[bool, typer.Option(help="Keep the data for the next run.")] = False,
) -> None:
    """Recall against exact search, and how long searches take, by the size of the owner."""
    searching.run(owners=owners, chunks=chunks, dimensions=dimensions, queries=queries, keep=keep)


@app.command("entry")
def enter(
    attempts: Annotated[int, typer.Option(min=20, help="Of each kind.")] = 300,
    accounts: Annotated[int, typer.Option(min=1)] = 20,
) -> None:
    """Whether the time of a log-in tells who has an account, and what the limits cost."""
    asyncio.run(entry.entry(attempts=attempts, accounts=accounts))


@app.command()
def judge(
    documents: Annotated[int, typer.Option(min=100)] = 2_000,
    queries: Annotated[int, typer.Option(min=3)] = 300,
) -> None:
    """How well searches rank, on queries whose answers are known."""
    asyncio.run(judging.judging(documents=documents, queries=queries))


if __name__ == "__main__":
    try:
        app(prog_name="python -m benchmarks")
    except (Disagreement, LoadError, PeerError) as error:
        sys.exit(f"benchmarks: {error}")
