"""Places in PostgreSQL's write-ahead log (WAL), of which a standby replays one after the other."""

from __future__ import annotations

import re

__all__ = ["NOWHERE", "UNREADABLE", "read_lsn", "show_lsn"]

NOWHERE = 0
"""Before everything."""
UNREADABLE = 2**64
"""Behind everything: what no standby has replayed."""
_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


def read_lsn(text: str) -> int:
    """The place that PostgreSQL writes so; UNREADABLE for any other text."""
    match = _TEXT.fullmatch(text)
    return UNREADABLE if match is None else (int(match[1], 16) << 32) + int(match[2], 16)


def show_lsn(lsn: int) -> str:
    """As PostgreSQL writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
