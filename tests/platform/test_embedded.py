"""The embedded server: shared, stopped by the last, and not fooled by what a crash left behind."""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from db.embedded import EmbeddedServer, EmbeddedServerError
from db.embedded_host import SystemUser, open_way_for

ROOT = Path(__file__).parents[2]
# Starts or joins, says what it sees, waits for a line, leaves.
USER = """
import os, sys
from pathlib import Path
from db.embedded import EmbeddedServer
server = EmbeddedServer.start(Path(sys.argv[1]), durable=False)
print(server.sql("SELECT count(*) FROM pg_database WHERE datname = 'engram'"), flush=True)
if sys.stdin.readline() == "die\\n":
    os._exit(9)
server.stop()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory for data; pytest's own cannot be entered by another user."""
    folder = Path(tempfile.mkdtemp(prefix="engram-embedded-"))
    folder.chmod(0o755)
    yield folder
    for file in folder.rglob("postmaster.pid"):
        os.kill(int(file.read_text().split()[0]), signal.SIGQUIT)
    shutil.rmtree(folder)


def user(data: Path, *prefix: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", USER, str(data)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )  # fmt: skip


def leave(process: subprocess.Popen[str], word: str = "bye") -> tuple[str, str]:
    return process.communicate(f"{word}\n", timeout=60)


def postmaster(data: Path) -> int:
    return int((data / "postgres/postmaster.pid").read_text().split()[0])


def test_several_starts_share_one_server_and_the_last_stops_it(folder: Path) -> None:
    users = [user(folder) for _ in range(3)]
    for process in users:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
    pid = postmaster(folder)
    for process in users:
        assert psutil.pid_exists(pid)
        leave(process)
        assert process.returncode == 0
    assert not (folder / "postgres/postmaster.pid").exists()


def test_a_second_start_finds_the_data_again(folder: Path) -> None:
    with EmbeddedServer.start(folder, durable=False) as server:
        server.sql("CREATE TABLE kept AS SELECT 'ü' AS word", database="engram")
        version, locale = server.sql(
            "SELECT current_setting('server_version_num')::int / 10000, datlocale"
            " FROM pg_database WHERE datname = 'engram'"
        ).split("|")
        assert (version, locale) == ("18", "C.UTF-8")
    with EmbeddedServer.start(folder, durable=False) as server:
        assert server.sql("SELECT upper(word) FROM kept", database="engram") == "Ü"


def test_the_owner_is_what_a_platform_hands_out(folder: Path) -> None:
    with EmbeddedServer.start(folder, durable=False) as server:
        role = server.sql(
            "SELECT rolcanlogin, rolcreaterole, rolsuper, rolbypassrls"
            " FROM pg_roles WHERE rolname = 'engram_owner'"
        )
        assert role == "t|t|f|f"
        assert "engram_owner@/engram?host=" in server.url()
        assert server.sql("SHOW listen_addresses") == ""


def test_a_server_left_behind_by_a_killed_process_is_used_and_stopped(folder: Path) -> None:
    leave(user(folder), "die")
    pid = postmaster(folder)
    assert psutil.pid_exists(pid)
    process = user(folder)
    assert process.stdout is not None
    process.stdout.readline()
    assert postmaster(folder) == pid
    leave(process)
    assert not (folder / "postgres/postmaster.pid").exists()


def is_zombie(pid: int) -> bool:
    """Whether a process has ended and nobody has asked how."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_a_stale_pid_that_another_process_has_got_is_no_obstacle(folder: Path) -> None:
    leave(user(folder), "die")
    file = folder / "postgres/postmaster.pid"
    lines = file.read_text().splitlines()
    os.kill(int(lines[0]), signal.SIGKILL)
    while psutil.pid_exists(int(lines[0])) and not is_zombie(int(lines[0])):
        time.sleep(0.01)
    file.write_text("\n".join([str(os.getpid()), *lines[1:]]))
    with EmbeddedServer.start(folder, durable=False) as server:
        assert server.sql("SELECT 1") == "1"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root lets others pass")
def test_root_lets_only_the_system_user_pass_through_what_is_closed(folder: Path) -> None:
    folder.chmod(0o700)
    data = folder / "data"
    with EmbeddedServer.start(data, durable=False) as server:
        assert server.sql("SELECT 1") == "1"
        uid = (data / "postgres").stat().st_uid
    mode = folder.stat().st_mode
    assert mode & 0o707 == 0o700
    assert _can_enter(data, uid)
    assert not _can_enter(data, uid + 1)
    open_way_for(SystemUser(uid, uid, switched=True), data)
    assert folder.stat().st_mode == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root lets others pass")
def test_what_cannot_be_opened_for_one_is_not_opened_for_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    folder.chmod(0o700)
    with pytest.raises(EmbeddedServerError, match=rf"chmod o\+x {folder}\.$"):
        EmbeddedServer.start(folder, durable=False)
    assert folder.stat().st_mode & 0o777 == 0o700


def _can_enter(folder: Path, uid: int) -> bool:
    looking = ["/usr/bin/test", "-e", str(folder / "start.lock")]
    return subprocess.run(looking, user=uid, group=uid, extra_groups=()).returncode == 0


def test_an_interrupted_initdb_is_started_over(folder: Path) -> None:
    (folder / "postgres.new").mkdir()
    (folder / "postgres.new/PG_VERSION").write_text("18")
    with EmbeddedServer.start(folder, durable=False) as server:
        assert server.sql("SELECT 1") == "1"


@pytest.mark.parametrize("name", ["d" * 120, 'it\'s "quoted", $HOME `x` \\', "ünï code"])
def test_any_path_will_do(folder: Path, name: str) -> None:
    data = folder / name
    with EmbeddedServer.start(data, durable=False) as server:
        assert server.sql("SELECT 1") == "1"
        assert len(os.fsencode(server.socket)) < 104


def test_data_of_another_major_version_is_refused(folder: Path) -> None:
    (folder / "postgres").mkdir()
    (folder / "postgres/PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedServerError, match="made by PostgreSQL 16"):
        EmbeddedServer.start(folder, durable=False)


def test_a_data_directory_used_out_of_sight_is_refused(folder: Path) -> None:
    """As from another container: the lock is held, but there is no server to be seen."""
    process = user(folder)
    assert process.stdout is not None
    process.stdout.readline()
    (folder / "postgres/postmaster.pid").rename(folder / "hidden.pid")
    try:
        with pytest.raises(EmbeddedServerError, match="in use"):
            EmbeddedServer.start(folder, durable=False)
    finally:
        (folder / "hidden.pid").rename(folder / "postgres/postmaster.pid")
        leave(process)


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(folder: Path) -> None:
    with EmbeddedServer.start(folder, durable=False):
        pid = postmaster(folder)
        assert os.getsid(pid) != os.getsid(0)
        assert os.getpgid(pid) != os.getpgid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_plain_user_needs_no_help_and_does_not_get_at_the_data_of_others(folder: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    become = ("setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups")
    probe = [*become, sys.executable, "-c", "import db.embedded"]
    if shutil.which("setpriv") is None or subprocess.run(probe, cwd=ROOT, check=False).returncode:
        pytest.skip("another user cannot read this checkout")
    mine, others = folder / "mine", folder / "others"
    mine.mkdir()
    os.chown(mine, nobody.pw_uid, nobody.pw_gid)
    out, error = leave(user(mine, *become))
    assert (out, error) == ("1\n", "")
    assert (mine / "postgres").stat().st_uid == nobody.pw_uid
    with EmbeddedServer.start(others, durable=False):
        assert (others / "postgres").stat().st_uid not in {0, nobody.pw_uid}
        assert (others / "run").stat().st_mode & 0o777 == 0o700
        _, error = leave(user(others, *become))
    assert "belongs to another user" in error
