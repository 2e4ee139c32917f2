"""A server that is told to stop, alone and while another takes over: no request is lost."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.examples.running import SIGN_UP, Account, sign_up
from tests.faults.requests import CREATE, PROJECT, post
from tests.faults.test_clients import PROTOCOL, until
from tests.processes import ROOT, Serving, environment
from tests.properties import IS_LONG

GRACE_SECONDS = 3
RESTARTS = 20 if IS_LONG else 1
CLIENTS = 8
SETTINGS = {
    "SHUTDOWN_GRACE_SECONDS": str(GRACE_SECONDS),
    "BACKGROUND_WORK": "false",
    "LOG_LEVEL": "error",
    "RATE_LIMIT_COST": "off",
}


async def test_a_server_that_is_told_to_stop_finishes_what_it_does(
    database_url: str, admin_url: str, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "DATABASE_URL": database_url}
    serving = await asyncio.to_thread(lambda: Serving(tmp_path, **settings))
    someone = await sign_up(serving)
    project = (await someone.ask(PROJECT))["createProject"]["project"]["id"]
    title = uuid4().hex
    admin = await asyncpg.connect(admin_url)
    url = f"ws://127.0.0.1:{serving.port}/graphql"

    async def waiting() -> int:
        count: int = await admin.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock'"
        )
        return count

    async with connect(url, subprotocols=[PROTOCOL]) as talking:
        async with admin.transaction():
            await admin.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
            # one whose request is at work, one whose request is still to come
            reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
            writer.write(post(someone.token, CREATE, project=project, title=title))
            await until(waiting)
            late_reader, late_writer = await asyncio.open_connection("127.0.0.1", serving.port)
            serving.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as closing:
                await talking.recv()
            assert closing.value.rcvd is not None
            assert closing.value.rcvd.code == 1012
            late_writer.write(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
            late = await late_reader.read()
            assert late.startswith(b"HTTP/1.1 200 ")
            assert b"connection: close" in late.lower()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", serving.port)
        answer = await reader.read()
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["data"]["createTask"]["problems"] == []
    assert await admin.fetchval("SELECT count(*) FROM tasks WHERE title = $1", title) == 1
    await admin.close()
    for one in (writer, late_writer):
        one.close()
    _, errors = await asyncio.to_thread(lambda: serving.process.communicate(timeout=30))
    assert serving.process.returncode == 0, errors
    assert "Traceback" not in errors


async def test_a_request_that_does_not_end_does_not_keep_a_server_from_stopping(
    database_url: str, admin_url: str, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "DATABASE_URL": database_url, "SHUTDOWN_GRACE_SECONDS": "1"}
    serving = await asyncio.to_thread(lambda: Serving(tmp_path, **settings))
    someone = await sign_up(serving)
    admin = await asyncpg.connect(admin_url)
    async with admin.transaction():
        await admin.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        _, writer = await asyncio.open_connection("127.0.0.1", serving.port)
        writer.write(post(someone.token, "{ tasks(first: 1) { nodes { id } } }"))
        await asyncio.sleep(0.2)
        serving.process.send_signal(signal.SIGTERM)
        # the rest is what Python takes to end on a busy machine
        await asyncio.to_thread(lambda: serving.process.communicate(timeout=1 + 1 + 15))
        assert serving.process.returncode == 0
    writer.close()
    await admin.close()


# A process that gives the socket the number of the protocol, and becomes the server.
BECOME = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.executable, [sys.executable, "-m", "server", "serve"])
"""


class Activated:
    """A server with a listening socket that it was handed, as systemd starts it."""

    def __init__(self, listening: socket.socket, folder: Path, **settings: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", BECOME, str(listening.fileno())],
            cwd=ROOT, env=environment(folder, **settings), pass_fds=[listening.fileno()],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    def end(self) -> None:
        """Tell it to stop, and wait until it has."""
        self.process.terminate()
        _, errors = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, errors


async def _account(url: str) -> Account:
    """Somebody who signs up; the answer comes when the server has started."""
    name = f"n{uuid4().hex}"
    given = {"username": name, "email": f"{name}@example.org", "password": f"{name} {name}"}
    data = await Account(url, "").ask(SIGN_UP, input=given)
    return Account(url, data["signUp"]["token"])


async def _connected(name: str, admin_url: str) -> None:
    """Wait until a server has started so far that it listens to the database."""
    admin = await asyncpg.connect(admin_url)
    listens = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND query LIKE 'LISTEN%'"
    )
    await until(lambda: admin.fetchval(listens, name))
    await admin.close()


async def test_a_rolling_restart_loses_no_request(
    database_url: str,
    admin_url: str,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """Two processes take turns at one socket; clients of both kinds never notice."""
    settings = {**SETTINGS, "DATABASE_URL": database_url}
    answered, titles = 0, set[str]()
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", 0))
        listening.listen(1024)
        port = listening.getsockname()[1]
        server = Activated(listening, tmp_path, **settings)
        account = await _account(f"http://127.0.0.1:{port}/graphql")
        project = (await account.ask(PROJECT))["createProject"]["project"]["id"]
        done = asyncio.Event()

        async def client(number: int) -> None:
            """Keeps its connection, or takes a new one for each request."""
            nonlocal answered
            limits = httpx.Limits(max_keepalive_connections=number % 2)
            headers = {"authorization": f"Bearer {account.token}"}
            async with httpx.AsyncClient(timeout=60, limits=limits, headers=headers) as asking:
                while not done.is_set():
                    title = uuid4().hex
                    body = {"query": CREATE, "variables": {"project": project, "title": title}}
                    answer = await asking.post(account.url, json=body)
                    assert answer.json()["data"]["createTask"]["problems"] == []
                    titles.add(title)
                    answered += 1

        clients = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
        try:
            for _ in range(RESTARTS):
                name = f"other-{uuid4().hex[:8]}"
                url = f"{database_url}&application_name={name}"
                other = Activated(listening, tmp_path, **{**settings, "DATABASE_URL": url})
                await _connected(name, admin_url)
                await asyncio.to_thread(server.end)
                server = other
                wanted = answered + CLIENTS
                async with asyncio.timeout(60):
                    while answered < wanted and not any(task.done() for task in clients):  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                assert all(not task.done() for task in clients), [
                    task.exception() for task in clients if task.done()
                ]
        finally:
            done.set()
            await asyncio.gather(*clients, return_exceptions=True)
            await asyncio.to_thread(server.end)
    for task in clients:
        await task
    admin = await asyncpg.connect(admin_url)
    rows = await admin.fetch("SELECT title FROM tasks WHERE title = ANY($1)", list(titles))
    await admin.close()
    assert {row["title"] for row in rows} == titles
    assert len(rows) == answered
    record_property("restarts", RESTARTS)
    record_property("requests answered", answered)
    record_property("lost", 0)
