"""What a bad request and its answer are made of."""

from dataclasses import dataclass, field
from typing import Any

import orjson


@dataclass(frozen=True)
class Bad:
    """A bad request and its answer."""

    name: str
    body: bytes
    status: int
    code: str
    message: str
    extensions: dict[str, object] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


def ask(query: str, **others: Any) -> bytes:
    return orjson.dumps({"query": query} | others)


def json_body(name: str, body: bytes, problem: str) -> Bad:
    return Bad(name, body, 400, "BAD_REQUEST", f"The body is not valid JSON: {problem}.")


def complex_document(name: str, query: str, limit: str, value: int, bound: int) -> Bad:
    counted = f"at least {value:,}" if value == 1_000_000_000 else f"{value:,}"
    return Bad(
        name,
        ask(query),
        400,
        "QUERY_TOO_COMPLEX",
        f"The document is too complex: {limit.replace('_', ' ')} {counted}, "
        f"at most {bound:,} allowed.",
        {"limit": limit, "value": value, "bound": bound},
    )
