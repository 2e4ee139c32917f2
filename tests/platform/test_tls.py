"""TLS modes, against a PostgreSQL that speaks TLS where one is installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import text

from db.embedded_host import system_user
from db.engine import create_engine
from db.failures import DatabaseUnavailable
from db.session import Session, SessionOptions

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
pytestmark = pytest.mark.skipif(
    not BINARIES or shutil.which("openssl") is None, reason="no PostgreSQL with TLS is installed"
)


@dataclass
class Tls:
    """A server on 127.0.0.1 that calls itself `localhost`, and who signed for that."""

    port: int
    authority: Path
    stranger: Path

    def url(self, host: str, query: str) -> str:
        return f"postgresql://admin:hunter2@{host}:{self.port}/postgres?{query}"


@pytest.fixture(scope="module")
def tls() -> Iterator[Tls]:
    folder = Path(tempfile.mkdtemp(prefix="engram-tls-"))
    user = system_user(folder / "data")
    as_user = user.uid if user.switched else None

    def run(*command: str) -> None:
        subprocess.run(command, cwd=folder, user=as_user, check=True, capture_output=True)

    os.chown(folder, user.uid, user.gid)
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    for name in ("authority", "stranger"):
        run("openssl", "req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem",
            "-subj", f"/CN={name}")  # fmt: skip
    run("openssl", "req", "-x509", *key, "-keyout", "server.key", "-out", "server.pem",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
        "-addext", "basicConstraints=critical,CA:FALSE",
        "-CA", "authority.pem", "-CAkey", "authority.key")  # fmt: skip
    (folder / "password").write_text("hunter2")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    programs = BINARIES[-1]
    run(f"{programs}/initdb", "-D", "data", "-U", "admin", "--pwfile=password", "--no-sync",
        "--auth=scram-sha-256", "--locale=C")  # fmt: skip
    (folder / "data/pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")
    options = {
        "listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": "",
        "ssl": "on", "ssl_cert_file": f"{folder}/server.pem", "ssl_key_file": f"{folder}/server.key"
    }  # fmt: skip
    settings = " ".join(f"-c {name}='{value}'" for name, value in options.items())
    run(f"{programs}/pg_ctl", "-D", "data", "-l", "log", "-w", "-o", settings, "start")
    folder.chmod(0o755)
    try:
        yield Tls(port, folder / "authority.pem", folder / "stranger.pem")
    finally:
        run(f"{programs}/pg_ctl", "-D", "data", "-m", "fast", "-w", "stop")
        shutil.rmtree(folder)


async def answers(url: str, authority: str | None = None) -> bool:
    """Whether a session can be opened, and by TLS."""
    engine = create_engine(url, pooled=False, authority=authority)
    async with Session(engine, None, SessionOptions(role=None)) as session:
        try:
            return bool(
                await session.scalar(
                    text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
                )
            )
        except DatabaseUnavailable:
            return False


@pytest.mark.parametrize(
    ("host", "mode", "root", "expected"),
    [
        ("127.0.0.1", "disable", None, False),
        ("127.0.0.1", "prefer", None, True),
        ("127.0.0.1", "require", None, True),
        ("127.0.0.1", "require", "stranger", False),
        ("127.0.0.1", "verify-ca", "authority", True),
        ("localhost", "verify-ca", "stranger", False),
        ("localhost", "verify-ca", None, False),
        ("127.0.0.1", "verify-full", "authority", False),
        ("localhost", "verify-full", "authority", True),
        ("localhost", "verify-full", "stranger", False),
        ("localhost", "verify-full", None, False),
    ],
)
async def test_modes(tls: Tls, host: str, mode: str, root: str | None, expected: bool) -> None:
    file = {"authority": tls.authority, "stranger": tls.stranger}.get(root or "")
    query = f"sslmode={mode}" + (f"&sslrootcert={file}" if file else "")
    assert await answers(tls.url(host, query)) is expected


async def test_the_authority_may_come_as_text(tls: Tls) -> None:
    url = tls.url("localhost", "sslmode=verify-full")
    assert await answers(url, tls.authority.read_text())
    assert not await answers(url, tls.stranger.read_text())
