"""Connections of clients: headers that must arrive in time, and an end that loses no request."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["Server", "handed_over", "http_protocol"]

FIRST_DESCRIPTOR = 3
"""Of the sockets that are handed over: sd_listen_fds(3)."""
SEE_OFF_SECONDS = 1.0
"""How long connections without a request are kept when the server stops: one may be under way."""
LOOK_SECONDS = 0.02


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP, which gives up on headers that do not arrive in time."""

    header_seconds: float

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._waiting: asyncio.TimerHandle | None = None

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
        super().connection_lost(exc)

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


def http_protocol(header_seconds: float) -> type[HttpProtocol]:
    """The protocol for uvicorn, which makes its instances itself."""
    return type("HttpProtocol", (HttpProtocol,), {"header_seconds": header_seconds})


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
