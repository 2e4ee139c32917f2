"""Errors as a client sees them: a message, a place, a code. Nothing internal gets through here.

A ``GraphQLError`` is meant for the client when it carries a code, or when it comes from checking
what the client sent. Every other exception is a fault of the server: it is logged with its
traceback under the request's id, and the client gets that id and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypedDict

import structlog
from graphql import ArgumentNode, DirectiveNode, GraphQLError, ValueNode

from db.failures import DatabaseUnavailable, StatementCancelled
from db.notifications import FellBehind

__all__ = ["Failure", "Place", "code_of", "failure", "from_client", "present", "reveal"]

log = structlog.get_logger("engram.server")

MASKED = "Internal server error"
MAX_MESSAGE = 1_000  # characters
INTERNAL = "INTERNAL_SERVER_ERROR"
# Faults that a client may know about: the message and the code say no more than that.
KNOWN_FAULTS: dict[type[Exception], tuple[str, str]] = {
    DatabaseUnavailable: ("The database is not available.", INTERNAL),
    StatementCancelled: ("The operation took too long and was stopped.", INTERNAL),
    FellBehind: ("Changes came faster than they were read: subscribe again.", "RATE_LIMITED"),
}


class Place(TypedDict):
    """A place in the document, counted from 1."""

    line: int
    column: int


class Failure(TypedDict, total=False):
    """An entry of a response's ``errors``."""

    message: str
    locations: list[Place]
    path: list[str | int]
    extensions: dict[str, object]


def failure(message: str, code: str, **extensions: object) -> Failure:
    """An error that no document caused."""
    return {"message": message, "extensions": {"code": code, **extensions}}


def code_of(error: Failure) -> str:
    return str(error["extensions"]["code"])


def present(error: GraphQLError, default_code: str) -> Failure:
    """An error that is meant for the client, with a code whether it brought one or not."""
    entry: Failure = {"message": printable(error.message)}
    if error.locations:
        entry["locations"] = [
            {"line": place.line, "column": place.column} for place in error.locations
        ]
    if error.path:
        entry["path"] = list(error.path)
    entry["extensions"] = {"code": default_code, **(error.extensions or {})}
    return entry


def reveal(errors: Iterable[GraphQLError], request_id: str) -> list[Failure]:
    """The errors of an execution: the client's own as they are, all others masked and logged."""
    entries: list[Failure] = []
    logged: set[tuple[type[BaseException], str]] = set()
    for error in errors:
        if from_client(error):
            entries.append(present(error, "BAD_USER_INPUT"))
            continue
        cause = root_cause(error)
        message, code = next(
            (known for kind, known in KNOWN_FAULTS.items() if isinstance(cause, kind)),
            (MASKED, INTERNAL),
        )
        entry = present(GraphQLError(message, error.nodes, path=error.path), "")
        entry["extensions"] = {"code": code, "requestId": request_id}
        entries.append(entry)
        # A field that fails for each of a thousand rows is one line in the log.
        place = ".".join(part for part in error.path or () if isinstance(part, str))
        if (type(cause), place) in logged:
            continue
        logged.add((type(cause), place))
        if message is MASKED:
            log.error("unexpected_error", request_id=request_id, path=place, exc_info=cause)
        else:
            log.warning("operation_stopped", request_id=request_id, path=place, reason=message)
    return entries


def from_client(error: GraphQLError) -> bool:
    """Whether what the client sent is at fault, so that the message is meant for it."""
    if "code" in (error.extensions or {}):
        return True
    if any(not isinstance(cause, GraphQLError) for cause in causes(error)):
        return False
    # Arguments are checked against the schema during execution as well, and such an error points
    # at the argument. A value that a resolver got wrong points at its field.
    checked = (ArgumentNode, DirectiveNode, ValueNode)
    return any(isinstance(node, checked) for node in error.nodes or ())


def causes(error: GraphQLError) -> Iterator[BaseException]:
    """What an error was raised for, from the outside in."""
    cause: BaseException | None = error.original_error
    while cause is not None:
        yield cause
        cause = cause.original_error if isinstance(cause, GraphQLError) else None


def root_cause(error: GraphQLError) -> BaseException:
    found: BaseException = error
    for cause in causes(error):
        found = cause
    return found


def printable(text: str) -> str:
    """A message that can be shown: it may quote a value of any length, or half a surrogate pair."""
    if len(text) > MAX_MESSAGE:
        text = f"{text[:MAX_MESSAGE]}…"
    return text.encode("utf-8", "replace").decode("utf-8")
