"""Who gets in, and how often: limits on what callers spend, on sign-ups and on passwords."""

from server.gate.limits import GateLimits, Rate, read_rate
from server.gate.service import EntryGate, OverLimit
from server.gate.stores import Memory, Shared, Store, open_store

__all__ = [
    "EntryGate",
    "GateLimits",
    "Memory",
    "OverLimit",
    "Rate",
    "Shared",
    "Store",
    "open_store",
    "read_rate",
]
