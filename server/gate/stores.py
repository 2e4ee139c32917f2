"""Where counts are kept: in this process, or in Redis for all processes.

The package limits has a memory of its own, which is not used: after a hit it walks over all keys,
0.6 ms of CPU for 10,000 callers where a dictionary takes 1 µs. Its Redis storage is used: one
script, one trip.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Protocol, TypeVar
from urllib.parse import urlsplit
from zlib import crc32

import structlog
from limits.aio.storage import RedisStorage
from pydantic import SecretStr
from redis.exceptions import RedisError

from server.gate.limits import Rate

__all__ = ["Memory", "Shared", "Store", "Taken", "open_store"]

T = TypeVar("T")
log = structlog.get_logger("engram.server")

REDIS = frozenset({"redis", "rediss", "unix"})
KEPT_KEYS = 200_000
SWEEP_SECONDS = 60.0
TRIP_SECONDS = 0.5
AGAIN_SECONDS = 5.0

Taken = tuple[int, float, bool]
"""How much of a window is used, when it ends, and whether what was asked for did not fit."""


class Store(Protocol):
    """Counts by name and key, each for a while."""

    def take(self, name: str, key: Hashable, rate: Rate, amount: int) -> Taken | Awaitable[Taken]:
        """Take from a window what fits, or nothing. Only what is far away is to be awaited."""
        ...

    async def add(self, name: str, key: Hashable, seconds: int, amount: int = 1) -> int:
        """Add to a count, which ends so many seconds after its first addition; the sum."""
        ...

    async def left(self, name: str, key: Hashable) -> float:
        """The seconds until a count ends; 0 when there is none."""
        ...

    async def clear(self, name: str, key: Hashable) -> None:
        """End a count."""
        ...

    async def close(self) -> None:
        """Give back what is held."""
        ...


class Memory:
    """Counts of this process alone; `take` is an update of a dictionary."""

    def __init__(
        self, *, clock: Callable[[], float] = time.time, kept_keys: int = KEPT_KEYS
    ) -> None:
        self._clock = clock
        self._kept_keys = kept_keys
        self._counts: dict[tuple[str, Hashable], tuple[float, int]] = {}  # when it ends, the count
        self._sweep_at = 0.0

    def __len__(self) -> int:
        return len(self._counts)

    def take(self, name: str, key: Hashable, rate: Rate, amount: int) -> Taken:
        now = self._clock()
        counted = self._counts.get((name, key))
        if counted is None or counted[0] <= now:
            self._make_room(now)
            ends, used = now + rate.seconds, 0
        else:
            ends, used = counted
        if used + amount > rate.amount:
            return used, ends, True
        self._counts[name, key] = ends, used + amount
        return used + amount, ends, False

    async def add(self, name: str, key: Hashable, seconds: int, amount: int = 1) -> int:
        now = self._clock()
        ends, count = self._counts.get((name, key), (0.0, 0))
        if ends <= now:
            self._make_room(now)
            ends, count = now + seconds, 0
        self._counts[name, key] = ends, count + amount
        return count + amount

    async def left(self, name: str, key: Hashable) -> float:
        ends, _ = self._counts.get((name, key), (0.0, 0))
        return max(0.0, ends - self._clock())

    async def clear(self, name: str, key: Hashable) -> None:
        self._counts.pop((name, key), None)

    async def close(self) -> None:
        pass

    def _make_room(self, now: float) -> None:
        """Forget what has ended, now and then; of what has not, the oldest when there is much."""
        full = len(self._counts) >= self._kept_keys
        if now < self._sweep_at and not full:
            return
        self._sweep_at = now + SWEEP_SECONDS
        self._counts = {key: count for key, count in self._counts.items() if count[0] > now}
        if len(self._counts) >= self._kept_keys:
            for key in list(self._counts)[: self._kept_keys // 10]:
                del self._counts[key]


class Shared:
    """Counts in Redis; while it does not answer, those of this process."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self._redis = RedisStorage(
            f"async+{url}" if not url.startswith("unix") else f"async+redis+{url}",
            implementation="redispy",
            key_prefix="engram",
            socket_timeout=TRIP_SECONDS,
            socket_connect_timeout=TRIP_SECONDS,
        )
        self._clock = clock
        self._memory = Memory(clock=clock)
        self._down_until = 0.0

    async def take(self, name: str, key: Hashable, rate: Rate, amount: int) -> Taken:
        # A window begins at its own time for each key, and all processes know when.
        now = self._clock()
        offset = crc32(str(key).encode()) % rate.seconds
        window = int(now + offset) // rate.seconds
        ends = float((window + 1) * rate.seconds - offset)
        place = f"{name}/{key}/{window}"

        async def far() -> Taken:
            used = await self._redis.incr(place, rate.seconds, amount)
            if used <= rate.amount:
                return used, ends, False
            return await self._redis.incr(place, rate.seconds, -amount), ends, True

        async def near() -> Taken:
            return self._memory.take(name, key, rate, amount)

        return await self._either(far, near)

    async def add(self, name: str, key: Hashable, seconds: int, amount: int = 1) -> int:
        return await self._either(
            lambda: self._redis.incr(f"{name}/{key}", seconds, amount),
            lambda: self._memory.add(name, key, seconds, amount),
        )

    async def left(self, name: str, key: Hashable) -> float:
        async def far() -> float:
            return max(0.0, await self._redis.get_expiry(f"{name}/{key}") - time.time())

        return await self._either(far, lambda: self._memory.left(name, key))

    async def clear(self, name: str, key: Hashable) -> None:
        await self._either(
            lambda: self._redis.clear(f"{name}/{key}"), lambda: self._memory.clear(name, key)
        )

    async def close(self) -> None:
        await self._redis.bridge.get_connection().aclose()  # type: ignore[attr-defined]  # redis-py's

    async def _either(self, far: Callable[[], Awaitable[T]], near: Callable[[], Awaitable[T]]) -> T:
        """Ask Redis; this process, where Redis fails, and for a moment after."""
        if self._clock() >= self._down_until:
            try:
                async with asyncio.timeout(TRIP_SECONDS):
                    return await far()
            except (RedisError, OSError, TimeoutError) as error:
                self._down_until = self._clock() + AGAIN_SECONDS
                log.warning("rate_limit_storage_unreachable", error=type(error).__name__)
        return await near()


def open_store(url: SecretStr | None) -> Store:
    """The store of a URL; without one this process. Opens nothing yet. Raises ValueError."""
    if url is None:
        return Memory()
    if urlsplit(url.get_secret_value()).scheme in REDIS:
        return Shared(url.get_secret_value())
    raise ValueError("It must begin with redis://, rediss:// or unix://.")
