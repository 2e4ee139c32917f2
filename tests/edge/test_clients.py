"""Real JavaScript clients and the official audits, against a real server."""

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.edge.conftest import NewLogin, Served
from tests.edge.manifest import GREET

CLIENTS = Path(__file__).parent.parent / "clients"
LOCK = CLIENTS / "package-lock.json"

pytestmark = pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm")


@pytest.fixture(scope="session")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts with their packages, installed once."""
    folder = tmp_path_factory.mktemp("clients")
    for file in CLIENTS.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    return folder


async def run(folder: Path, script: str, *arguments: str) -> list[Any]:
    process = await asyncio.create_subprocess_exec(
        "node", script, *arguments, cwd=folder, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return [json.loads(line) for line in out.splitlines()]


async def test_every_must_and_should_of_the_official_audits(
    served: Served, trusting: Served, clients: Path
) -> None:
    for server in (served, trusting):
        audits = await run(clients, "audit.mjs", server.url)
        failed = [audit for audit in audits if audit["status"] != "ok"]
        print(f"{len(audits) - len(failed)} of {len(audits)} audits pass")
        for audit in failed:
            print(audit["id"], audit["name"], audit["reason"])
        assert len(audits) > 50
        # The rest is optional: it asks for queries over GET, which are for trusted documents.
        assert [audit for audit in failed if not audit["name"].startswith("MAY")] == []


async def test_the_websocket_client(served: Served, clients: Path, new_login: NewLogin) -> None:
    login = await new_login()
    answers = await run(
        clients,
        "socket.mjs",
        served.socket_url,
        login.token,
        "{ hello whoami }",
        'mutation { write(name: "over a socket") }',
        "subscription { count(to: 3) }",
        "{ nothing }",
        "subscription { refused }",
    )
    assert answers[:5] == [
        {"data": {"hello": "Hello, world!", "whoami": f"user {login.owner_id}"}},
        {"data": {"write": "over a socket"}},
        {"data": {"count": 0}},
        {"data": {"count": 1}},
        {"data": {"count": 2}},
    ]
    unknown, refused = answers[5]["thrown"], answers[6]["thrown"]
    assert unknown[0]["extensions"] == {"code": "GRAPHQL_VALIDATION_FAILED"}
    assert refused[0]["message"] == "Not for you."


async def test_the_websocket_client_is_told_of_a_bad_token(served: Served, clients: Path) -> None:
    answers = await run(clients, "socket.mjs", served.socket_url, "eg_nonsense", "{ hello }")
    reason = "Unauthorized: The token is not valid: log in again."
    assert answers == [{"thrown": {"code": 4401, "reason": reason}}]


async def test_the_event_stream_client(served: Served, clients: Path, new_login: NewLogin) -> None:
    login = await new_login()
    answers = await run(
        clients,
        "events.mjs",
        served.url,
        login.token,
        "subscription { count(to: 3) }",
        "{ hello whoami }",
        'mutation { write(name: "over a stream") }',
        "{ nothing }",
        "subscription { refused }",
    )
    assert answers[:5] == [
        {"data": {"count": 0}},
        {"data": {"count": 1}},
        {"data": {"count": 2}},
        {"data": {"hello": "Hello, world!", "whoami": f"user {login.owner_id}"}},
        {"data": {"write": "over a stream"}},
    ]
    assert answers[5]["errors"][0]["extensions"] == {"code": "GRAPHQL_VALIDATION_FAILED"}
    assert answers[6]["errors"][0]["message"] == "Not for you."


async def test_apollo_client_subscribes_over_multipart(
    served: Served, clients: Path, new_login: NewLogin
) -> None:
    login = await new_login()
    heard = await run(
        clients,
        "parts.mjs",
        served.url,
        login.token,
        "4",
        "subscription { count(to: 2) }",
        "subscription { count(to: 100) }",  # left after four
        "subscription { tooBig }",
        "subscription { refused }",
        "subscription { nothing }",
    )
    counts = [{"data": {"count": number}} for number in (0, 1)]
    assert heard[:3] == [*counts, {"complete": True}]
    assert heard[3:7] == [{"data": {"count": number}} for number in range(4)]
    in_data, after_it, ended = heard[7:10]
    assert (in_data["error"], in_data["errors"][0]["path"]) == ("graphql", ["tooBig"])
    assert (after_it, ended) == ({"data": {"tooBig": 1}}, {"complete": True})
    refused, completed, invalid = heard[10:13]
    assert (refused["error"], refused["errors"][0]["message"]) == ("protocol", "Not for you.")
    assert completed == {"complete": True}
    assert invalid["error"] == "graphql"
    assert invalid["errors"][0]["extensions"] == {"code": "GRAPHQL_VALIDATION_FAILED"}


async def test_apollo_client_sends_a_text_once(served: Served, clients: Path) -> None:
    query = f"query Q{uuid4().hex} {{\n  hello\n}}"
    heard = await run(clients, "apollo.mjs", served.url, "POST", query, query, "{ nothing }")
    data = {"data": {"hello": "Hello, world!"}}
    missed = {"method": "POST", "text": False, "status": 400}
    sent = {"method": "POST", "text": True, "status": 200}
    found = {"method": "POST", "text": False, "status": 200}
    assert heard[:5] == [missed, sent, data, found, data]
    assert heard[5:7] == [missed, sent | {"status": 400}]
    assert heard[7]["thrown"][0]["extensions"] == {"code": "GRAPHQL_VALIDATION_FAILED"}


async def test_apollo_client_gets_trusted_documents(trusting: Served, clients: Path) -> None:
    query = f"query Q{uuid4().hex} {{\n  hello\n}}"
    heard = await run(clients, "apollo.mjs", trusting.url, "GET", GREET, query)
    data = {"data": {"hello": "Hello, world!"}}
    assert heard == [
        {"method": "GET", "text": False, "status": 200},
        data,
        {"method": "GET", "text": False, "status": 400},
        {"method": "POST", "text": True, "status": 200},
        data,
    ]


def test_lock_files_name_no_registry() -> None:
    folders = (CLIENTS, CLIENTS.parent.parent / "server" / "web")
    for folder in folders:
        assert "omit-lockfile-registry-resolved=true" in (folder / ".npmrc").read_text()
        assert "://" not in (folder / "package-lock.json").read_text()
