"""README's first steps and GraphiQL's examples work on the demo data, in a process of their own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import IO, Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from db.embedded import EmbeddedServer
from db.engine import create_engine
from db.session import SessionOptions
from server import demo
from server.graphiql import EXAMPLES, LOOKUP
from tests.conftest import TEMPLATE
from tests.docs.pages import ROOT, blocks, page
from tests.processes import environment, run, serving

README = page("README.md")
QUERY, MUTATION, SUBSCRIPTION = blocks(README, "graphql")
_, ASK, WATCH = blocks(README, "sh")
SECONDS = 20


@dataclass
class Served:
    """A process that serves the demo data."""

    url: str
    token: str
    settings: dict[str, str]

    def ask(self, query: str, variables: object = None) -> Any:
        """The answer of the demo person's server."""
        return httpx.post(
            f"{self.url}/graphql",
            json={"query": query, "variables": variables},
            headers={"authorization": f"Bearer {self.token}"},
        ).json()

    def shell(self, commands: str) -> subprocess.Popen[str]:
        """README's commands as they are, but for where the server and Python are."""
        if shutil.which("curl") is None:
            pytest.skip("needs curl")
        assert "http://127.0.0.1:8000" in commands
        here = commands.replace("http://127.0.0.1:8000", self.url)
        return subprocess.Popen(
            ["sh", "-euc", here.replace(".venv/bin/python", sys.executable)],
            cwd=ROOT, env=self.settings, text=True, stdout=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip


@pytest_asyncio.fixture(scope="module")
async def served(
    server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    """The demo data, served to a developer."""
    name, folder = f"engram_demo_{uuid4().hex[:12]}", tmp_path_factory.mktemp("demo")
    server.create_database(name, template=TEMPLATE)
    engine = create_engine(server.url(name), pooled=False)
    await demo.load(engine, SessionOptions())
    await engine.dispose()
    given = {"DATABASE_URL": server.url(name), "ENGRAM_ENVIRONMENT": "development"}
    token = run(folder, "token", demo.EMAIL, **given).stdout.strip()
    with serving(folder, **given) as process:
        yield Served(process.url, token, environment(folder, **given))
    server.drop_database(name)


def test_the_first_query_costs_what_is_said(served: Served) -> None:
    answer = served.ask(QUERY)
    assert answer["data"]["viewer"] == {"displayName": "Robin Vega"}
    assert len(answer["data"]["conversations"]["nodes"]) == 2
    assert all(project["tasks"]["nodes"] for project in answer["data"]["projects"]["nodes"])
    statements = len(answer["extensions"]["engram"]["statements"])
    assert f"{statements} SQL statements" in README


def test_the_first_mutation_works_and_refuses_as_is_said(served: Served) -> None:
    created = served.ask(MUTATION)["data"]["createTask"]
    assert created["problems"] == []
    assert created["task"]["createdBy"] == {"name": "Robin Vega"}
    refused = served.ask(MUTATION.replace("priority: 3", "priority: 9"))["data"]["createTask"]
    assert refused["task"] is None
    assert [problem["path"] for problem in refused["problems"]] == [["input", "priority"]]


async def test_the_first_subscription_hears_of_the_mutation(served: Served) -> None:
    offered = {"authorization": f"Bearer {served.token}"}
    url = served.url.replace("http", "ws") + "/graphql"
    protocols = [Subprotocol("graphql-transport-ws")]
    async with connect(url, subprotocols=protocols) as socket:
        await socket.send(json.dumps({"type": "connection_init", "payload": offered}))
        assert json.loads(await socket.recv())["type"] == "connection_ack"
        asked = {"id": "1", "type": "subscribe", "payload": {"query": SUBSCRIPTION}}
        await socket.send(json.dumps(asked))
        heard = asyncio.create_task(socket.recv())
        await until_heard(served, heard.done)
        change = json.loads(await heard)["payload"]["data"]["taskChanged"]
    assert change["title"] == "Invite everybody to the first dinner"


def test_the_first_commands_work(served: Served) -> None:
    out, _ = served.shell(ASK).communicate(timeout=SECONDS)
    tasks = json.loads(out)["data"]["readyTasks"]["nodes"]
    assert [task["priority"] for task in tasks] == [4, 4, 3]


async def test_the_command_that_watches_hears_of_the_mutation(served: Served) -> None:
    (token,) = (line for line in ASK.splitlines() if line.startswith("TOKEN="))
    process = served.shell(f"{token}\n{WATCH}")
    try:
        assert process.stdout is not None
        heard = asyncio.create_task(asyncio.to_thread(first_event, process.stdout))
        await until_heard(served, heard.done)
        change = json.loads(await heard)["data"]["taskChanged"]
        assert change["title"] == "Invite everybody to the first dinner"
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # curl is a child of the shell
        process.communicate()


def first_event(lines: IO[str]) -> str:
    """The data of the first event in a stream."""
    return next(line for line in lines if line.startswith("data: ")).removeprefix("data: ")


async def until_heard(served: Served, heard: Callable[[], bool]) -> None:
    """Create tasks until somebody hears of one: a subscription takes a moment to begin."""
    limit = time.monotonic() + SECONDS
    while not heard():
        assert time.monotonic() < limit
        await asyncio.to_thread(served.ask, MUTATION)
        await asyncio.sleep(0.2)


def test_the_examples_of_graphiql_work(served: Served) -> None:
    ids = [one["nodes"][0]["id"] for one in served.ask(LOOKUP)["data"].values()]
    for example in EXAMPLES:
        variables = example.variables
        for identifier in ids:
            variables = variables.replace(f"{identifier.partition('_')[0]}_…", identifier)
        if "subscription" in example.query:
            continue
        answer = served.ask(example.query, json.loads(variables))
        assert "errors" not in answer, answer
        assert all(answer["data"].values())


def test_the_demo_person_can_log_in(served: Served) -> None:
    assert demo.EMAIL in README
    assert demo.PASSWORD in README
    document = f"""
        mutation {{
          logIn(input: {{ identifier: "{demo.EMAIL}", password: "{demo.PASSWORD}" }}) {{ token }}
        }}"""
    assert served.ask(document)["data"]["logIn"]["token"].startswith("eg_")
