"""How much is allowed, of what, in how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import limits

__all__ = ["OFF", "GateLimits", "Rate", "read_rate"]

OFF = "off"


class Rate(NamedTuple):
    """So many of something in a window of so many seconds."""

    amount: int
    seconds: int


def read_rate(text: str) -> Rate | None:
    """A rate in the notation of the package limits, such as ``100 per 5 minutes`` or ``20/hour``.

    None for ``off``. Raises ValueError.
    """
    if text.strip().lower() == OFF:
        return None
    item = limits.parse(text)
    if item.amount < 1:
        raise ValueError("At least one must be allowed.")
    return Rate(item.amount, item.get_expiry())


@dataclass(frozen=True, slots=True)
class GateLimits:
    """All limits of a process; None is no limit."""

    cost: Rate | None = None
    """Points of a person."""
    address_cost: Rate | None = None
    """Points of an address whose callers are not logged in."""
    sign_ups: Rate | None = None
    """Of an address."""
    log_ins: Rate | None = None
    """Of an address, right or wrong."""
    failures: int = 5
    """Wrong passwords for an account, from one address, before each further one takes longer."""
    address_failures: int = 50
    """The same from one address, for all accounts together."""
    account_failures: int = 100
    """The same for one account, from all addresses that it has not been logged in to from."""
    longest_wait: int = 900
    """Seconds; how long the next attempt may have to wait at most."""
