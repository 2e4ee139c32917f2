"""The application: what it is made of, and what is opened and closed with it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import structlog
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from strawberry import Schema

from db.engine import create_engine
from db.meter import Meter
from db.notifications import Listener
from db.replica import Replica
from db.security import verify_row_security
from db.session import Recorder
from schema import build_schema
from schema.context import Context, Services
from schema.plan import Planner
from server.background import Background
from server.documents import Documents
from server.downloads import ExportDownload
from server.embedding import Embeddings
from server.execution import OperationContext, Runner
from server.exporter import Exporter
from server.gate import EntryGate, open_store
from server.graphiql import EXAMPLES, GraphiQL
from server.graphql import LSN, GraphQLEndpoint, HttpOptions
from server.health import Readiness, alive
from server.identity import Identity
from server.lapses import Lapses
from server.manifest import trust_manifest
from server.observability import (
    LoopLag,
    Measures,
    MetricsPage,
    Process,
    database,
    process,
    replica_families,
)
from server.operations import Caller, MakeContext, Operations
from server.passwords import Argon2Passwords
from server.reading import Reading
from server.replies import Replies
from server.settings import Settings
from server.slow import SlowOperations
from server.startup import StartupError, application_engine, replica_engine
from server.sweeper import Sweeper
from server.tracing import HEADER, Tracing
from server.websocket import SocketEndpoint, SocketOptions

if TYPE_CHECKING:  # of an optional extra
    from server.spans import Traces

__all__ = ["create_app"]

log = structlog.get_logger("engram.server")

CONDITIONS = ("if-none-match", "if-range", "range")
LIMITED = ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset", "retry-after")
EXPORT_POLL_SECONDS = 2
LAPSES_SECONDS = 10
"""How often tasks are looked for that were given up without a word."""
FIRST_SWEEP_SECONDS = 60
"""At most: at random, so that processes that start together do not all wait for one of them."""
GRAPHQL = "/graphql"


def create_app(
    settings: Settings,
    *,
    schema: Schema | None = None,
    engine: AsyncEngine | None = None,
    make_context: MakeContext | None = None,
    http_options: HttpOptions | None = None,
    socket_options: SocketOptions | None = None,
    token: str | None = None,
    traces: Traces | None = None,
) -> Starlette:
    """The ASGI application of settings that name a database. Opens nothing by itself.

    What is handed in stands for what the settings would make. ``token`` is for GraphiQL in
    development. ``app.state.stopping`` is an event that ends open streams when set.

    Raises StartupError when the manifest of trusted documents cannot be served, or the packages for
    traces are missing.
    """
    schema = schema or build_schema()
    engine = engine or application_engine(settings, meter=Meter() if settings.metrics else None)
    working = application_engine(
        settings, pooled=False, meter=Meter() if settings.metrics else None
    )
    options = settings.session_options
    listening = listening_engine(settings)
    listener = Listener(listening, reading=engine, poll_seconds=settings.database_poll_seconds)
    passwords = Argon2Passwords(concurrency=settings.password_concurrency)
    replies = Replies(engine, options, settings.replies, listener)
    embeddings = Embeddings(engine, options, settings.embedding_options)
    store = open_store(settings.rate_limit_storage_url)
    gate = EntryGate(settings.gate, store, time.time)
    services = Services(
        engine=engine,
        passwords=passwords,
        changes=listener,
        replies=replies,
        embeddings=embeddings,
        gate=gate,
        options=options,
        login_days=settings.session_lifetime_days,
        idempotency_lifetime=timedelta(hours=settings.idempotency_retention_hours),
    )
    documents = Documents(
        schema._schema,
        settings.limits,
        suggestions=settings.development,
        introspection=settings.allows_introspection,
        planner=Planner(schema) if settings.planned_selections else None,
        only_trusted=settings.trusted_documents_only,
    )
    if settings.trusted_documents is not None:
        trust_manifest(documents, settings.trusted_documents)
    measures = Measures(settings.metrics_operations, documents.known) if settings.metrics else None
    replica = replica_of(settings)
    reading = None if replica is None else Reading(replica)
    if replica is not None:
        listener.on_change = replica.changed
    runner = Runner(
        schema,
        documents,
        development=settings.development,
        measures=measures,
        reading=reading,
    )
    identity = Identity(engine, options)
    threshold = settings.slow_operation_ms
    slow = SlowOperations(working, options, threshold) if threshold else None
    traces = traces or traces_of(settings)
    operations = Operations(
        runner,
        make_context or contexts_of(services),
        identity.forget,
        gate,
        slow=slow,
        traces=traces,
    )
    stopping = asyncio.Event()
    explorable = settings.allows_introspection and not settings.trusted_documents_only
    page = GraphiQL(token=token, hosts=[settings.host], examples=EXAMPLES) if explorable else None
    endpoint = GraphQLEndpoint(
        operations,
        identity,
        http_options
        or HttpOptions(
            max_body_bytes=settings.body_limit_bytes,
            max_values=settings.max_values,
            body_seconds=settings.body_timeout_seconds,
            max_batch=settings.max_batch,
        ),
        stopping,
        page,
    )
    socket = SocketEndpoint(
        operations,
        identity,
        socket_options
        or SocketOptions(
            max_message_bytes=settings.body_limit_bytes,
            max_values=settings.max_values,
            origins=frozenset(settings.allowed_origins),
        ),
    )

    lag = LoopLag()
    sweeper = Sweeper(working, options, settings.retention)
    background = (
        background_work(settings, engine, working, sweeper) if settings.background_work else []
    )
    watched = Process(
        background=background,
        removed=sweeper.removed,
        documents=documents.__len__,
        generations=lambda: replies.running,
        replies=replies.ended,
        embedded=embeddings.asked,
        listening=lambda: listener.connected,
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            await verify_row_security(engine, options)
            await listener.start()
            if replica is not None:
                await replica.start()
            if measures is not None:
                lag.start()
            for work in background:
                work.start()
            replies.open()
            embeddings.open()
            yield
        finally:
            lag.stop()
            await asyncio.gather(*(work.stop() for work in background))
            grace = settings.shutdown_grace_seconds
            await asyncio.gather(operations.drain(grace), replies.close(grace))
            await embeddings.close()
            if slow is not None:
                await slow.close()
            if traces is not None:
                await asyncio.to_thread(traces.close)
            await identity.close()
            await gate.close()
            await listener.stop()
            if replica is not None:
                await replica.stop()
            passwords.close()
            if listening is not None:
                await listening.dispose()
            await working.dispose()
            await engine.dispose()

    engines = {"requests": engine, "work": working}
    if replica is not None:
        engines["replica"] = replica.engine
    routes: list[BaseRoute] = [
        Route("/healthz", alive, methods=["GET"]),
        Route("/readyz", Readiness(engine, working, options, replica).answer, methods=["GET"]),
        *(page.routes if page is not None else ()),
        *metrics_routes(settings, measures, lag, watched, engines, reading),
        Route("/exports/{id}", ExportDownload(engine, options, identity)),
        Route(GRAPHQL, endpoint),
        WebSocketRoute(GRAPHQL, socket),
    ]
    app = Application(
        Tracing(endpoint) if not settings.allowed_origins else None,
        routes=routes,
        middleware=[Middleware(Tracing), *cross_origin(settings)],
        lifespan=lifespan,
    )
    app.state.stopping = stopping
    app.state.reading = reading
    return app


class Application(Starlette):
    """Starlette, which hands the requests of GraphQL over without asking every layer."""

    def __init__(self, direct: ASGIApp | None, **options: Any) -> None:
        """``direct`` is what is behind the path of GraphQL, where no middleware has a say."""
        super().__init__(**options)
        # A path with a slash too many is another path. A redirect would name whatever host the
        # request named.
        self.router.redirect_slashes = False
        self._direct = direct

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            self._direct is not None
            and scope["type"] == "http"
            and scope["path"] == GRAPHQL
            and not scope.get("root_path")
        ):
            scope["app"] = self
            await self._direct(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def replica_of(settings: Settings) -> Replica | None:
    """The replica of settings that name one. Raises DatabaseUrlError."""
    if settings.database_replica_url is None:
        return None
    return Replica(
        replica_engine(settings, meter=Meter() if settings.metrics else None),
        replica_engine(settings, pooled=False),
        application_engine(settings, pooled=False),
        settings.session_options,
        lag_seconds=settings.database_replica_lag_seconds,
    )


def metrics_routes(
    settings: Settings,
    measures: Measures | None,
    lag: LoopLag,
    watched: Process,
    engines: Mapping[str, AsyncEngine],
    reading: Reading | None,
) -> list[BaseRoute]:
    """The page of metrics, if anybody may read it."""
    if measures is None:
        return []
    token = settings.metrics_token
    page = MetricsPage(
        (
            measures.families,
            database(engines),
            replica_families(reading),
            lag.families,
            process(watched),
        ),
        None if token is None else token.get_secret_value(),
    )
    return [Route("/metrics", page.answer, methods=["GET"])]


def traces_of(settings: Settings) -> Traces | None:
    """What makes traces, if there is anywhere to send them. Raises StartupError."""
    if settings.otel_exporter_otlp_endpoint is None:
        return None
    try:
        from server.spans import Traces, exporter_to

        exporter = exporter_to(settings.otel_exporter_otlp_endpoint)
    except ImportError:
        raise StartupError(
            "OTEL_EXPORTER_OTLP_ENDPOINT asks for traces, and OpenTelemetry is not installed: "
            "install what requirements-tracing.lock pins, or unset it."
        ) from None
    return Traces(exporter, settings.tracing_ratio)


def contexts_of(services: Services) -> MakeContext:
    """Contexts of the real schema."""

    def make(caller: Caller, recorder: Recorder | None) -> OperationContext:
        return Context(
            services,
            caller.actor,
            request_id=caller.request_id,
            client=caller.client,
            allowance=caller.allowance,
            recorder=recorder,
        )

    return make


def background_work(
    settings: Settings, engine: AsyncEngine, working: AsyncEngine, sweeper: Sweeper
) -> list[Background]:
    """What a process does beside serving; what takes long, on connections that nobody waits for."""
    options = settings.session_options
    keep = timedelta(days=settings.export_retention_days)
    exporter = Exporter(working, options, keep=keep, asking=engine)
    lapses = Lapses(engine, options)
    every = settings.sweep_interval_seconds
    first = random.uniform(0, min(every, FIRST_SWEEP_SECONDS))  # noqa: S311  # no secret
    return [
        Background("exports", exporter.run, every_seconds=EXPORT_POLL_SECONDS),
        Background("lapses", lapses.run, every_seconds=LAPSES_SECONDS),
        Background("sweep", sweeper.run, every_seconds=every, first_seconds=first),
    ]


def listening_engine(settings: Settings) -> AsyncEngine | None:
    """An engine for the one connection that listens, past any pooler; None where none leads."""
    url: SecretStr | None = settings.database_listen_url or settings.database_migration_url
    if url is None and settings.database_pooler == "session":
        url = settings.database_url
    if url is None:
        return None
    return create_engine(
        url.get_secret_value(), pooled=False, authority=settings.database_ca, pooler="session"
    )


def cross_origin(settings: Settings) -> list[Middleware]:
    """Answers for the browsers of other origins, where there are any."""
    if not settings.allowed_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["authorization", "content-type", *CONDITIONS, HEADER, LSN],
            expose_headers=[HEADER, LSN, *LIMITED, "etag", "accept-ranges", "content-range"],
            max_age=600,
        )
    ]
