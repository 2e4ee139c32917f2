"""GraphQL over HTTP: POST with JSON in, JSON or a stream out; GET shows GraphiQL.

Queries over GET are refused, but for trusted documents: they would be the one kind of request
that a foreign page could send. So are the content types of browser forms.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from math import ceil
from time import time

from graphql import OperationType
from starlette.types import Receive, Scope, Send

from db.failures import DatabaseUnavailable
from db.lsn import NOWHERE, read_lsn
from schema.context import Client
from schema.gate import Allowance
from server.execution import Answer, Planned
from server.failures import failure
from server.gate import OverLimit
from server.identity import Identity, Unauthenticated, bearer_token
from server.multipart import MULTIPART_SUBSCRIPTION
from server.negotiation import EVENTS, GRAPHQL, JSON, Accepted, is_json_utf8, negotiate
from server.operations import Caller, Operations
from server.queries import CACHED, etag_of, is_current, read_parameters
from server.requests import BadRequest, GraphQLRequest, read_json
from server.sse import SERVER_SENT_EVENTS
from server.streams import send_answers
from server.wire import ClientGone, Refusal, StopWhenGone, read_body, send_bytes, send_json

__all__ = ["LSN", "GraphQLEndpoint", "HttpOptions", "client_of", "request_id_of"]

HEADERS = {"vary": "Accept", "cache-control": "no-store"}
NO_STREAM = (
    "A subscription is answered over a WebSocket (graphql-transport-ws), or as a stream to a "
    "request that accepts text/event-stream or multipart/mixed;subscriptionSpec=1.0."
)
LSN = "engram-lsn"
"""The header and the cookie that say where a client's writes stand."""
KEPT_SECONDS = 60
"""How long a browser says so. A replica that lags longer is not asked anyway."""
COOKIE = re.compile(rf"(?:^|;)\s*{LSN}=([^;\s]*)")
Page = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """The bounds of a request and of a stream."""

    max_body_bytes: int = 1024 * 1024
    max_values: int = 100_000  # values in the JSON of a body, all levels together
    body_seconds: float = 10.0
    max_batch: int = 0  # requests in a batch; 0 refuses batches
    heartbeat_seconds: float = 12.0
    check_seconds: float = 3.0  # how often the login of an open stream is looked at again
    send_seconds: float = 20.0  # for the reader of a stream to take one event


