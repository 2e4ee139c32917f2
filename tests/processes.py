"""`python -m server` as people and platforms run it: a process with an environment of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.logged_secrets import read

ROOT = Path(__file__).parents[1]


# All tests have one address.
UNLIMITED = {
    "rate_limit_cost": "off",
    "rate_limit_address_cost": "off",
    "rate_limit_sign_ups": "off",
    "rate_limit_log_ins": "off",
    "wrong_passwords_address": "1000000",
}


def environment(data: Path, **settings: str) -> dict[str, str]:
    """Nothing of this process's own settings, and no limits unless they are given."""
    clean = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
    # as wide as a pipe's reader likes it
    unlimited = {name.upper(): value for name, value in UNLIMITED.items()}
    return {**clean, "ENGRAM_DATA_DIR": str(data), "COLUMNS": "100", **unlimited, **settings}


def run(data: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the server to its end."""
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        cwd=ROOT, env=environment(data, **settings), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Process(subprocess.Popen[str]):
    """A process whose output goes to files: a pipe that nobody reads would stop it when full."""

    def __init__(self, command: list[str], **options: Any) -> None:
        self._said = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")  # noqa: SIM115  # `communicate` closes them
        out, error = self._said
        super().__init__(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=error, text=True, **options
        )

    def communicate(
        self, input: str | None = None, timeout: float | None = None
    ) -> tuple[str, str]:
        """Its output and its errors, once it has ended; empty when they were asked for before."""
        self.wait(timeout)
        return self._read(0), self._read(1)

    def _read(self, number: int) -> str:
        if self._said[number].closed:
            return ""
        with self._said[number] as file:
            file.seek(0)
            return file.read()


class Serving:
    """`python -m server serve` without a terminal, on a free port unless one is given."""

    def __init__(self, data: Path, root: Path = ROOT, /, **settings: str) -> None:
        settings.setdefault("PORT", str(free_port()))
        self.port = int(settings["PORT"])
        self.process = Process(
            [sys.executable, "-m", "server", "serve"], cwd=root, env=environment(data, **settings)
        )
        self.url = f"http://127.0.0.1:{self.port}"
        limit = time.monotonic() + 60
        while True:
            try:
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            if self.process.poll() is not None or time.monotonic() > limit:
                pytest.fail("\n".join(self.process.communicate()))
            time.sleep(0.05)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.communicate()

    def end(self, name: signal.Signals = signal.SIGINT) -> tuple[int, str, str]:
        """Its exit code, output and errors after a signal."""
        self.process.send_signal(name)
        out, error = self.process.communicate(timeout=30)
        read(error, "a server process")
        return self.process.returncode, out, error


@contextmanager
def serving(data: Path, root: Path = ROOT, /, **settings: str) -> Iterator[Serving]:
    """A server for as long as the block runs."""
    served = Serving(data, root, **settings)
    try:
        yield served
    finally:
        if served.process.returncode is None:
            served.end(signal.SIGTERM)
