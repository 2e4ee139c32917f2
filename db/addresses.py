"""Network addresses, as far as they tell one customer from another."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address

__all__ = ["UNKNOWN", "network"]

IPV6_PREFIX = 64  # one customer has at least so many addresses
UNKNOWN = "unknown"


@lru_cache(maxsize=10_000)
def network(ip: str | None) -> str:
    """Whose an address is, as far as one can tell: itself, or in IPv6 the network it is in."""
    try:
        address = ip_address((ip or "").partition("%")[0])
    except ValueError:
        return UNKNOWN
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        prefix = int(address) >> (128 - IPV6_PREFIX) << (128 - IPV6_PREFIX)
        return f"{IPv6Address(prefix)}/{IPV6_PREFIX}"
    return str(address)
