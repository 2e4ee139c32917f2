"""Global ids: the type's name in snake case, an underscore, the UUID as 32 hex digits."""

import re
from uuid import UUID

_GLOBAL_ID = re.compile(r"([a-z][a-z0-9_]*)_([0-9a-f]{32})")


class BadId(ValueError):
    """A text that is not a global id, or one of another type."""


def encode(key: str, value: UUID) -> str:
    """The global id of the row `value` of the type whose key is `key`."""
    return f"{key}_{value.hex}"


def decode(text: str) -> tuple[str, UUID]:
    """Split a global id into its type's key and its UUID.

    Raises:
        BadId: the text has another form.
    """
    match = _GLOBAL_ID.fullmatch(text) if len(text) <= 100 else None
    if match is None:
        raise BadId("An id is a type name, an underscore and 32 hex digits.")
    return match[1], UUID(hex=match[2])


def decode_as(key: str, text: str) -> UUID:
    """The UUID in a global id that must be of the type whose key is `key`.

    Raises:
        BadId: the text has another form or names another type.
    """
    found, value = decode(text)
    if found != key:
        raise BadId(f"This must be the id of {_a(key)}, not of {_a(found)}.")
    return value


def _a(key: str) -> str:
    """A key with its article: a task, an api_key."""
    return f"{'an' if key[0] in 'aeiou' else 'a'} {key}"
