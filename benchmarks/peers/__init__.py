"""The servers that are compared, each started as it would be in production.

All of them are one process with ten connections to the same database. The owner of the data comes
with each request: in a bearer token for Engram, in a header that is believed for the others.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from time import monotonic, sleep
from urllib.parse import urlsplit

from benchmarks.dataset import HOME, PEER_ROLE, Dataset
from benchmarks.workloads import Dialect, Limit, Plain, PostGraphile

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
START_SECONDS = 60
STOP_SECONDS = 20
NODE_VERSION = 22
"""The least version of Node.js that PostGraphile supports."""

Command = Callable[[Dataset], list[str]]
Environment = Callable[[Dataset], Mapping[str, str]]


class PeerError(Exception):
    """A peer cannot be started; the message says why."""


@dataclass(frozen=True)
class Peer:
    """One server: how it is started, and how it is asked."""

    name: str
    title: str
    dialect: Dialect
    command: Command
    environment: Environment
    share: float = 1.0
    """Of a workload's requests: a slow one gets fewer, so that its turn is no longer."""


@dataclass(frozen=True)
class Running:
    """A peer that listens."""

    peer: Peer
    pid: int
    port: int


def _libpq(role: str) -> Environment:
    def environment(dataset: Dataset) -> Mapping[str, str]:
        socket_dir = str(dataset.server.socket.parent)
        return {"PGHOST": socket_dir, "PGUSER": role, "PGDATABASE": dataset.name}

    return environment


def _owner(dataset: Dataset) -> str:
    return str(urlsplit(dataset.url).username)


def _rls(dataset: Dataset) -> Mapping[str, str]:
    return _libpq(_owner(dataset))(dataset)


def _open(dataset: Dataset) -> Mapping[str, str]:
    return {**_libpq(PEER_ROLE)(dataset), "OPEN": "1"}


def _engram(dataset: Dataset) -> Mapping[str, str]:
    return {
        "DATABASE_URL": dataset.url,
        "ENGRAM_ENVIRONMENT": "production",
        # Counted as in production, and never reached.
        "RATE_LIMIT_COST": "1000000000000/minute",
        "RATE_LIMIT_ADDRESS_COST": "1000000000000/minute",
        "RATE_LIMIT_SIGN_UPS": "off",
        "RATE_LIMIT_LOG_INS": "off",
        "HOST": "127.0.0.1",
        "PYTHONFAULTHANDLER": "1",
    }


def _watched(dataset: Dataset) -> Mapping[str, str]:
    return {**_engram(dataset), "METRICS_TOKEN": "nobody-reads-them-here"}


def _python(*arguments: str) -> Command:
    return lambda _: [sys.executable, *arguments]


def _node(script: str) -> Command:
    return lambda _: [str(node()), str(HERE / script)]


PEERS = {
    peer.name: peer
    for peer in (
        Peer("engram", "Engram", Dialect(), _python("-m", "server", "serve"), _engram),
        Peer(
            "engram_watched",
            "Engram with metrics",
            Dialect(),
            _python("-m", "server", "serve"),
            _watched,
        ),
        Peer(
            "postgraphile",
            "PostGraphile 5",
            PostGraphile(open_=False),
            _node("postgraphile.mjs"),
            _rls,
        ),
        Peer(
            "postgraphile_open",
            "PostGraphile 5 without row-level security",
            PostGraphile(open_=True),
            _node("postgraphile.mjs"),
            _open,
        ),
        Peer(
            "apollo",
            "Apollo Server 5, dataloader, postgres.js",
            Plain(),
            _node("apollo.mjs"),
            _libpq(PEER_ROLE),
        ),
        Peer(
            "strawberry",
            "Strawberry, SQLAlchemy Core, aiodataloader",
            Plain(),
            _python("-m", "benchmarks.peers.tutorial"),
            _libpq(PEER_ROLE),
            share=0.25,
        ),
        Peer(
            "limit",
            "asyncpg and orjson by hand, no GraphQL",
            Limit(),
            _python("-m", "benchmarks.peers.limit"),
            _libpq(PEER_ROLE),
        ),
    )
}
ON_REQUEST = {"engram_watched", "postgraphile_open"}
USUAL_PEERS = tuple(name for name in PEERS if name not in ON_REQUEST)
NODE_PEERS = {"postgraphile", "postgraphile_open", "apollo"}


@contextmanager
def running(names: Iterable[str], dataset: Dataset) -> Iterator[list[Running]]:
    """Peers that listen, for as long as the block runs; then they are ended, each by its id."""
    if NODE_PEERS.intersection(names := list(names)):
        install()
    with ExitStack() as stack:
        yield [stack.enter_context(started(PEERS[name], dataset)) for name in names]


@contextmanager
def started(peer: Peer, dataset: Dataset) -> Iterator[Running]:
    """A server for as long as the block runs."""
    port = _free_port()
    log = HOME / "logs" / f"{peer.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    with log.open("wb") as output:
        process = subprocess.Popen(
            peer.command(dataset),
            env={
                **inherited,
                "NODE_ENV": "production",
                "GRAPHILE_ENV": "production",
                "PORT": str(port),
                **peer.environment(dataset),
            },
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the benchmark, which ends them
        )
    try:
        _await(process, port, peer, log)
        yield Running(peer, process.pid, port)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(process: subprocess.Popen[bytes], port: int, peer: Peer, log: Path) -> None:
    limit = monotonic() + START_SECONDS
    while monotonic() < limit:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            sleep(0.1)
    last = log.read_text(errors="replace")[-2_000:]
    raise PeerError(f"{peer.title} does not start:\n{last}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def install() -> None:
    """Bring the packages of the Node.js peers to what the lock file says."""
    stamp = HERE / "node_modules" / ".engram-lock"
    lock = sha256((HERE / "package-lock.json").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == lock:
        return
    npm = shutil.which("npm")
    if npm is None:
        raise PeerError("PostGraphile and Apollo come from npm, which is not installed here.")
    print("installing the packages of PostGraphile and Apollo")
    subprocess.run([npm, "ci", "--silent"], cwd=HERE, check=True, timeout=900)
    stamp.write_text(lock)


def node() -> Path:
    """Node.js of the version in package.json; the installed one on platforms it is not made for."""
    ours = HERE / "node_modules" / ".bin" / "node"
    if ours.exists():
        return ours
    found = shutil.which("node")
    if found is None:
        raise PeerError("PostGraphile and Apollo need Node.js.")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
    if int(version.stdout.lstrip("v").split(".")[0]) < NODE_VERSION:
        raise PeerError(f"PostGraphile needs Node.js {NODE_VERSION}, {found} is {version.stdout}")
    return Path(found)