class GraphQLEndpoint:
    """The ASGI application behind ``/graphql``."""

    def __init__(
        self,
        operations: Operations,
        identity: Identity,
        options: HttpOptions,
        stopping: asyncio.Event,
        page: Page | None = None,
    ) -> None:
        """``stopping`` ends open streams once it is set."""
        self.operations = operations
        self.identity = identity
        self.options = options
        self.stopping = stopping
        self.page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = headers_of(scope)
        accepted = negotiate(headers.get("accept"))
        try:
            if self.page is not None and scope["method"] == "GET" and accepted.html:
                await self.page(scope, receive, send)
                return
            parameters = self._parameters(scope)
            if parameters is not None:
                await self._get(scope, receive, send, headers, accepted, parameters)
            else:
                await self._post(scope, receive, send, headers, accepted)
        except Refusal as refusal:
            self.operations.runner.count([refusal.failure])
            await send_json(
                send,
                refusal.status,
                {"errors": [refusal.failure]},
                accepted.json or JSON,
                HEADERS | refusal.headers,
            )
        except OverLimit as over:
            await send_json(
                send,
                429,
                {"errors": [over.failure]},
                accepted.json or JSON,
                HEADERS | {"retry-after": str(over.retry_after)} | spent(over.allowance),
            )
        except ClientGone:
            pass  # nobody is left to answer

    async def _post(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: Mapping[str, str],
        accepted: Accepted,
    ) -> None:
        check_request(scope["method"], headers, accepted)
        caller = await self._caller(scope, headers)
        body = await read_body(
            receive,
            headers.get("content-length"),
            max_bytes=self.options.max_body_bytes,
            seconds=self.options.body_seconds,
        )
        try:
            value = read_json(body, max_values=self.options.max_values)
        except BadRequest as error:
            raise Refusal(400, "BAD_REQUEST", str(error)) from None
        may_hold_nul = b"\\u0000" in body
        if isinstance(value, list):
            answers = await self._batch(receive, value, caller, accepted, may_hold_nul)
            parts = b",".join(answer.encode(caller.request_id) for answer in answers)
            assert accepted.json is not None
            body = b"[" + parts + b"]"
            left = spent(caller.allowance)
            for answer in answers:
                left |= located(answer)
            await send_bytes(send, 200, body, accepted.json, HEADERS, left)
            return
        planned = self._plan(value, may_hold_nul=may_hold_nul)
        await self.operations.admit(planned, caller)
        subscribing = isinstance(planned, Planned) and planned.kind is OperationType.SUBSCRIPTION
        if accepted.json is None or subscribing:
            await self._stream(receive, send, planned, caller, accepted)
            return
        if isinstance(planned, Planned):
            answer = await self._execute(receive, planned, caller)
        else:
            answer = planned
        body = answer.encode(caller.request_id)
        status, left = status_of(answer, accepted.json), spent(caller.allowance)
        if answer.lsn is not None:
            left |= located(answer)
        await send_bytes(send, status, body, accepted.json, HEADERS, left)

    def _parameters(self, scope: Scope) -> dict[str, object] | None:
        """What a GET asks of a trusted document, where there are any."""
        if scope["method"] != "GET" or not self.operations.runner.documents.trusted:
            return None
        try:
            return read_parameters(scope["query_string"])
        except BadRequest as error:
            raise Refusal(400, "BAD_REQUEST", str(error)) from None

    async def _get(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: Mapping[str, str],
        accepted: Accepted,
        parameters: dict[str, object],
    ) -> None:
        if accepted.json is None:
            raise Refusal(406, "NOT_ACCEPTABLE", "A query over GET is answered as JSON.")
        caller = await self._caller(scope, headers)
        answer = self._plan(parameters, trusted=True)
        if isinstance(answer, Planned):
            if answer.kind is not OperationType.QUERY:
                message = "Only queries are asked for with GET."
                raise Refusal(405, "METHOD_NOT_ALLOWED", message, {"allow": "POST"})
            await self.operations.admit(answer, caller)
            answer = await self._execute(receive, answer, caller)
        else:
            await self.operations.admit(answer, caller)
        body, left = answer.encode(caller.request_id), spent(caller.allowance)
        if answer.errors:
            status = status_of(answer, accepted.json)
            await send_bytes(send, status, body, accepted.json, HEADERS, left)
            return
        etag = etag_of(accepted.json, body)
        if is_current(etag, headers.get("if-none-match")):
            await send_bytes(send, 304, b"", None, CACHED | {"etag": etag}, left)
            return
        await send_bytes(send, 200, body, accepted.json, CACHED | {"etag": etag}, left)

    async def _caller(self, scope: Scope, headers: Mapping[str, str]) -> Caller:
        try:
            actor = await self.identity.actor(bearer_token(headers.get("authorization")))
        except Unauthenticated as error:
            challenge = {"www-authenticate": 'Bearer error="invalid_token"'}
            raise Refusal(401, "UNAUTHENTICATED", str(error), challenge) from None
        except DatabaseUnavailable:
            message = "The database is not available."
            raise Refusal(503, "INTERNAL_SERVER_ERROR", message, {"retry-after": "2"}) from None
        client = client_of(scope, headers)
        caller = Caller(actor, request_id_of(scope), client, headers.get("traceparent"))
        if self.operations.runner.reading is not None:
            caller.lsn = seen_by(headers)
        return caller

    def _plan(
        self, value: object, *, may_hold_nul: bool = True, trusted: bool = False
    ) -> Planned | Answer:
        try:
            request = GraphQLRequest.read(value)
        except BadRequest as error:
            raise Refusal(400, "BAD_REQUEST", str(error)) from None
        return self.operations.runner.plan(request, may_hold_nul=may_hold_nul, trusted=trusted)

    async def _execute(self, receive: Receive, planned: Planned, caller: Caller) -> Answer:
        run = self.operations.run(planned, caller)
        if planned.kind is OperationType.MUTATION:
            return await run.execute()  # a client that goes away does not stop a mutation
        async with StopWhenGone(receive, run):
            return await run.execute()

    async def _stream(
        self,
        receive: Receive,
        send: Send,
        planned: Planned | Answer,
        caller: Caller,
        accepted: Accepted,
    ) -> None:
        if not accepted.stream:
            raise Refusal(406, "NOT_ACCEPTABLE", NO_STREAM)
        if isinstance(planned, Answer):
            answers = planned.alone()
        elif planned.kind is OperationType.SUBSCRIPTION:
            answers = self.operations.subscribe(planned, caller)
        else:
            answers = self.operations.run(planned, caller).answers()
        await send_answers(
            receive,
            send,
            answers,
            MULTIPART_SUBSCRIPTION if accepted.multipart else SERVER_SENT_EVENTS,
            request_id=caller.request_id,
            headers={"vary": HEADERS["vary"], **spent(caller.allowance)},
            heartbeat_seconds=self.options.heartbeat_seconds,
            check_seconds=self.options.check_seconds,
            send_seconds=self.options.send_seconds,
            stopping=self.stopping,
            still_allowed=lambda: self.identity.still_valid(caller.actor),
        )

    async def _batch(
        self,
        receive: Receive,
        entries: list[object],
        caller: Caller,
        accepted: Accepted,
        may_hold_nul: bool,
    ) -> list[Answer]:
        """Answer the entries one after the other; a bad one answers for itself alone."""
        most = self.options.max_batch
        if most == 0:
            raise Refusal(400, "BAD_REQUEST", "Batches are not enabled: send one request.")
        if not 1 <= len(entries) <= most:
            raise Refusal(400, "BAD_REQUEST", f"A batch holds 1 to {most} requests.")
        if accepted.json is None:
            raise Refusal(406, "NOT_ACCEPTABLE", "A batch is answered as JSON.")
        answers: list[Answer] = []
        for entry in entries:
            try:
                planned = self._plan(entry, may_hold_nul=may_hold_nul)
            except Refusal as refusal:
                planned = Answer.refusal(refusal.failure)
            try:
                await self.operations.admit(planned, caller)
            except OverLimit as over:
                planned = Answer.refusal(over.failure)
            if isinstance(planned, Planned):
                if planned.kind is OperationType.SUBSCRIPTION:
                    planned = Answer.refusal(failure(NO_STREAM, "BAD_REQUEST"))
                else:
                    planned = await self._execute(receive, planned, caller)
            answers.append(planned)
        return answers


