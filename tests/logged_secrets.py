"""Reads what is logged while tests run, before anything is hidden in it.

`server.logs` takes tokens and passwords out of every line. That is the last net; that nothing falls
into it is the rule, as far as this can see.
Processes that tests start are read as well, as far as they wrote to standard error.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import pytest
import structlog

from db.tokens import TOKEN

SECRETS = {
    "a token": TOKEN,
    "a hash of a password": re.compile(r"\$argon2id?\$"),
    "a password": re.compile(r"correct horse battery staple|certainly not the password"),
    "a password in a URL": re.compile(r"://[^:/@\s\[]*:(?!\[hidden\])[^@/\s]+@"),
    "a header": re.compile(r"(?i)bearer [a-z0-9._-]{8}"),
}
found: dict[str, str] = {}
"""What kind of secret was logged, in which line; the first of each event."""


def read(text: str, where: str) -> None:
    """Note the secrets in a text that was logged."""
    for kind, pattern in SECRETS.items():
        match = pattern.search(text)
        if match is not None:
            found.setdefault(f"{kind}, {where}", text[max(0, match.start() - 200) : match.end()])


def _event(_logger: object, _method: str, event: MutableMapping[str, Any]) -> Any:
    error = event.get("exc_info")
    lines = traceback.format_exception(error) if isinstance(error, BaseException) else []
    read(f"{dict(event)!r} {''.join(lines)}", str(event.get("event")))
    return event


class _Records(logging.Handler):
    """Reads the standard library's records."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += "".join(traceback.format_exception(record.exc_info[1]))
        read(text, record.name)


@contextmanager
def logs_read() -> Iterator[None]:
    """Read every log until the block ends, and fail if there was a secret in one."""
    structlog.configure(processors=[_event, *structlog.get_config()["processors"]])
    handler = _Records(logging.DEBUG)
    logging.getLogger().addHandler(handler)
    yield
    logging.getLogger().removeHandler(handler)
    structlog.reset_defaults()
    if found:
        pytest.fail("\n".join(["Secrets were logged:", *(f"{w}: {t}" for w, t in found.items())]))
