"""The command line as people and platforms use it: processes, signals and exit codes."""

from __future__ import annotations

import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from db.embedded import EmbeddedServer
from db.tokens import parse
from schema import build_schema
from tests.processes import Serving, run


@pytest.fixture(scope="module")
def data() -> Iterator[Path]:
    """A data directory that all tests of this module share; another user must get through."""
    folder = Path(tempfile.mkdtemp(prefix="engram-command-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def serve() -> Iterator[Callable[..., Serving]]:
    """Starts servers; those that a failed test leaves are ended."""
    started: list[Serving] = []

    def start(data: Path, **settings: str) -> Serving:
        started.append(Serving(data, **settings))
        return started[-1]

    yield start
    for serving in started:
        if serving.process.returncode is None:
            serving.end(signal.SIGTERM)


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_serves_until_a_signal_and_ends_cleanly(
    data: Path, serve: Callable[..., Serving], name: signal.Signals
) -> None:
    serving = serve(data)
    code, out, error = serving.end(name)
    assert code == 0
    assert f"http://127.0.0.1:{serving.port}/graphql" in out
    assert "Traceback" not in error
    assert not (data / "postgres/postmaster.pid").exists()


def test_two_servers_and_a_tool_share_one_data_directory(
    data: Path, serve: Callable[..., Serving]
) -> None:
    first, second = serve(data), serve(data)
    with EmbeddedServer.start(data) as server:
        server.sql(
            "INSERT INTO users (username, email, password_hash) VALUES ('cli', 'c@e.org', 'x')",
            database="engram",
        )
    printed = run(data, "token", "c@e.org")
    assert (printed.returncode, printed.stderr) == (0, "")
    token = printed.stdout.removesuffix("\n")
    assert parse(token) is not None
    assert second.end()[0] == 0
    answer = httpx.post(
        f"{first.url}/graphql",
        json={"query": "{ loginSessions { nodes { deviceName } } }"},
        headers={"authorization": f"Bearer {token}"},
    )
    nodes = answer.json()["data"]["loginSessions"]["nodes"]
    assert nodes == [{"deviceName": "command line"}]
    code, out, error = first.end()
    assert code == 0
    assert token not in out + error


def test_tools_work_while_nothing_is_served(data: Path) -> None:
    assert run(data, "migrate").returncode == 0
    nobody = run(data, "token", "nobody@e.org")
    assert nobody.returncode == 1
    assert nobody.stdout == ""
    assert nobody.stderr == "Engram cannot go on: Nobody has the address nobody@e.org.\n"
    assert not (data / "postgres/postmaster.pid").exists()


def development_logins(data: Path) -> list[str]:
    """The login sessions of development, each with the days it lasts."""
    with EmbeddedServer.start(data) as server:
        return server.sql(
            "SELECT id, round(extract(epoch FROM expires_at - created_at) / 86400), revoked_at"
            " FROM login_sessions WHERE device_name = 'development'",
            database="engram",
        ).splitlines()


def test_every_start_for_development_replaces_the_token_of_the_last(
    data: Path, serve: Callable[..., Serving]
) -> None:
    printed, stored = set(), set()
    for _ in range(2):
        serving = serve(data)
        (login,) = development_logins(data)
        assert login.split("|")[1:] == ["7", ""]
        stored.add(login)
        _, out, _ = serving.end()
        (token,) = (line.split()[1] for line in out.splitlines() if "Token" in line)
        printed.add(token)
    assert len(printed) == len(stored) == 2


def test_a_taken_port_is_an_error(data: Path, serve: Callable[..., Serving]) -> None:
    serve(data).end()
    before = development_logins(data)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run(data, "serve", PORT=str(taken.getsockname()[1]))
    assert done.returncode != 0
    assert "address already in use" in done.stderr
    assert development_logins(data) == before
    assert not (data / "postgres/postmaster.pid").exists()


def test_with_a_database_url_nothing_is_embedded(
    data: Path, database_url: str, serve: Callable[..., Serving]
) -> None:
    unused = data / "unused"
    serving = serve(unused, DATABASE_URL=database_url)
    code, out, error = serving.end()
    assert (code, out) == (0, "")
    assert error.startswith("{")
    assert not unused.exists()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"PORT": "many"}, "PORT: "),
        ({"TRUSTED_DOCUMENTS_ONLY": "yes"}, "It needs TRUSTED_DOCUMENTS to be set."),
        ({"DATABASE_URL": "mysql://me:hunter2@h/d"}, "must begin with postgresql://"),
        ({"DATABASE_URL": "postgresql://me:hunter2@127.0.0.1:1/d"}, "Connect call failed"),
    ],
)
@pytest.mark.parametrize("command", [("serve",), ("migrate",), ("token", "a@b")])
def test_what_an_operator_can_mend_is_one_line(
    data: Path, command: tuple[str, ...], settings: dict[str, str], expected: str
) -> None:
    done = run(data, *command, **settings)
    assert done.returncode in {1, 2}
    assert done.stdout == ""
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1
    assert "hunter2" not in done.stderr


def test_a_trusted_document_that_is_not_of_the_schema_stops_the_start(
    data: Path, database_url: str
) -> None:
    manifest = data / "documents.json"
    manifest.write_text('{"people": "{ people { id } }"}')
    done = run(data, "serve", DATABASE_URL=database_url, TRUSTED_DOCUMENTS=str(manifest))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        'Engram cannot go on: The trusted document "people" ({ people { id } }) cannot be served: '
        "Cannot query field 'people' on type 'Query' (line 1, column 3).\n"
    )


def test_help_and_schema(data: Path) -> None:
    listed = run(data, "--help").stdout
    for command in ("serve", "migrate", "token", "schema"):
        assert command in listed
    assert run(data, "schema").stdout == build_schema().as_str().rstrip() + "\n"
