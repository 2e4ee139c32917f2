"""Messages that travel ahead of the driver's own.

The driver waits for the answer to each message before it sends the next. BEGIN and the settings of
a transaction need no such wait: nothing of theirs is looked at, and when one of them fails the
server skips what follows up to the next Sync, which is the driver's. So they are written just
before the driver writes a statement, leave in the same packet, and cost no trip of their own.

A statement behind them, without BEGIN, is one transaction by itself: everything up to a Sync is
(PostgreSQL, "Frontend/Backend Protocol", Pipelining). Settings that are local end with it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from struct import Struct
from typing import Any

PREPARED = 128
"""Statements that a connection keeps prepared."""
LARGEST_PREPARED = 15 * 1024
"""Characters of a statement that is kept; a larger one is unlikely to come again."""

HEADER = Struct(">cI")
SYNC = b"S\0\0\0\4"
COMMAND_COMPLETE, ERROR = ord("C"), ord("E")
ASYNCHRONOUS = frozenset(b"ANS")
"""Notifications, notices and parameter changes: not part of an answer, and the driver's to read."""

Ahead = Sequence[tuple[str, Sequence[str]]]
"""Statements and their arguments, all of them text."""


class Pipeline(asyncio.Protocol):
    """Stands between the transport of a driver's connection and the driver."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._protocol = driver._protocol
        self._transport = driver._transport
        self._receive = self._protocol.data_received
        self._statements: OrderedDict[str, Any] = OrderedDict()
        self._preparing = False
        self._unanswered = 0
        self._held = b""
        self._transport.set_protocol(self)

    @classmethod
    def of(cls, driver: Any, info: dict[Any, Any]) -> Pipeline:
        """The pipeline of a pooled connection; `info` lives as long as the connection."""
        pipeline: Pipeline | None = info.get(cls)
        if pipeline is None or pipeline._driver is not driver:
            pipeline = info[cls] = cls(driver)
        return pipeline

    async def prepare(self, sql: str) -> Any:
        """The driver's prepared statement of a text. Raises what the driver raises."""
        statement = self._statements.get(sql)
        if statement is not None:
            self._statements.move_to_end(sql)
            return statement
        self._preparing = True
        statement = await self._driver.prepare(sql)
        if len(sql) <= LARGEST_PREPARED:
            self._statements[sql] = statement
            if len(self._statements) > PREPARED:
                self._statements.popitem(last=False)
        return statement

    def forget(self) -> None:
        """Prepare everything anew: the schema has changed."""
        self._statements.clear()

    async def write(self, ahead: Ahead) -> None:
        """Write statements that the driver's next one follows at once, before anything else."""
        prepared = [(await self.prepare(sql), arguments) for sql, arguments in ahead]
        messages = [
            _bind_and_execute(statement.get_name(), arguments) for statement, arguments in prepared
        ]
        if self._preparing:
            # The driver prepares without a Sync: what has begun with it has to end first.
            messages.insert(0, SYNC)
            self._preparing = False
        self._unanswered = len(prepared)
        self._transport.write(b"".join(messages))

    def data_received(self, data: bytes) -> None:
        """Hand the driver what is its own."""
        if self._unanswered:
            data = self._after_answers(self._held + data)
        if data:
            self._receive(data)

    def _after_answers(self, data: bytes) -> bytes:
        """What follows the answers to the statements ahead. An error is for the driver."""
        theirs: list[bytes] = []
        start, size = 0, len(data)
        self._held = b""
        while self._unanswered:
            body = start + HEADER.size
            end = start + 1 + int.from_bytes(data[start + 1 : body], "big")
            if body > size or end > size:
                self._held = data[start:]
                return b"".join(theirs)
            kind = data[start]
            if kind == ERROR:
                self._unanswered = 0
                break
            if kind == COMMAND_COMPLETE:
                self._unanswered -= 1
            elif kind in ASYNCHRONOUS:
                theirs.append(data[start:end])
            start = end
        theirs.append(data[start:])
        return b"".join(theirs)

    # The rest of the transport's calls are the driver's.

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)

    def eof_received(self) -> bool | None:
        keep_open: bool | None = self._protocol.eof_received()
        return keep_open

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()


def _bind_and_execute(statement: str, arguments: Sequence[str]) -> bytes:
    """The messages that run a prepared statement with arguments that are text."""
    values = [argument.encode() for argument in arguments]
    body = b"".join(
        [
            b"\0",  # the unnamed portal
            statement.encode(),
            b"\0\0\0",  # all arguments as text
            len(values).to_bytes(2, "big"),
            *(part for value in values for part in (len(value).to_bytes(4, "big"), value)),
            b"\0\0",  # results, if any, as text
        ]
    )
    return b"".join([HEADER.pack(b"B", len(body) + 4), body, b"E\0\0\0\t\0\0\0\0\0"])
