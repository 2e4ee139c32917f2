"""UUIDs of version 7 (RFC 9562), for rows whose id must be known before they are stored."""

import secrets
import time
from uuid import UUID

_NANOSECONDS = 1_000_000
"""In a millisecond."""


def uuid7() -> UUID:
    """A new id: the time to the 4096th of a millisecond, then 62 random bits.

    PostgreSQL's `uuidv7()` fills the same bits with the same things (RFC 9562 section 6.2, method
    3), so ids of either origin sort together.
    """
    milliseconds, rest = divmod(time.time_ns(), _NANOSECONDS)
    fraction = (rest << 12) // _NANOSECONDS
    return UUID(
        int=milliseconds << 80 | 7 << 76 | fraction << 64 | 0b10 << 62 | secrets.randbits(62)
    )
