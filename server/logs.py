"""Structured logs: lines for people in a terminal, JSON for machines."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from io import StringIO
from typing import Any, TextIO

import orjson
import structlog
from structlog.typing import Processor

from db.tokens import TOKEN

HIDDEN = "eg_[hidden]"
# What the driver and the database quote of the values that they refuse.
VALUES = (
    (re.compile(r"(invalid input for query argument \$\d+): [^\n]*"), r"\1: [hidden]"),
    (re.compile(r"(invalid input syntax for [^\n:]*): [^\n]*"), r"\1: [hidden]"),
    (re.compile(r"^(\s*DETAIL:) [^\n]*", re.MULTILINE), r"\1 [hidden]"),
)
MARK = b"eg_"  # what every token begins with
PASSWORD_IN_URL = re.compile(r"(?<=://)([^:/@\s]*):[^@/\s]+@")


def configure(*, json: bool, level: str = "info") -> None:
    """Send structlog's and the standard library's records to standard error, in one format."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    final: list[Processor] = (
        [
            structlog.processors.format_exc_info,
            _without_values,
            structlog.processors.JSONRenderer(_json),
        ]
        if json
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=_plain_traceback
            ),
        ]
    )
    # As JSON our own lines, one for each operation, go straight out: a record of the standard
    # library's takes longer than a small query.
    processors = [*shared, *final, _without_secrets]
    standard = [*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter]
    structlog.configure(
        processors=processors if json else standard,
        logger_factory=_Line if json else structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        cache_logger_on_first_use=True,
    )
    Events.direct = json and logging.getLevelName(level.upper()) <= logging.INFO
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _without_colours,
                *final,
                _without_secrets,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
    # one line per operation is ours; one per HTTP request would say the same again
    logging.getLogger("uvicorn.access").disabled = True
    # and the provider's address and what it is sent are nobody's to read
    for name in ("alembic", "sqlalchemy", "asyncio", "db.pool", "openai", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


class _Line:
    """A logger that writes finished lines to standard error."""

    def __init__(self, name: str | None = None) -> None:
        self.name = name

    def write(self, line: str) -> None:
        """Write one line at once: several threads and processes may share the stream."""
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    debug = info = warning = error = critical = write


class Events:
    """One kind of event, told so often that what a logger does for each would be felt.

    As JSON an event becomes a line at once; for people it takes the usual way.
    """

    direct = False
    """Whether lines are JSON and such events are wanted; set by `configure`."""

    def __init__(self, logger: str, event: str) -> None:
        self._log = structlog.get_logger(logger)
        self._logger = logger
        self._event = event
        self._out = _Line()

    def tell(self, **facts: object) -> None:
        """Log one, as information. Facts are numbers, names and ids, not words of errors."""
        if not Events.direct:
            self._log.info(self._event, **facts)
            return
        facts |= {
            "event": self._event,
            "logger": self._logger,
            "level": "info",
            "timestamp": datetime.now(UTC),
        }
        line = orjson.dumps(facts, default=str, option=orjson.OPT_UTC_Z)
        text = line.decode()
        self._out.write(hidden(text) if MARK in line else text)


def _json(record: object, **_: object) -> str:
    return orjson.dumps(record, default=str).decode()


def _without_colours(
    _logger: object, _method: str, record: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    record.pop("color_message", None)  # uvicorn says everything twice
    return record


def _without_secrets(_logger: object, _method: str, line: Any) -> str:
    """The last net: whatever went into the line, no token and no URL's password comes out."""
    return hidden(str(line))


def _without_values(
    _logger: object, _method: str, record: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for name in ("event", "exception"):
        if isinstance(record.get(name), str):
            record[name] = unquoted(record[name])
    return record


def _plain_traceback(stream: TextIO, exc_info: Any) -> None:
    text = StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    stream.write(unquoted(text.getvalue()))


def unquoted(text: str) -> str:
    """A text of errors without the values that the database and its driver refused."""
    for pattern, instead in VALUES:
        text = pattern.sub(instead, text)
    return text


def hidden(text: str) -> str:
    """A text without bearer tokens and passwords."""
    return PASSWORD_IN_URL.sub(r"\1:[hidden]@", TOKEN.sub(HIDDEN, text))
