"""An id for every request, on its response, in its errors and in the log."""

from __future__ import annotations

import re
from random import getrandbits

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.failures import MASKED, failure
from server.negotiation import JSON
from server.wire import send_json

__all__ = ["HEADER", "Tracing"]

log = structlog.get_logger("engram.server")

SANE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{7,63}")
HEADER = "x-request-id"
NAME = HEADER.encode()


class Tracing:
    """The outermost layer: gives requests their id, and answers for what nobody caught.

    A client or a proxy may bring its own id in ``X-Request-Id``; one that could not safely
    stand in a log line is replaced.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        added = [(NAME, request_id.encode()), (b"x-content-type-options", b"nosniff")]
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] in ("http.response.start", "websocket.accept"):
                started = True
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception as error:
            log.error("unexpected_error", request_id=request_id, path=scope["path"], exc_info=error)
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1011, "reason": MASKED})
            elif not started:
                entry = failure(MASKED, "INTERNAL_SERVER_ERROR", requestId=request_id)
                await send_json(send_with_id, 500, {"errors": [entry]}, JSON)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == NAME:
            brought: str = value.decode("latin-1")
            if SANE.fullmatch(brought):
                return brought
            break
    return f"{getrandbits(128):032x}"  # a name, not a secret
