"""What a replica takes off the primary, and what asking it costs.

The same reads go to a process with a replica and to one without, in turns. CPU time is read from
outside: of the server, of all of the primary's processes, and of all of the standby's.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import median

from benchmarks import dataset, meters
from benchmarks.measure import MS, Bench
from benchmarks.peers import PEERS, started
from benchmarks.workloads import WORKLOADS
from tests.replica.standby import Standby

READS = ("one_row", "levels", "rows")
REQUESTS = {"one_row": 8_000, "levels": 1_500, "rows": 600}


async def replicas(*, messages: int, rounds: int, connections: int) -> None:
    """Print the medians of all rounds."""
    folder = Path(tempfile.mkdtemp(prefix="engram-replica-"))
    os.chmod(folder, 0o755)
    with dataset.server() as server, ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        data = await dataset.load(server, messages)
        standby = Standby(server, folder)
        stack.callback(standby.remove)
        alone = PEERS["engram"]
        replica = {"DATABASE_REPLICA_URL": standby.url_of(data.name)}
        both = replace(
            alone,
            name="engram_replica",
            environment=lambda data: {**alone.environment(data), **replica},
        )
        peers = [stack.enter_context(started(peer, data)) for peer in (alone, both)]
        bench = Bench(peers, data)
        asked = {name: bench.agree(WORKLOADS[name]) for name in READS}
        pid = standby.processes()[0].pid
        found: dict[tuple[str, str], list[tuple[float, ...]]] = defaultdict(list)
        for number in range(rounds + 1):
            for name in READS:
                for one in Random().sample(peers, len(peers)):
                    size = REQUESTS[name] // connections * connections
                    job = bench.job(one, asked[name][one.peer.name], connections, size)
                    before = meters.CpuTime.of(pid)
                    sample = bench.turn(WORKLOADS[name], job, number)
                    used = before.until(meters.CpuTime.of(pid)) * MS / size
                    if number:
                        found[name, one.peer.name].append(
                            (sample.server_ms, sample.postgres_ms, used, sample.p50_ms,
                             sample.p99_ms, size / sample.seconds)
                        )  # fmt: skip
    print(f"{connections} connections, medians of {rounds} rounds; CPU in ms for a request")
    print(f"{'':>26} {'server':>8} {'primary':>8} {'standby':>8} {'p50':>8} {'p99':>8} {'/s':>7}")
    for (name, peer), samples in found.items():
        *times, rate = (median(column) for column in zip(*samples, strict=True))
        print(f"{name:>9} {peer:<16} " + " ".join(f"{t:8.3f}" for t in times) + f" {rate:7.0f}")
