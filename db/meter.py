"""What the database is asked, counted for those who watch the process.

Everything here runs on the event loop, so numbers need no locks; they are read when somebody looks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["SECONDS", "Histogram", "Meter", "meter_of"]

SECONDS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Upper bounds of durations."""
OPTION = "meter"
"""The engine's execution option that holds its meter."""


class Histogram:
    """How many values there were up to each bound, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def cumulative(self) -> list[int]:
        """How many values were at most each bound; the last is how many there were."""
        return list(accumulate(self.counts))


class Meter:
    """The statements of an engine's sessions."""

    __slots__ = ("failed", "rows", "seconds")

    def __init__(self) -> None:
        self.seconds = Histogram()
        self.rows = 0
        self.failed = 0

    def statement(self, seconds: float, rows: int | None) -> None:
        """Count one that was answered with so many rows, or failed."""
        self.seconds.observe(seconds)
        if rows is None:
            self.failed += 1
        else:
            self.rows += rows


def meter_of(engine: AsyncEngine) -> Meter | None:
    """The meter that an engine was made with."""
    meter: Meter | None = engine.sync_engine.get_execution_options().get(OPTION)
    return meter
