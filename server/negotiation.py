"""Which media type a request sent and which it wants back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

__all__ = ["EVENTS", "GRAPHQL", "JSON", "MULTIPART", "Accepted", "is_json_utf8", "negotiate"]

GRAPHQL = "application/graphql-response+json"
JSON = "application/json"
EVENTS = "text/event-stream"
MULTIPART = "multipart/mixed"
SUBSCRIPTIONS = "subscriptionspec=1.0"  # in lower case: what multipart answers may hold
HTML = "text/html"
MAX_HEADER = 1_000  # characters that are looked at


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a client can read: one JSON type at most, streams, a page."""

    json: str | None
    events: bool
    multipart: bool
    html: bool

    @property
    def stream(self) -> bool:
        """Whether it can read more than one answer; events or parts, whichever it likes more."""
        return self.events or self.multipart


def parse(header: str) -> dict[str, float]:
    """Media ranges with their quality.

    A range with a charset other than UTF-8 is left out, and so are parts that are not those of a
    subscription.
    """
    ranges: dict[str, float] = {}
    for entry in header.split(",")[:50]:
        media, *parameters = (part.strip().lower() for part in entry.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                try:
                    quality = float(value)
                except ValueError:
                    quality = 0.0
            elif name.strip() == "charset" and value.strip(' "') not in ("utf-8", "utf8"):
                quality = 0.0
        if media == MULTIPART and SUBSCRIPTIONS not in map(unquoted, parameters):
            quality = 0.0
        if media:
            ranges[media] = max(quality, ranges.get(media, 0.0))
    return ranges


def unquoted(parameter: str) -> str:
    """A parameter without the quotes and spaces it may have."""
    name, _, value = parameter.partition("=")
    value = value.strip(' "')
    return f"{name.strip()}={value}"


def negotiate(header: str | None) -> Accepted:
    """Read an Accept header.

    Without one, and for ``*/*``, the answer is application/json, as older clients expect.
    """
    if header is None or not header.strip():
        return Accepted(json=JSON, events=False, multipart=False, html=False)
    return read_accept(header[:MAX_HEADER])


@lru_cache(maxsize=128)  # clients of one kind send the same header
def read_accept(header: str) -> Accepted:
    ranges = parse(header)

    def quality(media: str) -> float:
        """Of a type named exactly, or by its family; the wildcard is looked at last."""
        family = media.split("/")[0] + "/*"
        return ranges.get(media, ranges.get(family, 0.0))

    anything = ranges.get("*/*", 0.0)
    named_graphql = ranges.get(GRAPHQL, 0.0)
    named_json = quality(JSON)
    json: str | None = None
    if named_graphql > 0 and named_graphql >= named_json:
        json = GRAPHQL
    elif named_json > 0 or anything > 0:
        json = JSON
    parts = ranges.get(MULTIPART, 0.0)
    return Accepted(
        json=json,
        events=quality(EVENTS) > parts,
        multipart=parts > 0 and parts >= quality(EVENTS),
        html=quality(HTML) > 0 and ranges.get(HTML, 0) > 0,
    )


@lru_cache(maxsize=128)
def is_json_utf8(content_type: str | None) -> bool:
    """Whether a body says that it is JSON in UTF-8, by itself or by default."""
    if content_type is None or len(content_type) > MAX_HEADER:
        return False
    media, *parameters = (part.strip().lower() for part in content_type.split(";"))
    if media != JSON:
        return False
    charsets = [
        parameter.partition("=")[2].strip(' "')
        for parameter in parameters
        if parameter.startswith("charset")
    ]
    return all(charset in ("utf-8", "utf8") for charset in charsets)
