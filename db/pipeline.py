"""Messages that travel ahead of the driver's own.

The driver waits for the answer to each message before it sends the next. BEGIN and the settings of
a transaction need no such wait: nothing of theirs is looked at, and when one of them fails the
server skips what follows up to the next Sync, which is the driver's. So they are put before the
next thing that the driver writes, leave with it, and cost no trip of their own.

A statement behind them, without BEGIN, is one transaction by itself: everything up to a Sync is
(PostgreSQL, "Frontend/Backend Protocol", Pipelining). Settings that are local end with it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from struct import Struct
from typing import Any

import asyncpg
from asyncpg.protocol import Protocol

__all__ = ["Ahead", "Heard", "Pipeline", "connect"]

PREPARED = 128
"""Statements that a connection keeps prepared."""
LARGEST_PREPARED = 15 * 1024
"""Characters of a statement that is kept; a larger one is unlikely to come again."""

HEADER = Struct(">cI")
SYNC = b"S\0\0\0\4"
ROLLBACK = b"Q\0\0\0\rROLLBACK\0"
COMMAND_COMPLETE, DATA_ROW, ERROR, READY = ord("C"), ord("D"), ord("E"), ord("Z")
ENDINGS = ("COMMIT", "ROLLBACK")
"""What PostgreSQL says to the end of a transaction."""
ASYNCHRONOUS = frozenset(b"ANS")
"""Notifications, notices and parameter changes: not part of an answer, and the driver's to read."""

Ahead = Sequence[tuple[str, Sequence[str]]]
"""Statements and their arguments, all of them text."""


async def connect(*arguments: Any, **options: Any) -> Any:
    """`asyncpg.connect`, with a pipeline for `Pipeline.of`."""
    loop = asyncio.get_running_loop()
    driver: Any = await asyncpg.connect(*arguments, loop=_Loop(loop), **options)
    driver._loop = loop  # from here on the driver looks for its own tasks in it
    return driver


class Pipeline:
    """What a connection has prepared, and the way ahead of its driver."""

    def __init__(self, driver: Any, outgoing: _Outgoing) -> None:
        self._driver = driver
        self._outgoing = outgoing
        self._statements: OrderedDict[str, Any] = OrderedDict()
        self.preparing = False
        """Whether something was prepared and no Sync has followed: the server waits inside of a
        transaction for more, and keeps its locks."""
        self.ended = False
        """Whether the transaction that the driver last knew of has been ended behind its back."""

    @classmethod
    def of(cls, driver: Any) -> Pipeline | None:
        """The pipeline of a connection, None if it was not made by `connect`."""
        outgoing = driver._transport
        if not isinstance(outgoing, _Outgoing):
            return None
        if outgoing.pipeline is None:
            outgoing.pipeline = cls(driver, outgoing)
        return outgoing.pipeline

    async def prepare(self, sql: str) -> Any:
        """The driver's prepared statement of a text. Raises what the driver raises."""
        statement = self._statements.get(sql)
        if statement is not None:
            self._statements.move_to_end(sql)
            return statement
        self.preparing = True
        statement = await self._driver.prepare(sql)
        if len(sql) <= LARGEST_PREPARED:
            self._statements[sql] = statement
            if len(self._statements) > PREPARED:
                self._statements.popitem(last=False)
        return statement

    def forget(self) -> None:
        """Prepare everything anew: the schema has changed."""
        self._statements.clear()

    async def put_ahead(self, ahead: Ahead) -> None:
        """Put statements before what the driver writes next."""
        prepared = [(await self.prepare(sql), arguments) for sql, arguments in ahead]
        messages = [
            _bind_and_execute(statement.get_name(), arguments) for statement, arguments in prepared
        ]
        if self.preparing:
            # The driver prepares without a Sync: what has begun with it has to end first.
            messages.insert(0, SYNC)
        self._outgoing.hold(b"".join(messages), len(prepared))
        self.ended = False

    def roll_back(self) -> None:
        """End a transaction that wrote nothing, without waiting to hear that it has ended.

        Whatever is sent next comes after it.
        """
        self._outgoing.write_past(ROLLBACK)
        self.ended = True

    @contextmanager
    def overhear(self) -> Iterator[Heard]:
        """What the server answers to a script of the driver's, which keeps its last word alone."""
        heard = Heard()
        self._outgoing.tap(heard.hear)
        try:
            yield heard
        finally:
            self._outgoing.tap(None)

    def take_back(self) -> None:
        """Forget what was put ahead and has not left, because the driver wrote nothing."""
        if not self._outgoing.holds:
            self.preparing = False  # the Sync has left with the rest
        self._outgoing.hold(b"", 0)


