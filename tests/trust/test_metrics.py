"""What `/metrics` says after operations that are known, to whom, and in how many words."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr, ValidationError

from server.app import create_app
from server.observability.exposition import Family, render
from server.observability.lag import LoopLag
from server.observability.measures import ANONYMOUS, OTHER, Measures
from tests.docs.pages import ROOT
from tests.edge.conftest import MakeSettings, Served, serving
from tests.edge.sockets import hear, opened, say, subscribe
from tests.edge.whole import sign_up

TOKEN = "metrics-are-for-operators"
CREATE = (
    "mutation Create($key: String!) {"
    ' createProject(input: {key: $key, name: "P"}) { project { id } problems { code } } }'
)
METRIC = re.compile(r"\b((?:engram|process)(?:_[a-z]+)+?)(?=_bucket|_sum\b|_count\b|[^a-z_]|$)")
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest_asyncio.fixture
async def watched(make_settings: MakeSettings) -> AsyncIterator[Served]:
    """A server of its own, so that nobody else counts in it."""
    settings = make_settings(
        metrics_token=SecretStr(TOKEN), metrics_operations=5, database_pool_size=3
    )
    async with serving(create_app(settings)) as served:
        yield served


async def read(served: Served) -> Samples:
    """All samples, as Prometheus' own parser reads them."""
    response = await served.client.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parsed(response.text)


def parsed(text: str) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


def operations(samples: Samples, name: str, kind: str, outcome: str) -> float:
    return value(samples, "engram_operations_total", operation=name, type=kind, outcome=outcome)


async def test_operations_are_counted_by_name_and_outcome(watched: Served) -> None:
    person = await sign_up(watched)
    before = await read(watched)
    for _ in range(3):
        await person.ask("query Mine { projects { nodes { id tasks { nodes { id } } } } }")
    await person.execute("query Mine { projects(first: -1) { nodes { id } } }")
    await person.ask(CREATE, key="ENG")
    assert (await person.execute(CREATE, key="no key"))["data"]["createProject"]["problems"]
    after = await read(watched)
    assert operations(before, ANONYMOUS, "mutation", "ok") == 1  # the sign-up
    assert operations(after, "Mine", "query", "ok") == 3
    assert operations(after, "Mine", "query", "errors") == 1
    assert operations(after, "Create", "mutation", "ok") == 1
    assert operations(after, "Create", "mutation", "problems") == 1
    assert value(after, "engram_problems_total", code="VALIDATION") == 1
    assert value(after, "engram_errors_total", code="BAD_USER_INPUT") == 1
    mine = {"operation": "Mine", "type": "query"}
    duration = "engram_operation_duration_seconds"
    assert value(after, f"{duration}_count", **mine) == 4
    assert value(after, f"{duration}_bucket", **mine, le="+Inf") == 4
    assert 0 < value(after, f"{duration}_sum", **mine) < 60
    assert value(after, "engram_operation_statements_total", **mine) >= 3
    assert value(after, "engram_operations_running") == 0


async def test_statements_and_rows_are_those_of_the_database(watched: Served) -> None:
    person = await sign_up(watched)
    for key in ("ONE", "TWO", "THREE"):
        await person.ask(CREATE, key=key)
    query = "query Three { projects { nodes { key } } }"
    await person.ask(query)
    before = await read(watched)
    await person.ask(query)
    after = await read(watched)
    three = {"operation": "Three", "type": "query"}
    for name, count in (("rows", 3), ("statements", 1)):
        name = f"engram_operation_{name}_total"
        assert value(after, name, **three) - value(before, name, **three) == count
    # the caller's token may be looked up as well
    rows = [value(one, "engram_rows_total", use="requests") for one in (before, after)]
    assert rows[1] - rows[0] in (3, 4)
    assert value(after, "engram_statements_failed_total", use="requests") == 0


async def test_refusals_are_counted_by_code(watched: Served) -> None:
    await watched.post("{ nothing }")
    await watched.post("{")
    await watched.client.get("/graphql")
    await watched.post("{ viewer { id } }", {"authorization": "Bearer nonsense"})
    samples = await read(watched)
    codes = {
        code: count
        for (name, labels), count in samples.items()
        if name == "engram_errors_total"
        for _, code in labels
    }
    assert codes == {
        "GRAPHQL_VALIDATION_FAILED": 1,
        "GRAPHQL_PARSE_FAILED": 1,
        "METHOD_NOT_ALLOWED": 1,
        "UNAUTHENTICATED": 1,
    }


