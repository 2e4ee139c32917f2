"""What processes have used. Linux only: the clocks and `/proc` are its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import clock_gettime

import psutil

CPU_CLOCK = 2
"""The clock of all CPU time of a process, as the kernel numbers it (CPUCLOCK_SCHED)."""


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and all its threads, to the nanosecond.

    `/proc/<pid>/stat` has the same in ticks of 10 ms, which is too coarse for short rounds.
    """
    return clock_gettime(~pid << 3 | CPU_CLOCK)


def tree(pid: int) -> list[int]:
    """A process and those it started."""
    children = psutil.Process(pid).children(recursive=True)
    return [pid, *(child.pid for child in children)]


@dataclass(frozen=True)
class CpuTime:
    """The CPU time of a process tree at one moment."""

    used: dict[int, float]

    @classmethod
    def of(cls, pid: int) -> CpuTime:
        used = {}
        for one in tree(pid):
            try:
                used[one] = cpu_seconds(one)
            except OSError:
                continue  # it has just ended
        return cls(used)

    def until(self, later: CpuTime) -> float:
        """Seconds used since; of processes that ended in between nothing is known."""
        return sum(used - self.used.get(pid, 0.0) for pid, used in later.used.items())


def forget_peak(pid: int) -> None:
    """Let the peak of resident memory begin anew."""
    for one in tree(pid):
        Path(f"/proc/{one}/clear_refs").write_text("5")


def peak_mb(pid: int) -> float:
    """The most resident memory of a process tree since its peak was forgotten, in MiB."""
    return sum(_status(one, "VmHWM") for one in tree(pid))


def resident_mb(pid: int) -> float:
    """The resident memory of a process tree now, in MiB."""
    return sum(_status(one, "VmRSS") for one in tree(pid))


def _status(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return 0.0
