"""The files of exports: `GET /exports/<id>`, whole or from any byte on (RFC 9110, 14).

A file never changes once it is complete, so a download that broke goes on with `Range`, from any
process. It is read and sent part by part; while a slow client takes one, no connection is held.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from db.failures import DatabaseUnavailable
from db.models.accounts import ExportStatus
from db.repositories import exports
from db.session import Session, SessionOptions
from schema import ids
from schema.context import Actor
from server.identity import Identity, Unauthenticated, bearer_token
from server.negotiation import JSON
from server.wire import Refusal, encoded, send_json

__all__ = ["ExportDownload"]

HEADERS = {"cache-control": "private, no-store", "accept-ranges": "bytes"}
RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")
UNAVAILABLE = "The database is not available."


@dataclass(frozen=True, slots=True)
class Stretch:
    """The bytes from `first` up to, and without, `end`."""

    first: int
    end: int


class ExportDownload:
    """The ASGI application behind ``/exports/{id}``."""

    def __init__(self, engine: AsyncEngine, options: SessionOptions, identity: Identity) -> None:
        self._engine = engine
        self._options = options
        self._identity = identity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._answer(scope, send)
        except Refusal as refusal:
            body = {"errors": [refusal.failure]}
            await send_json(send, refusal.status, body, JSON, HEADERS | refusal.headers)

    async def _answer(self, scope: Scope, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            message = "An export is asked for with GET."
            raise Refusal(405, "METHOD_NOT_ALLOWED", message, {"allow": "GET, HEAD"})
        headers = Headers(scope=scope)
        try:
            actor = await self._actor(headers)
            export = await self._export(actor, scope["path_params"]["id"])
        except DatabaseUnavailable:
            raise Refusal(503, "INTERNAL_SERVER_ERROR", UNAVAILABLE, {"retry-after": "2"}) from None
        name = f"engram-{export.taken_at:%Y-%m-%d}.jsonl.gz"
        etag = f'"{export.id.hex}-{export.attempts}"'
        named = {
            **HEADERS,
            "etag": etag,
            "content-type": "application/gzip",
            "content-disposition": f'attachment; filename="{name}"',
        }
        asked = wanted(headers, etag, export.bytes)
        stretch = asked or Stretch(0, export.bytes)
        named["content-length"] = str(stretch.end - stretch.first)
        if asked is not None:
            named["content-range"] = f"bytes {asked.first}-{asked.end - 1}/{export.bytes}"
        status = 200 if asked is None else 206
        await send({"type": "http.response.start", "status": status, "headers": encoded(named)})
        if scope["method"] == "GET":
            await self._send(send, actor.owner_id, export.id, stretch)
        await send({"type": "http.response.body", "body": b""})

    async def _actor(self, headers: Headers) -> Actor:
        try:
            actor = await self._identity.actor(bearer_token(headers.get("authorization")))
            if actor is None:
                raise Unauthenticated
        except Unauthenticated as error:
            challenge = {"www-authenticate": "Bearer"}
            raise Refusal(401, "UNAUTHENTICATED", str(error), challenge) from None
        if not (actor.may("account") and actor.may("read")):
            message = "An export needs a key with the scopes account and read."
            raise Refusal(403, "FORBIDDEN", message)
        return actor

    async def _export(self, actor: Actor, text: str) -> Any:
        """The row of a complete export of the caller. Raises Refusal."""
        try:
            identifier = ids.decode_as("account_export", text)
        except ids.BadId as error:
            raise Refusal(400, "BAD_ID", str(error)) from None
        async with Session(self._engine, actor.owner_id, self._options) as session:
            export = await exports.ready(session, identifier)
        if export is None or export.status == ExportStatus.FAILED:
            raise Refusal(404, "NOT_FOUND", "There is no such export, or it has expired.")
        if export.status != ExportStatus.COMPLETE:
            message = "The export is not complete yet."
            raise Refusal(409, "NOT_READY", message, {"retry-after": "2"})
        return export

    async def _send(self, send: Send, owner_id: UUID, export_id: UUID, stretch: Stretch) -> None:
        """Send part after part. Raises when one is missing: the connection breaks, and the client
        sees that it has not got all of it."""
        async with Session(self._engine, owner_id, self._options) as session:
            found = await exports.position_at(session, export_id, stretch.first)
        if found is None:
            raise LookupError(f"A part of the export {export_id} is missing.")
        position, at = found
        while at < stretch.end:
            async with Session(self._engine, owner_id, self._options) as session:
                content = await exports.content_of(session, export_id, position)
            if content is None:
                raise LookupError(f"A part of the export {export_id} is missing.")
            body = content[max(stretch.first - at, 0) : stretch.end - at]
            await send({"type": "http.response.body", "body": body, "more_body": True})
            at += len(content)
            position += 1


def wanted(headers: Headers, etag: str, size: int) -> Stretch | None:
    """The range that is asked for; None for the whole file, also when the range is of another.

    Raises Refusal (416). Several ranges, or another unit, are answered by the whole file.
    """
    match = RANGE.fullmatch(headers.get("range", "").replace(" ", ""))
    if match is None or match[0] == "bytes=-" or headers.get("if-range", etag) != etag:
        return None
    if match[1]:
        first = int(match[1])
        end = min(int(match[2]) + 1, size) if match[2] else size
    else:
        first, end = max(size - int(match[2]), 0), size
    if match[1] and match[2] and int(match[2]) < first:
        return None  # no range at all, which is to be ignored
    if first >= size:
        message = f"The export has {size} bytes."
        raise Refusal(416, "RANGE_NOT_SATISFIABLE", message, {"content-range": f"bytes */{size}"})
    return Stretch(first, end)
