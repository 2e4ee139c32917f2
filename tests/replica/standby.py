"""A hot standby of a test's own, streaming from an embedded server, that can be harmed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil

from db.embedded import DATABASE, EmbeddedServer
from db.embedded_host import SOCKET, binaries, system_user

WAIT_SECONDS = 30
OPTIONS = {
    # at least what the primary has, or it refuses to answer
    "max_connections": "200",
    "hot_standby_feedback": "off",
    # a query gives way to what is to be replayed, at once
    "max_standby_streaming_delay": "0",
    "wal_receiver_status_interval": "1",
    "wal_retrieve_retry_interval": "100ms",
    "fsync": "off",
}


class Standby:
    """Made by pg_basebackup; runs as the user that the primary runs as."""

    def __init__(self, primary: EmbeddedServer | Standby, folder: Path) -> None:
        self._primary = primary
        self._data = folder / "standby"
        self._socket = folder / "standby-run"
        self._user = system_user(primary.socket.parent)
        for directory in (self._data, self._socket):
            directory.mkdir(mode=0o700)
            os.chown(directory, self._user.uid, self._user.gid)
        place = ("-h", str(primary.socket.parent), "-U", "postgres")
        self._run("pg_basebackup", *place, "-D", str(self._data), "-R", "-c", "fast", "--no-sync")
        self.start()

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self._socket / SOCKET

    @property
    def url(self) -> str:
        """As the application logs in."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """The same, to any database."""
        return f"postgresql://engram_owner@/{database}?host={self._socket}"

    def sql(self, statement: str) -> str:
        """One value, as superuser."""
        place = ("-h", str(self._socket), "-U", "postgres", "-d", DATABASE)
        return self._run("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", *place, "-c", statement).strip()

    def start(self) -> None:
        """Start it, after `kill` too."""
        options = {"unix_socket_directories": str(self._socket), "listen_addresses": "", **OPTIONS}
        words = " ".join(f"-c {name}='{value}'" for name, value in options.items())
        self._run("pg_ctl", "-D", str(self._data), "-l", str(self._data / "log"), "-o", words,
                  "-w", "start")  # fmt: skip

    def stop(self) -> None:
        """Stop it in order, if it runs."""
        with suppress(subprocess.CalledProcessError):
            self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def promote(self) -> None:
        """Make it a primary."""
        self._run("pg_ctl", "-D", str(self._data), "-w", "promote")

    def processes(self) -> list[psutil.Process]:
        """All of them, the postmaster first."""
        postmaster = psutil.Process(int((self._data / "postmaster.pid").read_text().split()[0]))
        return [postmaster, *postmaster.children(recursive=True)]

    def kill(self) -> None:
        """End every process as a power cut would."""
        processes = self.processes()
        self.signal(signal.SIGKILL)
        psutil.wait_procs(processes, WAIT_SECONDS)

    def signal(self, name: signal.Signals) -> None:
        """Send all processes a signal."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(name)

    def pause(self) -> None:
        """Have it replay nothing more."""
        self.sql("SELECT pg_wal_replay_pause()")
        self._until("SELECT pg_get_wal_replay_pause_state() = 'paused'")

    def resume(self) -> None:
        """Have it replay all there is."""
        self.sql("SELECT pg_wal_replay_resume()")
        self.catch_up()

    def catch_up(self) -> None:
        """Wait until it has replayed what was written before."""
        lsn = self._primary.sql("SELECT pg_current_wal_insert_lsn()")
        # a record of its own, as the place may lie behind the header of a page to come
        self._primary.sql("SELECT pg_logical_emit_message(true, 'test', 'here')")
        self._until(f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'")

    def _until(self, condition: str) -> None:
        limit = time.monotonic() + WAIT_SECONDS
        while self.sql(condition) != "t":
            assert time.monotonic() < limit, condition
            time.sleep(0.01)

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [str(binaries() / program), *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            cwd=self._socket.parent, start_new_session=True, timeout=2 * WAIT_SECONDS, check=False,
            env={"LC_ALL": "C", "PATH": os.defpath, "TZ": "UTC"},
            user=self._user.uid if self._user.switched else None,
            group=self._user.gid if self._user.switched else None,
            extra_groups=() if self._user.switched else None,
        )  # fmt: skip
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, program, done.stdout)
        return done.stdout

    def remove(self) -> None:
        """End it for good."""
        self.stop()
        shutil.rmtree(self._data, ignore_errors=True)
