"""A database of a test's own, durable as in production, that can be killed, stopped and started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil

from db.embedded import EmbeddedServer, EmbeddedServerError


class Database:
    """An embedded server in a folder, and its processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.server = EmbeddedServer.start(folder, durable=True)

    def processes(self) -> list[psutil.Process]:
        """The postmaster, then all that it has started."""
        lines = (self._folder / "postgres/postmaster.pid").read_text().splitlines()
        postmaster = psutil.Process(int(lines[0]))
        return [postmaster, *postmaster.children(recursive=True)]

    def kill(self) -> None:
        """End every process as a power cut would, and wait until none is left."""
        processes = self.processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        limit = time.monotonic() + 10
        while any(alive(process) for process in processes):
            assert time.monotonic() < limit
            time.sleep(0.01)

    def kill_a_backend(self) -> None:
        """End one process that serves a connection; PostgreSQL then starts all anew by itself."""
        for process in self.processes()[1:]:
            with suppress(psutil.NoSuchProcess):
                if "engram_owner" in " ".join(process.cmdline()):
                    process.kill()
                    return

    def freeze_wal_writer(self) -> None:
        """Leave what was not waited for unwritten."""
        for process in self.processes()[1:]:
            if "walwriter" in " ".join(process.cmdline()):
                process.send_signal(signal.SIGSTOP)

    def freeze(self) -> list[psutil.Process]:
        """Stop the clock of every process; give the list to `thaw`."""
        processes = self.processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP)
        return processes

    @staticmethod
    def thaw(processes: list[psutil.Process]) -> None:
        """Let frozen processes go on."""
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)

    def limit_files(self, limit: int | str) -> None:
        """Let no file grow beyond so many bytes, or "unlimited": the disk is full. On Linux only.

        A new process has the limit of its postmaster.
        """
        processes = self.processes()
        owner = {"user": processes[0].uids().real, "group": processes[0].gids().real}
        for process in processes:
            command = ["prlimit", f"--fsize={limit}:", "--pid", str(process.pid)]
            # As the server's user, who may do it even where root may not.
            done = subprocess.run(command, **(owner if os.geteuid() == 0 else {}))
            assert done.returncode == 0 or not alive(process)

    def stop(self) -> None:
        """Stop it if it runs, in order."""
        with suppress(EmbeddedServerError):
            self.server.stop()

    def start(self) -> None:
        """Start it again, after `stop` or `kill`."""
        self.stop()  # gives up the lease on what was killed
        self.server = EmbeddedServer.start(self._folder, durable=True)


def alive(process: psutil.Process) -> bool:
    """Whether a process does anything; one that nobody has waited for does not."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
