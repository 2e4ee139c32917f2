"""The tools of the benchmarks: figures that are wrong are worse than none."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from benchmarks.load import SERIAL, percentile
from benchmarks.measure import Result, Sample
from benchmarks.meters import CpuTime
from benchmarks.report import Samples, table
from benchmarks.shape import LONG, MEASURED, Rows, Shape
from benchmarks.workloads import comparable

ROOT = Path(__file__).parents[2]
ANSWER = b'{"data":{"n":1}}'
Handler = Callable[[int, bytes], bytes]


def whole(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def chunked(body: bytes) -> bytes:
    parts = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:5], body[5:]))
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s0\r\n\r\n" % parts


async def load(answer: Handler, body: bytes, digest: str | None) -> tuple[int, str, list[bytes]]:
    """Run 40 requests over 4 connections after 4 to warm up; the exit code, output, bodies."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                seen.append(await reader.readexactly(len(body)))
                writer.write(answer(len(seen), seen[-1]))
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    head = b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body)
    job = {
        "host": "127.0.0.1",
        "port": port,
        "connections": 4,
        "requests": 40,
        "warmup": 4,
        "first": 0,
        "limit_seconds": 20,
        "variants": [
            {
                "head": b64encode(head).decode(),
                "body": b64encode(body).decode(),
                "digest": digest,
            }
        ],
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.load"),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate(f"{json.dumps(job)}\ngo\n".encode())
    server.close()
    await server.wait_closed()
    assert process.returncode is not None
    return process.returncode, output.decode(), seen


@pytest.mark.parametrize("frame", [whole, chunked])
async def test_the_load_sends_what_it_says_and_waits_for_all_of_it(
    frame: Callable[[bytes], bytes],
) -> None:
    digest = sha256(ANSWER).hexdigest()
    code, output, seen = await load(lambda _n, _body: frame(ANSWER), b"{}", digest)
    assert code == 0
    measured = json.loads(output.splitlines()[-1])
    assert (measured["requests"], len(seen)) == (40, 44)
    assert measured["body_bytes"] == len(ANSWER)
    assert 0 < measured["p50_ms"] <= measured["p99_ms"] <= measured["max_ms"]


async def test_writes_bear_numbers_of_their_own_and_must_be_echoed() -> None:
    code, _, seen = await load(lambda _n, body: whole(body), b'"%s"' % SERIAL, None)
    assert code == 0
    assert len(set(seen)) == 44
    code, output, _ = await load(lambda _n, _body: whole(b"{}"), b'"%s"' % SERIAL, None)
    assert code != 0
    assert "not the write's answer" in output


@pytest.mark.parametrize(
    "wrong",
    [whole(b'{"data":{"n":2}}'), whole(ANSWER, b"500 Internal Server Error")],
    ids=["bytes", "status"],
)
async def test_one_wrong_answer_stops_the_load(wrong: bytes) -> None:
    digest = sha256(ANSWER).hexdigest()
    code, output, _ = await load(
        lambda number, _body: wrong if number == 30 else whole(ANSWER), b"{}", digest
    )
    assert code != 0
    assert "the load stopped" in output


def test_percentiles_are_by_nearest_rank() -> None:
    ordered = [number * 1_000_000 for number in range(1, 101)]
    assert (percentile(ordered, 50), percentile(ordered, 99)) == (50, 99)
    assert percentile([7_000_000], 99) == 7


def test_a_data_set_holds_what_its_shape_says() -> None:
    rows = Rows(Shape(200_000))
    messages = Counter(line.split("\t", 3)[2] for line in rows.messages())
    assert sum(messages.values()) == 200_000
    assert len(messages) == len(rows.conversations) == 4_000
    assert sorted(messages.values())[-MEASURED:] == [LONG] * MEASURED
    assert len(list(rows.users())) == 200


def test_answers_are_compared_without_their_dialect() -> None:
    engram = {
        "projects": {
            "nodes": [
                {
                    "id": "project_019b76daa80070008000000000000001",
                    "createdAt": "2026-01-01T00:00:00.250000Z",
                    "tasks": {"nodes": [{"status": "IN_PROGRESS"}]},
                }
            ]
        }
    }
    plain = {
        "projects": [
            {
                "id": "019b76da-a800-7000-8000-000000000001",
                "createdAt": "2026-01-01T00:00:00.25+00:00",
                "tasks": [{"status": "in_progress"}],
            }
        ]
    }
    assert comparable(engram) == comparable(plain)


def test_ratios_are_taken_within_a_round() -> None:
    result = Result({"messages": 1})
    for number, (ours, theirs) in enumerate([(1.0, 2.0), (9.0, 10.0), (1.0, 4.0)], 1):
        for peer, cost in (("engram", ours), ("apollo", theirs)):
            result.samples.append(
                Sample(
                    workload="lists",
                    peer=peer,
                    connections=32,
                    round=number,
                    requests=10,
                    seconds=1.0,
                    server_ms=cost,
                    postgres_ms=0.5,
                    p50_ms=1.0,
                    p99_ms=2.0,
                    max_ms=3.0,
                    peak_mb=100.0,
                    body_bytes=10,
                )
            )
    ratio = Samples(result).ratio("lists", 32, "engram", ("postgraphile", "apollo"))
    assert str(ratio) == "0.50 (0.25-0.90)"
    assert "holds  lists         32 connections: server CPU" in table(result)


def test_the_cpu_of_a_process_is_seen_from_outside() -> None:
    before = CpuTime.of(os.getpid())
    sum(range(2_000_000))
    assert 0.001 < before.until(CpuTime.of(os.getpid())) < 10
