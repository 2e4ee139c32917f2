"""A result as tables: medians over the rounds, ratios with their spread, and the bars.

Ratios are taken within a round, where both sides met the same noise, and then their median.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from statistics import median

from benchmarks.measure import Result, Sample
from benchmarks.peers import PEERS
from benchmarks.workloads import WORKLOADS

OURS = "engram"
RIVALS = ("postgraphile", "apollo")
ROW, LISTS = ("one_row",), ("lists", "levels", "rows", "deep")
READS, INSERTS = ROW + LISTS, ("insert", "insert_keyed")
BUSY = 32
"""The connections at which tails are judged."""

TAIL = 3

Measure = Callable[[Sample], float]
SERVER: Measure = attrgetter("server_ms")


def both(sample: Sample) -> float:
    """The CPU time of the server and of PostgreSQL."""
    return sample.server_ms + sample.postgres_ms


def rate(sample: Sample) -> float:
    """Requests answered in a second."""
    return sample.requests / sample.seconds


COLUMNS: Sequence[Measure] = (
    SERVER,
    attrgetter("postgres_ms"),
    attrgetter("p50_ms"),
    attrgetter("p99_ms"),
    rate,
    attrgetter("peak_mb"),
)


@dataclass(frozen=True)
class Spread:
    """A median and between what it lies."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f}-{self.most:.2f})"


@dataclass(frozen=True)
class Bar:
    """A promise about one ratio."""

    title: str
    workloads: Sequence[str]
    against: Sequence[str]
    bound: float
    measure: Measure = SERVER
    at_least: bool = False

    def holds(self, ratio: Spread) -> bool:
        return ratio.median >= self.bound if self.at_least else ratio.median <= self.bound


BARS = (
    Bar("server CPU against the better of PostGraphile and Apollo", READS, RIVALS, 0.6),
    Bar("server CPU against the better of PostGraphile and Apollo", INSERTS, RIVALS, 1.0),
    Bar("server and PostgreSQL CPU against PostGraphile", READS, RIVALS[:1], 0.7, both),
    Bar("server CPU against the limit", LISTS, ("limit",), 2.2),
    Bar("server CPU against the limit", ROW, ("limit",), 2.5),
    Bar("Strawberry's server CPU against ours", READS, ("strawberry",), 9, at_least=True),
)


class Samples:
    """The samples of a result, to be asked for."""

    def __init__(self, result: Result) -> None:
        self._by: dict[tuple[str, int], dict[str, dict[int, Sample]]] = {}
        for one in result.samples:
            peers = self._by.setdefault((one.workload, one.connections), {})
            peers.setdefault(one.peer, {})[one.round] = one

    @property
    def keys(self) -> list[tuple[str, int]]:
        """The workloads, each with the numbers of connections it was measured at."""
        return list(self._by)

    def peers(self, workload: str, connections: int) -> list[str]:
        return [name for name in PEERS if name in self._by.get((workload, connections), {})]

    def median(self, workload: str, connections: int, peer: str, measure: Measure) -> float:
        rounds = self._by[workload, connections][peer].values()
        return median(measure(one) for one in rounds)

    def ratio(
        self,
        workload: str,
        connections: int,
        ours: str,
        against: Iterable[str],
        measure: Measure = SERVER,
    ) -> Spread | None:
        """Ours by the best of the others, round by round; None if one of them is missing."""
        peers = self._by.get((workload, connections), {})
        others = [name for name in against if name in peers]
        if ours not in peers or not others:
            return None
        ratios = [
            measure(one) / min(measure(peers[name][number]) for name in others)
            for number, one in peers[ours].items()
        ]
        return Spread.of(ratios)


def table(result: Result) -> str:
    """Everything, workload by workload, and then what holds."""
    samples = Samples(result)
    facts = ", ".join(f"{name} {value}" for name, value in result.machine.items())
    lines = [f"CPU milliseconds per request, medians over the rounds ({facts})"]
    for workload, connections in samples.keys:
        rivals = RIVALS if set(RIVALS) & set(samples.peers(workload, connections)) else (OURS,)
        lines += [
            "",
            f"{WORKLOADS[workload].title}, {connections} connections",
            f"  {'':<42}{'server':>9}{'PostgreSQL':>12}{'p50 ms':>9}{'p99 ms':>9}{'req/s':>8}"
            f"{'peak MiB':>10}  server CPU by the best of {' and '.join(rivals)}",
        ]
        for peer in samples.peers(workload, connections):
            row = [samples.median(workload, connections, peer, one) for one in COLUMNS]
            server, postgres, p50, p99, per_second, peak = row
            ratio = samples.ratio(workload, connections, peer, rivals)
            lines.append(
                f"  {PEERS[peer].title:<42}{server:>9.3f}{postgres:>12.3f}{p50:>9.2f}{p99:>9.2f}"
                f"{per_second:>8.0f}{peak:>10.0f}  {ratio or ''}"
            )
    return "\n".join([*lines, "", *bars(samples)])


def bars(samples: Samples) -> Iterator[str]:
    """A line for each promise, workload and number of connections that was measured."""
    for bar in BARS:
        for workload, connections in samples.keys:
            if workload not in bar.workloads:
                continue
            if bar.at_least:  # the other way round: how many times as much they need
                ratio = samples.ratio(workload, connections, bar.against[0], (OURS,), bar.measure)
            else:
                ratio = samples.ratio(workload, connections, OURS, bar.against, bar.measure)
            if ratio is None:
                continue
            sign = ">=" if bar.at_least else "<="
            verdict = "holds" if bar.holds(ratio) else "MISSED"
            yield (
                f"{verdict:<7}{workload:<13}{connections:>3} connections:"
                f" {bar.title}: {ratio} {sign} {bar.bound}"
            )
    for workload, connections in samples.keys:
        if connections == BUSY and OURS in samples.peers(workload, connections):
            tail = samples.median(workload, connections, OURS, lambda one: one.p99_ms / one.p50_ms)
            verdict = "holds" if tail <= TAIL else "MISSED"
            yield (
                f"{verdict:<7}{workload:<13}{connections:>3} connections:"
                f" p99 by p50: {tail:.2f} <= {TAIL}"
            )
