"""A Redis of a test's own, where one is installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REDIS = shutil.which("redis-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextmanager
def running(folder: Path, name: str = "redis") -> Iterator[str]:
    """The URL of a Redis that listens on a socket in a folder; it keeps nothing."""
    assert REDIS is not None
    path = folder / f"{name}.sock"
    process = subprocess.Popen(
        [REDIS, "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    try:
        limit = time.monotonic() + 20
        while not answers(path):
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.02)
        yield f"unix://{path}"
    finally:
        process.kill()
        process.wait()
        path.unlink(missing_ok=True)


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
            probe.sendall(b"PING\r\n")
            return probe.recv(16).startswith(b"+PONG")
        except OSError:
            return False
