"""Queries over GET, which are for trusted documents alone: any other a foreign page could send.

Their answers may be kept by the caller's own cache, which asks each time whether they still hold.
"""

from __future__ import annotations

from hashlib import sha256
from urllib.parse import parse_qsl

import orjson

from server.requests import BadRequest
from server.wire import Refusal

__all__ = ["CACHED", "etag_of", "is_current", "read_parameters"]

CACHED = {"vary": "Accept, Authorization", "cache-control": "private, no-cache"}
MAX_BYTES = 16 * 1024  # of a URL's query; some proxies stop at half of it
MAX_PARAMETERS = 20


def read_parameters(query_string: bytes) -> dict[str, object] | None:
    """The request that a URL makes for a document by its id or hash; None if it makes none.

    Raises Refusal and BadRequest.
    """
    if len(query_string) > MAX_BYTES:
        raise Refusal(414, "URI_TOO_LONG", f"The URL's query is longer than {MAX_BYTES:,} bytes.")
    try:
        text = query_string.decode("ascii")
        pairs = parse_qsl(text, errors="strict", max_num_fields=MAX_PARAMETERS)
    except ValueError:
        raise BadRequest("The parameters of the URL are not readable.") from None
    value: dict[str, object] = dict(pairs)
    if "query" in value or not value.keys() & {"documentId", "extensions"}:
        return None
    if len(value) != len(pairs):
        raise BadRequest("The URL names a parameter twice.")
    for name, given in pairs:
        if name in ("variables", "extensions"):
            try:
                value[name] = orjson.loads(given)
            except orjson.JSONDecodeError:
                raise BadRequest(f"{name} must be JSON.") from None
    return value


def etag_of(media: str, body: bytes) -> str:
    """A strong validator: another body or another media type has another."""
    return f'"{sha256(media.encode() + body).hexdigest()}"'


def is_current(etag: str, if_none_match: str | None) -> bool:
    """Whether the caller says that it has this answer already."""
    if if_none_match is None:
        return False
    held = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in held or held == ["*"]
