"""graphql-transport-ws: queries, mutations and subscriptions over one WebSocket.

https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md. Each operation is a task with a
context of its own. Nothing is queued for a slow reader: an operation waits with its answer until
the socket takes it, and a socket that takes nothing for a while is closed.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import orjson
import structlog
from graphql import OperationType
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from db.failures import DatabaseUnavailable
from schema.context import Actor
from server.execution import Answer, Planned
from server.failures import failure
from server.gate import OverLimit
from server.graphql import client_of, request_id_of
from server.identity import Identity, Unauthenticated, bearer_token
from server.operations import Caller, Operations
from server.requests import BadRequest, GraphQLRequest, is_deeper, is_object, read_json

__all__ = ["SocketEndpoint", "SocketOptions"]

log = structlog.get_logger("engram.server")

PROTOCOL = "graphql-transport-ws"
MAX_REASON_BYTES = 123  # what fits a close frame
MAX_DEPTH = 32  # levels of a payload that is not a request
MAX_ID = 128  # characters of an operation's id


@dataclass(frozen=True, slots=True)
class SocketOptions:
    """The bounds of one socket."""

    init_seconds: float = 10.0  # for connection_init to arrive
    send_seconds: float = 20.0  # for a reader to take one message
    check_seconds: float = 3.0  # how often the login is looked at again
    max_operations: int = 100  # at the same time
    max_message_bytes: int = 1024 * 1024
    max_values: int = 100_000  # values in the JSON of a message, all levels together
    origins: frozenset[str] = frozenset()  # besides the server's own


class Closing(Exception):
    """The reason to close the socket."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Gone(Exception):
    """The socket is closed, or as good as closed."""


class SocketEndpoint:
    """The ASGI application behind ``/graphql`` for WebSockets."""

    def __init__(self, operations: Operations, identity: Identity, options: SocketOptions) -> None:
        self.operations = operations
        self.identity = identity
        self.options = options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        socket = WebSocket(scope, receive, send)
        if not self._is_allowed_origin(Headers(scope=scope)):
            await socket.close(1008)  # before accepting: the handshake answers 403
            return
        if PROTOCOL not in scope.get("subprotocols", ()):
            await socket.accept()
            await socket.close(4406, f"The subprotocol must be {PROTOCOL}")
            return
        await socket.accept(subprotocol=PROTOCOL)
        measures = self.operations.runner.measures
        if measures is not None:
            measures.sockets += 1
        try:
            await Connection(self, socket, scope).serve()
        finally:
            if measures is not None:
                measures.sockets -= 1

    def _is_allowed_origin(self, headers: Headers) -> bool:
        """Browsers name the page that connects; other clients send no origin."""
        origin = headers.get("origin")
        if origin is None or origin in self.options.origins:
            return True
        return urlsplit(origin).netloc.lower() == headers.get("host", "").lower()


