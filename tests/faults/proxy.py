"""The network between a server and its database, which can be slow, silent, cut and reset."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from pathlib import Path

CHUNK = 65_536
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing throws away what is unsent, and tells the peer so."""


class Proxy:
    """A TCP port of this machine that leads to the socket of a database."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.delay_seconds = 0.0
        """How long each piece of data takes, both ways."""
        self.port = 0

    async def open(self) -> None:
        """Let connections in, at the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """End all connections, and refuse new ones until `open`."""
        assert self._server is not None
        self._server.close()
        self._end()

    def reset(self) -> None:
        """Reset all connections as a router does that has forgotten them."""
        for writer in self._open:
            connection = writer.get_extra_info("socket")
            if connection is not None and connection.family == socket.AF_INET:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._end()

    def silence(self) -> None:
        """Let nothing through any more, without a word; new connections get no answer either."""
        self._flowing.clear()

    def resume(self) -> None:
        """Let through what has come meanwhile, and all that follows."""
        self._flowing.set()

    async def close(self) -> None:
        """End everything."""
        await self.cut()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def _end(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Kept, so that it can be reset: asyncio would close it when this ends.
        self._open.add(writer)
        try:
            there, back = await asyncio.open_unix_connection(str(self._target))
        except OSError:
            writer.transport.abort()
            self._open.discard(writer)
            return
        self._open.add(back)
        for source, sink in ((reader, back), (there, writer)):
            pump = asyncio.create_task(self._pump(source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(CHUNK):
                await self._flowing.wait()
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                sink.write(data)
                await sink.drain()
        sink.close()
        self._open.discard(sink)
