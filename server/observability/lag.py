"""How late the event loop is: what every request of the process waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import perf_counter

from db.meter import Histogram
from server.observability.exposition import Family

__all__ = ["LoopLag"]

EVERY_SECONDS = 0.5
BOUNDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class LoopLag:
    """One timer, which looks how long after its time it is called."""

    def __init__(self, every_seconds: float = EVERY_SECONDS) -> None:
        self.seconds = Histogram(BOUNDS)
        self._every_seconds = every_seconds
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to look, on the running loop."""
        loop = asyncio.get_running_loop()
        self._due = perf_counter() + self._every_seconds
        self._timer = loop.call_later(self._every_seconds, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self.seconds.observe(max(0.0, perf_counter() - self._due))
        self.start()

    def families(self) -> Iterator[Family]:
        """What was seen."""
        yield Family(
            "engram_event_loop_lag_seconds", "histogram", "How late a timer was, twice a second."
        ).add_histogram(self.seconds)