async def test_the_pool_and_subscriptions_are_seen(watched: Served) -> None:
    person = await sign_up(watched)
    data = await person.ask(CREATE, key="ENG")
    project = data["createProject"]["project"]["id"]
    query = f'subscription S {{ taskChanged(projectId: "{project}") {{ title }} }}'
    async with opened(watched, person) as connection:
        await say(connection, subscribe(query))

        async def is_open() -> bool:
            return value(await read(watched), "engram_subscriptions_open") == 1

        await eventually(is_open)
        create = (
            f'mutation {{ createTask(input: {{projectId: "{project}", title: "t"}})'
            " { task { id } problems { code } } }"
        )
        await person.ask(create)
        assert (await hear(connection))["type"] == "next"
        samples = await read(watched)
        assert value(samples, "engram_sockets_open") == 1
        assert value(samples, "engram_subscription_events_total") == 1
        assert value(samples, "engram_pool_size", use="requests") == 3
        idle = value(samples, "engram_pool_connections", use="requests", state="idle")
        assert 1 <= idle <= 3
        assert value(samples, "engram_pool_waiting", use="requests") == 0
        assert value(samples, "engram_pool_wait_seconds_count", use="requests") >= idle

    async def is_closed() -> bool:
        samples = await read(watched)
        return (
            value(samples, "engram_subscriptions_open")
            == value(samples, "engram_sockets_open")
            == 0
        )

    await eventually(is_closed)
    assert operations(await read(watched), OTHER, "subscription", "cancelled") == 1


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Poll a condition for a while."""
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110 - the condition is anything
            await asyncio.sleep(0.02)


async def test_a_client_cannot_make_series_without_end(watched: Served) -> None:
    person = await sign_up(watched)
    for number in range(40):
        await person.ask(f"query Name{number} {{ viewer {{ id }} }}")
        await person.execute(f"query Bad{number} {{ projects(first: -1) {{ nodes {{ id }} }} }}")
    await person.ask(f"query {'N' * 900} {{ viewer {{ id }} }}")
    samples = await read(watched)
    names = {
        label
        for (name, labels), _ in samples.items()
        if name == "engram_operations_total"
        for key, label in labels
        if key == "operation"
    }
    assert names == {ANONYMOUS, OTHER, *(f"Name{number}" for number in range(5))}
    assert operations(samples, OTHER, "query", "ok") == 36
    assert operations(samples, OTHER, "query", "errors") == 40
    assert len(samples) < 500


def test_names_of_trusted_documents_take_no_place() -> None:
    measures = Measures(0, [("Known", "query")])
    for name in ("Known", "Unknown", None):
        measures.operation(name, "query", "ok", 0.1, 1, 1)
    counted = parsed(render(measures.families()).decode())
    assert operations(counted, "Known", "query", "ok") == 1
    assert operations(counted, "Unknown", "query", "ok") == 0
    assert operations(counted, OTHER, "query", "ok") == 1
    assert operations(counted, ANONYMOUS, "query", "ok") == 1


async def test_only_who_has_the_token_reads(watched: Served) -> None:
    for headers in ({}, {"authorization": f"Bearer {TOKEN}x"}, {"authorization": TOKEN}):
        refused = await watched.client.get("/metrics", headers=headers)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert "engram_" not in refused.text


async def test_in_production_without_a_token_there_are_none(whole: Served) -> None:
    assert (await whole.client.get("/metrics")).status_code == 404


@pytest.mark.parametrize(
    ("address", "status"), [("127.0.0.1", 200), ("::1", 200), ("10.0.0.7", 403)]
)
async def test_a_developer_reads_on_the_same_machine(
    make_settings: MakeSettings, address: str, status: int
) -> None:
    app = create_app(make_settings(engram_environment="development"))
    transport = httpx.ASGITransport(app, client=(address, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://engram") as client:
        assert (await client.get("/metrics")).status_code == status


def test_a_token_is_long(make_settings: MakeSettings) -> None:
    with pytest.raises(ValidationError, match="at least 16"):
        make_settings(metrics_token=SecretStr("short"))


async def test_a_blocked_loop_is_seen() -> None:
    lag = LoopLag(0.01)
    lag.start()

    def late() -> int:
        return sum(lag.seconds.counts[3:])  # by more than 10 ms

    async with asyncio.timeout(10):
        while not late():
            await asyncio.sleep(0.005)
            spin(0.1)
    lag.stop()
    assert lag.seconds.sum >= 0.01


def spin(seconds: float) -> None:
    """Block the event loop."""
    time.sleep(seconds)


@pytest.mark.parametrize("text", ['"', "\\", "\n", 'a\\"b\n', "ü"])
def test_any_label_is_read_back(text: str) -> None:
    written = render([Family("x", "gauge", "help").add(0.25, label=text)]).decode()
    assert parsed(written) == {("x", frozenset({("label", text)})): 0.25}


async def test_the_dashboard_and_the_page_know_all_metrics(watched: Served) -> None:
    await sign_up(watched)
    response = await watched.client.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"})
    families = set(re.findall(r"^# TYPE (\S+)", response.text, re.MULTILINE))
    dashboard = (ROOT / "docs/grafana.json").read_text()
    assert set(METRIC.findall(dashboard)) == families
    page = (ROOT / "docs/observability.md").read_text()
    assert set(METRIC.findall(page)) - {"engram_watched"} == families  # a peer of benchmarks


def test_the_dashboard_is_one() -> None:
    dashboard = json.loads((ROOT / "docs/grafana.json").read_text())
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            assert target["expr"].count("(") == target["expr"].count(")")
