"""OpenTelemetry traces: a span for each operation, one for each of its statements, none per field.

The packages are the extra `tracing`. Nothing here is imported unless traces are asked for.
"""

from __future__ import annotations

from time import time_ns

from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server.execution import Planned

__all__ = ["Trace", "Traces", "exporter_to"]

SERVICE = "engram"
PROPAGATOR = TraceContextTextMapPropagator()


class Traces:
    """Makes the traces of a process, and exports them from a thread. `close` it at the end."""

    def __init__(self, exporter: SpanExporter, ratio: float = 1.0) -> None:
        """``ratio`` is the share that is traced, unless the caller has decided."""
        # As OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say.
        resource = Resource.create()
        if str(resource.attributes.get(SERVICE_NAME)).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: SERVICE}))
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)), resource=resource
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(SERVICE)

    def begin(self, planned: Planned, request_id: str, traceparent: str | None) -> Trace:
        """The trace of an operation that begins now; part of its caller's, if it names one."""
        kind, name = planned.kind.value, planned.operation.name
        attributes = {"graphql.operation.type": kind, "engram.request_id": request_id}
        if name is not None:
            attributes["graphql.operation.name"] = name
        parent = PROPAGATOR.extract({"traceparent": traceparent}) if traceparent else None
        span = self._tracer.start_span(
            kind if name is None else f"{kind} {name}",
            parent,
            SpanKind.SERVER,
            attributes,
        )
        return Trace(self._tracer, span)

    def close(self) -> None:
        """Export what is left. Blocks for seconds at most."""
        self._provider.shutdown()


class Trace:
    """One operation. `end` it."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span
        self._context = set_span_in_context(span)

    def statement(self, sql: str, *, rows: int | None, milliseconds: float) -> None:
        """A statement that has just ended; without rows, if it failed. SQL holds no values."""
        if not self._span.is_recording():
            return
        ended = time_ns()
        span = self._tracer.start_span(
            sql[: sql.find(" ")] if " " in sql else sql,
            self._context,
            SpanKind.CLIENT,
            {"db.system.name": "postgresql", "db.query.text": sql},
            start_time=ended - int(milliseconds * 1_000_000),
        )
        if rows is None:
            span.set_status(Status(StatusCode.ERROR))
        else:
            span.set_attribute("db.response.returned_rows", rows)
        span.end(ended)

    def end(self, error: str | None) -> None:
        """The operation has ended; with the code of an error, or what else became of it."""
        if error is not None:
            self._span.set_attribute("error.type", error)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


def exporter_to(endpoint: str) -> SpanExporter:
    """What sends spans to a collector, by OTLP over HTTP.

    Headers, time-outs and certificates are read from OpenTelemetry's own variables.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
