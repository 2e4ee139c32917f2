"""Connections of clients: headers that must arrive in time, answers that must be taken, and an end
that loses no request.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["Forwarded", "Server", "handed_over", "http_protocol"]

FIRST_DESCRIPTOR = 3
"""Of the sockets that are handed over: sd_listen_fds(3)."""
SEE_OFF_SECONDS = 1.0
"""How long connections without a request are kept when the server stops: one may be under way."""
LOOK_SECONDS = 0.02
FORWARDED_FOR = b"x-forwarded-for"
TAKE_SECONDS = 60.0
"""How long a client may take nothing of an answer that waits for it in memory."""


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP, which gives up on headers that do not arrive in time, and on clients that
    stop reading: an answer is kept until they have it.
    """

    header_seconds: float
    take_seconds: float

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._waiting: asyncio.TimerHandle | None = None
        self._untaken: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        super().connection_made(transport)
        self._wait()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._waiting is None:
            self._wait()

    def on_headers_complete(self) -> None:
        self._wait_no_more()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        self._taken()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look_again()

    def resume_writing(self) -> None:
        self._taken()
        super().resume_writing()

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(self.header_seconds, self._give_up)

    def _wait_no_more(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        self._waiting = None
        if not self.transport.is_closing():
            self.transport.close()

    def _look_again(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._untaken = self.loop.call_later(self.take_seconds, self._look, left)

    def _look(self, before: int) -> None:
        if self.transport.get_write_buffer_size() < before:
            self._look_again()
        else:
            # To close it would wait for the client to read.
            self.transport.abort()

    def _taken(self) -> None:
        if self._untaken is not None:
            self._untaken.cancel()
            self._untaken = None


def http_protocol(header_seconds: float, take_seconds: float = TAKE_SECONDS) -> type[HttpProtocol]:
    """The protocol for uvicorn, which makes its instances itself."""
    bounds = {"header_seconds": header_seconds, "take_seconds": take_seconds}
    return type("HttpProtocol", (HttpProtocol,), bounds)


class Forwarded:
    """Where requests come from, as the proxies in front say.

    A proxy adds whom it was asked by to the end of X-Forwarded-For; what stands before that is what
    it was sent. Of proxies that are named uvicorn finds the first. Where any is trusted it takes
    the first address there is, which clients choose for themselves: here it sees the last alone.
    """

    def __init__(self, application: ASGIApp, proxies: str) -> None:
        self._all = proxies.strip() == "*"
        self._next = ProxyHeadersMiddleware(
            application,  # type: ignore[arg-type]  # uvicorn has types of its own for the same
            "*" if self._all else proxies,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._all and scope["type"] != "lifespan":
            said = [value for name, value in scope["headers"] if name == FORWARDED_FOR]
            if said:
                rest = [pair for pair in scope["headers"] if pair[0] != FORWARDED_FOR]
                last = said[-1].rpartition(b",")[2]
                scope = {**scope, "headers": [*rest, (FORWARDED_FOR, last)]}
        await self._next(scope, receive, send)  # type: ignore[arg-type]  # likewise


class Server(uvicorn.Server):
    """uvicorn, which ends open streams when it stops, and sees its clients off.

    uvicorn closes at once what has no request at the moment, and with it a request that is on its
    way. Here such a connection has a moment left; what is answered meanwhile says that the
    connection ends with it, so that a busy client goes elsewhere with its next request.
    """

    def __init__(self, application: Starlette, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._application = application

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, close WebSockets with 1012, answer what is asked, then end."""
        for server in self.servers:
            server.close()
        self._application.state.stopping.set()
        state = self.server_state
        state.default_headers = [*state.default_headers, (b"connection", b"close")]
        for connection in list(state.connections):
            if not isinstance(connection, HttpProtocol):
                connection.shutdown()
        loop = asyncio.get_running_loop()
        limit = loop.time() + SEE_OFF_SECONDS
        while state.connections and loop.time() < limit and not self.force_exit:  # noqa: ASYNC110  # a set tells nobody
            await asyncio.sleep(LOOK_SECONDS)
        await super().shutdown(sockets)


def handed_over(many: int) -> list[socket.socket] | None:
    """The listening sockets that a supervisor has opened for this process; None without any."""
    descriptors = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + many)
    return [socket.socket(fileno=descriptor) for descriptor in descriptors] or None