def check_request(method: str, headers: Mapping[str, str], accepted: Accepted) -> None:
    """What can be refused before the body is read. Raises Refusal."""
    if method != "POST":
        message = "GraphQL is asked for with POST."
        raise Refusal(405, "METHOD_NOT_ALLOWED", message, {"allow": "POST"})
    if accepted.json is None and not accepted.stream:
        types = f"{GRAPHQL}, {JSON} or, for a stream, {EVENTS}"
        raise Refusal(406, "NOT_ACCEPTABLE", f"The answer can be {types}.")
    if not is_json_utf8(headers.get("content-type")):
        message = "The body must be application/json in UTF-8."
        raise Refusal(415, "UNSUPPORTED_MEDIA_TYPE", message)
    if headers.get("content-encoding", "identity").lower() != "identity":
        message = "The body must not be compressed."
        raise Refusal(415, "UNSUPPORTED_MEDIA_TYPE", message)


def status_of(answer: Answer, media: str) -> int:
    """What did not run is a bad request, but for clients that take every other status for none."""
    return 400 if not answer.executed and media == GRAPHQL else 200


def spent(allowance: Allowance | None) -> dict[str, str]:
    """What is left to a caller, in headers; the reset in seconds from now, as clocks differ."""
    if allowance is None:
        return {}
    return {
        "ratelimit-limit": str(allowance.limit),
        "ratelimit-remaining": str(allowance.remaining),
        "ratelimit-reset": str(max(0, ceil(allowance.resets_at - time()))),
    }


def located(answer: Answer) -> dict[str, str]:
    """Where the writes of an answer stand: for clients that keep it, and for browsers, which do."""
    if answer.lsn is None:
        return {}
    cookie = f"{LSN}={answer.lsn}; Path=/graphql; Max-Age={KEPT_SECONDS}; HttpOnly; SameSite=Lax"
    return {LSN: answer.lsn, "set-cookie": cookie}


def seen_by(headers: Mapping[str, str]) -> int:
    """What a client has seen stands before it, by its header or its cookie; the latter of both."""
    given = [headers[LSN]] if LSN in headers else []
    given += COOKIE.findall(headers.get("cookie", ""))
    return max(map(read_lsn, given), default=NOWHERE)


def request_id_of(scope: Scope) -> str:
    """The id that the request carries through logs and errors; see ``server.tracing``."""
    request_id: str = scope["state"]["request_id"]
    return request_id


def headers_of(scope: Scope) -> dict[str, str]:
    """The headers by name, in small letters; of those that come twice the first."""
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in reversed(scope["headers"])
    }


def client_of(scope: Scope, headers: Mapping[str, str]) -> Client:
    """Where a request comes from; behind a proxy as the proxy says, if the server trusts it."""
    address = scope.get("client")
    agent = headers.get("user-agent")
    return Client(
        ip=address[0] if address else None,
        user_agent=agent[:500].replace("\0", "") if agent else None,
    )