class Connection:
    """One socket, from accepting it to closing it."""

    def __init__(self, endpoint: SocketEndpoint, socket: WebSocket, scope: Scope) -> None:
        self.operations = endpoint.operations
        self.identity = endpoint.identity
        self.options = endpoint.options
        self.socket = socket
        self.request_id = request_id_of(scope)
        self.client = client_of(scope, socket.headers)
        self.traceparent = socket.headers.get("traceparent")
        self.actor: Actor | None = None
        self.acknowledged = False
        self.introduced = asyncio.Event()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.running: dict[str, asyncio.Task[None]] = {}
        self.writing = asyncio.Lock()
        self.count = 0

    async def serve(self) -> None:
        """Read until the client leaves, breaks the protocol, or loses its login."""
        reader = asyncio.create_task(self._read())
        watcher = asyncio.create_task(self._watch())
        endings: tuple[asyncio.Future[None], ...] = (reader, watcher, self.ended)
        try:
            await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED)
            for ending in endings:
                if ending.done():
                    await ending
        except Closing as closing:
            await self._close(closing)
        except (WebSocketDisconnect, Gone):
            pass
        finally:
            unfinished = [*endings, *self.running.values()]
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)

    async def _watch(self) -> None:
        """Close a socket that does not introduce itself, or whose login has ended."""
        try:
            async with asyncio.timeout(self.options.init_seconds):
                await self.introduced.wait()
        except TimeoutError:
            raise Closing(4408, "Connection initialisation timeout") from None
        while True:
            await asyncio.sleep(self.options.check_seconds)
            if self.acknowledged and not await self.identity.still_valid(self.actor):
                raise logged_out()

    async def _read(self) -> None:
        while True:
            message = await self.socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            text = message.get("text")
            if text is None:
                raise Closing(4400, "Invalid message: frames must be text")
            if len(text) > self.options.max_message_bytes:
                raise Closing(4400, "Invalid message: too large")
            try:
                value = read_json(text, max_values=self.options.max_values)
            except BadRequest as error:
                raise Closing(4400, f"Invalid message: {error}") from None
            if not is_object(value):
                raise Closing(4400, "Invalid message: not an object")
            await self._handle(value, may_hold_nul="\\u0000" in text)

    async def _handle(self, message: dict[str, object], *, may_hold_nul: bool) -> None:
        kind = message.get("type")
        match kind:
            case "connection_init":
                await self._initialise(payload_of(message))
            case "ping":
                payload = payload_of(message)
                await self._send({"type": "pong"} | ({"payload": payload} if payload else {}))
            case "pong":
                payload_of(message)
            case "subscribe":
                self._subscribe(message, may_hold_nul=may_hold_nul)
            case "complete":
                task = self.running.pop(id_of(message), None)
                if task is not None:
                    task.cancel()
            case _:
                raise Closing(4400, "Invalid message: unknown type")

    async def _initialise(self, payload: dict[str, object] | None) -> None:
        if self.introduced.is_set():
            raise Closing(4429, "Too many initialisation requests")
        self.introduced.set()
        token = (payload or {}).get("authorization", (payload or {}).get("Authorization"))
        if token is not None and not isinstance(token, str):
            raise Closing(4400, "Invalid message: authorization must be a string")
        try:
            self.actor = await self.identity.actor(bearer_token(token))
        except Unauthenticated as error:
            raise Closing(4401, f"Unauthorized: {error}") from None
        except DatabaseUnavailable:
            raise Closing(1013, "The database is not available") from None
        await self._send({"type": "connection_ack"})
        self.acknowledged = True

    def _subscribe(self, message: dict[str, object], *, may_hold_nul: bool) -> None:
        if not self.acknowledged:
            raise Closing(4401, "Unauthorized: connection_init comes first")
        identifier = id_of(message)
        try:
            request = GraphQLRequest.read(message.get("payload"))
        except BadRequest as error:
            raise Closing(4400, f"Invalid message: {error}") from None
        if identifier in self.running:
            raise Closing(4409, f"Subscriber for {identifier} already exists")
        self.count += 1
        traceparent = request.extensions.get("traceparent")
        caller = Caller(
            self.actor,
            f"{self.request_id}.{self.count}",
            self.client,
            traceparent if isinstance(traceparent, str) else self.traceparent,
        )
        if len(self.running) < self.options.max_operations:
            planned = self.operations.runner.plan(request, may_hold_nul=may_hold_nul)
        else:
            planned = Answer.refusal(failure(self._too_many(), "RATE_LIMITED"))
        work = self._operate(identifier, planned, caller)
        task = asyncio.create_task(work)
        self.running[identifier] = task
        task.add_done_callback(lambda done: self._done(identifier, done))

    def _done(self, identifier: str, task: asyncio.Task[None]) -> None:
        if self.running.get(identifier) is task:
            del self.running[identifier]
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Gone):
            log.error("unexpected_error", request_id=self.request_id, exc_info=error)

    def _too_many(self) -> str:
        return f"A socket carries at most {self.options.max_operations} operations at once."

    async def _operate(self, identifier: str, planned: Planned | Answer, caller: Caller) -> None:
        """Run one operation and send what comes of it."""
        if not await self.identity.still_valid(self.actor):
            self._end(logged_out())
            raise Gone
        try:
            await self.operations.admit(planned, caller)
        except OverLimit as over:
            planned = Answer.refusal(over.failure)
        if isinstance(planned, Answer):
            answers = planned.alone()
        elif planned.kind is OperationType.SUBSCRIPTION:
            answers = self.operations.subscribe(planned, caller)
        else:
            answers = self.operations.run(planned, caller).answers()
        async with aclosing(answers):
            async for answer in answers:
                if not answer.executed:
                    await self._send({"type": "error", "id": identifier, "payload": answer.errors})
                    return
                body = orjson.Fragment(answer.encode(caller.request_id))
                await self._send({"type": "next", "id": identifier, "payload": body})
        # From here on the client may use the id again.
        self.running.pop(identifier, None)
        await self._send({"type": "complete", "id": identifier})

    async def _send(self, message: dict[str, object]) -> None:
        """Write one message. Raises Gone when nobody takes it."""
        text = orjson.dumps(message).decode()
        try:
            async with asyncio.timeout(self.options.send_seconds), self.writing:
                await self.socket.send_text(text)
        except TimeoutError:
            if not self.ended.done():
                log.warning("slow_reader", request_id=self.request_id)
                self._end(Closing(1013, "Too slow: messages were not read in time"))
            raise Gone from None
        except (WebSocketDisconnect, RuntimeError):
            raise Gone from None

    def _end(self, closing: Closing) -> None:
        """Have the socket closed, from within an operation."""
        if not self.ended.done():
            self.ended.set_exception(closing)

    async def _close(self, closing: Closing) -> None:
        if self.socket.application_state is not WebSocketState.CONNECTED:
            return
        reason = closing.reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
        with suppress(RuntimeError, WebSocketDisconnect, TimeoutError):
            async with asyncio.timeout(self.options.send_seconds):
                await self.socket.close(closing.code, reason)


def payload_of(message: dict[str, object]) -> dict[str, object] | None:
    payload = message.get("payload")
    if payload is not None and not is_object(payload):
        raise Closing(4400, "Invalid message: payload must be an object")
    if is_deeper(payload, MAX_DEPTH):
        raise Closing(4400, "Invalid message: payload is nested too deeply")
    return payload


def logged_out() -> Closing:
    return Closing(4401, "Unauthorized: the login has ended")


def id_of(message: dict[str, object]) -> str:
    identifier = message.get("id")
    if not isinstance(identifier, str) or not identifier:
        raise Closing(4400, "Invalid message: id must be a string")
    if len(identifier) > MAX_ID:
        raise Closing(4400, "Invalid message: id is too long")
    return identifier
