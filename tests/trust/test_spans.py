"""Traces: a span for the operation, one for each statement, inside of the caller's own trace."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import pytest_asyncio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from server.app import create_app
from server.spans import Traces
from tests.edge.conftest import MakeSettings, Served, serving
from tests.edge.sockets import hear, opened, say, subscribe
from tests.edge.whole import Someone, sign_up

SECRET = "the-secret-of-anna"
QUERY = (
    "query Find($name: String!) { projects(filter: {name: {eq: $name}})"
    " { nodes { id tasks(first: 3) { nodes { title } } } } }"
)
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


class Traced:
    """A server whose spans stay in memory."""

    def __init__(self, served: Served, exporter: InMemorySpanExporter, traces: Traces) -> None:
        self.served = served
        self._exporter = exporter
        self._traces = traces

    def spans(self) -> Sequence[ReadableSpan]:
        """What has ended since this was last asked."""
        assert self._traces._provider.force_flush()
        spans = self._exporter.get_finished_spans()
        self._exporter.clear()
        return spans

    async def ask(self, person: Someone, traceparent: str | None = None, name: str = "x") -> None:
        headers = {"authorization": f"Bearer {person.token}"}
        if traceparent is not None:
            headers["traceparent"] = traceparent
        body = {"query": QUERY, "variables": {"name": name}}
        response = await self.served.client.post("/graphql", json=body, headers=headers)
        assert "errors" not in response.json()


@pytest_asyncio.fixture
async def traced(make_settings: MakeSettings) -> AsyncIterator[Traced]:
    exporter = InMemorySpanExporter()
    traces = Traces(exporter)
    async with serving(create_app(make_settings(), traces=traces)) as served:
        yield Traced(served, exporter, traces)


async def test_an_operation_is_a_span_over_its_statements(traced: Traced) -> None:
    person = await sign_up(traced.served)
    traced.spans()
    await traced.ask(person, name=SECRET)
    *statements, operation = traced.spans()
    assert operation.name == "query Find"
    assert operation.kind is SpanKind.SERVER
    assert operation.parent is None
    attributes = dict(operation.attributes or {})
    assert attributes.pop("engram.request_id")
    assert attributes == {"graphql.operation.type": "query", "graphql.operation.name": "Find"}
    # no project was found, so no tasks were asked for; and none for the six fields
    assert [one.name for one in statements] == ["SELECT"]
    for one in statements:
        assert one.kind is SpanKind.CLIENT
        assert one.parent == operation.context
        assert one.attributes is not None
        assert one.attributes["db.system.name"] == "postgresql"
        assert "projects" in str(one.attributes["db.query.text"])
        assert one.attributes["db.response.returned_rows"] == 0
        assert one.start_time is not None
        assert one.end_time is not None
        assert operation.start_time is not None
        assert operation.end_time is not None
        # the clock of a statement's duration is another one
        assert operation.start_time - 1_000_000 <= one.start_time < one.end_time
        assert one.end_time <= operation.end_time
        assert SECRET not in one.to_json()
    assert SECRET not in operation.to_json()


async def test_the_callers_trace_goes_on(traced: Traced) -> None:
    person = await sign_up(traced.served)
    traced.spans()
    await traced.ask(person, f"00-{TRACE}-{PARENT}-01")
    *statements, operation = traced.spans()
    assert operation.parent is not None
    assert f"{operation.parent.span_id:016x}" == PARENT
    assert operation.context is not None
    assert f"{operation.context.trace_id:032x}" == TRACE
    assert statements
    for one in statements:
        assert one.context is not None
        assert one.context.trace_id == operation.context.trace_id


@pytest.mark.parametrize("flags", ["00"])
async def test_what_the_caller_does_not_sample_is_not_traced(traced: Traced, flags: str) -> None:
    person = await sign_up(traced.served)
    traced.spans()
    await traced.ask(person, f"00-{TRACE}-{PARENT}-{flags}")
    assert traced.spans() == ()


@pytest.mark.parametrize("traceparent", ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01"])
async def test_a_bad_traceparent_is_none(traced: Traced, traceparent: str) -> None:
    person = await sign_up(traced.served)
    traced.spans()
    await traced.ask(person, traceparent)
    assert traced.spans()[-1].parent is None


async def test_an_operation_with_errors_says_so(traced: Traced) -> None:
    person = await sign_up(traced.served)
    traced.spans()
    await person.execute("{ projects(first: -1) { nodes { id } } }")
    [operation] = traced.spans()
    assert operation.name == "query"
    assert operation.status.status_code is StatusCode.ERROR
    assert (operation.attributes or {})["error.type"] == "BAD_USER_INPUT"


async def test_a_subscription_is_a_span_when_it_ends(traced: Traced) -> None:
    person = await sign_up(traced.served)
    created = await person.ask(
        'mutation { createProject(input: {key: "ENG", name: "P"}) { project { id } } }'
    )
    project = created["createProject"]["project"]["id"]
    query = f'subscription S {{ taskChanged(projectId: "{project}") {{ title }} }}'
    async with opened(traced.served, person) as connection:
        await say(connection, subscribe(query))
        while True:
            await person.ask(
                f'mutation {{ createTask(input: {{projectId: "{project}", title: "t"}})'
                " { task { id } } }"
            )
            if (await hear(connection))["type"] == "next":
                break
        traced.spans()
        await say(connection, {"type": "complete", "id": subscribe(query)["id"]})
        await say(connection, {"type": "ping"})
        while (await hear(connection))["type"] != "pong":
            pass
    names = [one.name for one in traced.spans()]
    assert "subscription S" in names


async def test_spans_arrive_at_a_collector(make_settings: MakeSettings) -> None:
    received: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append((self.path, body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        thread = Thread(target=collector.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{collector.server_address[1]}/"
        try:
            app = create_app(make_settings(otel_exporter_otlp_endpoint=address))
            async with serving(app) as served:
                person = await sign_up(served)
                await person.ask("query Mine { viewer { id } }")
        finally:
            collector.shutdown()
            thread.join()
    assert {path for path, _ in received} == {"/v1/traces"}
    names = []
    for _, body in received:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = {one.key: one.value.string_value for one in resource.resource.attributes}
            assert service["service.name"] == "engram"
            names += [span.name for scope in resource.scope_spans for span in scope.spans]
    assert "query Mine" in names
    assert "SELECT" in names


def test_nothing_is_imported_when_traces_are_off() -> None:
    code = (
        "import sys, server.app\n"
        "from server.settings import Settings\n"
        "server.app.create_app(Settings(_env_file=None, database_url='postgresql://a@127.0.0.1/b'))\n"
        # Redis' client looks for other parts of OpenTelemetry
        "unwanted = ('server.spans', 'opentelemetry.sdk.trace', 'opentelemetry.exporter')\n"
        "print([name for name in sys.modules if name.startswith(unwanted)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