class Heard:
    """How a transaction ended, and the text that was asked for behind its end."""

    def __init__(self) -> None:
        self.ending: str | None = None
        self.value: str | None = None
        self._rest = b""

    def hear(self, data: bytes) -> None:
        """Read on."""
        data = self._rest + data
        start, size = 0, len(data)
        while start + HEADER.size <= size:
            kind, length = HEADER.unpack_from(data, start)
            body, end = start + HEADER.size, start + 1 + length
            if end > size:
                break
            if kind[0] == COMMAND_COMPLETE:
                tag = data[body : end - 1].decode()
                self.ending = tag if tag in ENDINGS else self.ending
            elif kind[0] == DATA_ROW and self.ending is not None:
                self.value = data[body + 6 : end].decode()  # behind one column's count and length
            start = end
        self._rest = data[start:]


class _Outgoing:
    """A transport that writes what is held before what it is given."""

    def __init__(self, transport: Any, incoming: _Incoming) -> None:
        self.pipeline: Pipeline | None = None
        self._transport = transport
        self._write: Callable[[bytes], None] = transport.write
        self._incoming = incoming
        self._held = b""
        self._answers = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    @property
    def holds(self) -> bool:
        """Whether anything is held that has not left."""
        return bool(self._held)

    def hold(self, messages: bytes, answers: int) -> None:
        self._held, self._answers = messages, answers

    def tap(self, hear: Callable[[bytes], None] | None) -> None:
        self._incoming.tap(hear)

    def write_past(self, query: bytes) -> None:
        """Write a query of the simple protocol whose answer the driver does not see."""
        self._incoming.skip_query()
        self._write(query)

    def write(self, data: bytes) -> None:
        if self._held:
            self._incoming.skip(self._answers)
            data, self._held = b"".join((self._held, data)), b""
        self._write(data)

    def set_protocol(self, protocol: Any) -> None:
        """The driver says who reads, once a connection is encrypted."""
        self._incoming = _Incoming(protocol)
        self._transport.set_protocol(self._incoming)


class _Incoming(asyncio.Protocol):
    """Hands the driver what the server sends, but for the answers to what was put ahead."""

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._receive: Callable[[bytes], None] = protocol.data_received
        self._queries = 0
        self._unanswered = 0
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.outgoing = _Outgoing(transport, self)
        self._protocol.connection_made(self.outgoing)

    def skip_query(self) -> None:
        """Keep the next whole answer from the driver, up to where the server is ready again."""
        self._queries += 1

    def tap(self, hear: Callable[[bytes], None] | None) -> None:
        """Let somebody hear what the driver is handed; None ends it."""
        receive: Callable[[bytes], None] = self._protocol.data_received

        def both(data: bytes) -> None:
            assert hear is not None
            hear(data)
            receive(data)

        self._receive = receive if hear is None else both

    def skip(self, answers: int) -> None:
        """Keep the next answers to statements from the driver, which follow those to queries."""
        self._unanswered = answers

    def data_received(self, data: bytes) -> None:
        if self._unanswered or self._queries:
            data = self._after_answers(self._rest + data)
        if data:
            self._receive(data)

    def _after_answers(self, data: bytes) -> bytes:
        """What follows the answers to be skipped. An error is for the driver."""
        theirs: list[bytes] = []
        start, size = 0, len(data)
        self._rest = b""
        while self._unanswered or self._queries:
            body = start + HEADER.size
            end = start + 1 + int.from_bytes(data[start + 1 : body], "big")
            if body > size or end > size:
                self._rest = data[start:]
                return b"".join(theirs)
            kind = data[start]
            if kind in ASYNCHRONOUS:
                theirs.append(data[start:end])
            elif self._queries:
                self._queries -= kind == READY
            elif kind == ERROR:
                self._unanswered = 0
                break
            elif kind == COMMAND_COMPLETE:
                self._unanswered -= 1
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


class _Loop:
    """An event loop whose connections to PostgreSQL go through a pipeline."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def create_connection(self, make: Any, *arguments: Any, **options: Any) -> Any:
        return await _connected(self._loop.create_connection, make, arguments, options)

    async def create_unix_connection(self, make: Any, *arguments: Any, **options: Any) -> Any:
        return await _connected(self._loop.create_unix_connection, make, arguments, options)

    async def start_tls(self, transport: Any, protocol: Any, *rest: Any, **options: Any) -> Any:
        encrypted = await self._loop.start_tls(transport, protocol, *rest, **options)
        # Who reads is said next, by `set_protocol`.
        return _Outgoing(encrypted, _Incoming(protocol))


async def _connected(
    open_connection: Any, make: Any, arguments: tuple[Any, ...], options: dict[str, Any]
) -> tuple[Any, Any]:
    protocol = make()
    if not isinstance(protocol, Protocol):
        # Asking for TLS, or for a statement to be cancelled.
        opened: tuple[Any, Any] = await open_connection(lambda: protocol, *arguments, **options)
        return opened
    incoming = _Incoming(protocol)
    await open_connection(lambda: incoming, *arguments, **options)
    return incoming.outgoing, protocol


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
