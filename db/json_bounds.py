"""How large and how deep a JSON value may be, measured as PostgreSQL's jsonb would print it."""

import math
from collections.abc import Callable
from decimal import Decimal

from pydantic_core import PydanticCustomError

MAX_DEPTH = 32
"""Levels below the outermost value."""


def check_json(max_bytes: int) -> Callable[[object], object]:
    """Make a validator that refuses what the column's CHECK would refuse."""

    def check(value: object) -> object:
        if value is not None and printed_size(value) > max_bytes:
            raise PydanticCustomError(
                "max_bytes", "must be at most {bound} bytes of JSON", {"bound": max_bytes}
            )
        return value

    return check


def printed_size(value: object, level: int = 0) -> int:
    """Bytes of `value::jsonb::text`. Raises ValueError for what jsonb cannot hold."""
    if level > MAX_DEPTH:
        raise PydanticCustomError(
            "max_depth", "must nest at most {bound} levels deep", {"bound": MAX_DEPTH}
        )
    if isinstance(value, dict):
        # Two bytes for the braces, two for ": " of each entry, two for ", " between entries.
        entries = sum(_string(key) + 2 + printed_size(one, level + 1) for key, one in value.items())
        return 2 + entries + 2 * max(len(value) - 1, 0)
    if isinstance(value, list):
        return 2 + sum(printed_size(one, level + 1) for one in value) + 2 * max(len(value) - 1, 0)
    if isinstance(value, str):
        return _string(value)
    if value is None or value is True:
        return 4
    if value is False:
        return 5
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("must hold finite numbers only")
        # jsonb keeps every digit, writes no exponents and knows no negative zero.
        return len(format(abs(Decimal(repr(value))), "f")) + (value < 0)
    raise ValueError("must hold JSON values only")


def _integer(value: int) -> int:
    # Python refuses to print more than 4,300 digits; no honest number has that many.
    if abs(value) >= 10**400:
        raise ValueError("must hold integers of at most 400 digits")
    return len(str(value))


_ESCAPES = dict.fromkeys('"\\\x08\x0c\n\r\t', 2)


def _string(value: object) -> int:
    if not isinstance(value, str):
        raise ValueError("must have strings as keys")
    if "\0" in value:
        raise ValueError("must not hold NUL characters")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError("must not hold lone surrogates") from None
    control = sum(_ESCAPES.get(one, 6) - 1 for one in value if one < " " or one in '"\\')
    return size + control + 2
