"""The commands of docs/backup.md: a dump under load, an empty server, the same answers."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from db.embedded import EmbeddedServer
from db.embedded_host import binaries
from tests.care.conftest import Place, placed
from tests.care.test_exports import EVERYTHING, a_project, fill
from tests.docs.pages import ROOT, page
from tests.edge.whole import Someone, sign_up
from tests.processes import run

PAGE = page("docs/backup.md")
CREATE = """mutation($input: CreateTaskInput!) {
    createTask(input: $input) { task { id } problems { message } }
}"""
TASKS = """query($after: String) { tasks(first: 1000, after: $after) {
    nodes { id title } pageInfo { hasNextPage endCursor }
} }"""
COUNT_ON = """
    DO 'BEGIN FOR n IN 1..20000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END'
"""
FEED = """query($after: String) { changes(first: 1000, after: $after) {
    nodes { cursor entityId action version } latestCursor
} }"""


def commands(name: str) -> str:
    """The commands of the page under a name."""
    (found,) = re.findall(rf"```sh\n# {name}\n(.*?)```", PAGE, re.DOTALL)
    return str(found).replace(".venv/bin/python", sys.executable)


def shell(
    script: str, folder: Path, *, fails: bool = False, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run commands as a person would, with PostgreSQL's programs at hand."""
    clean = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    path = f"{binaries()}:{os.environ['PATH']}"
    (folder / "run").mkdir(exist_ok=True)
    done = subprocess.run(
        ["sh", "-euc", script],
        cwd=folder, env={**clean, "PATH": path, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode != 0) is fails, done.stdout + done.stderr
    return done


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A server with nothing on it: no role of ours, no database."""
    with EmbeddedServer.start(tmp_path / "new", durable=False) as server:
        server.drop_database("engram")
        server.sql("DROP ROLE engram_owner")
        yield server


async def write(someone: Someone, project: str, kept: list[str], stop: asyncio.Event) -> None:
    """Tasks, each acknowledged before the next."""
    while not stop.is_set():
        title = f"task {len(kept)}"
        data = await someone.ask(CREATE, input={"projectId": project, "title": title})
        kept.append(data["createTask"]["task"]["id"])


async def all_tasks(someone: Someone) -> list[str]:
    found: list[str] = []
    after: str | None = None
    while True:
        data = (await someone.ask(TASKS, after=after))["tasks"]
        found += [node["id"] for node in data["nodes"]]
        after = data["pageInfo"]["endCursor"]
        if not data["pageInfo"]["hasNextPage"]:
            return found


async def in_thread(*arguments: Any, **named: Any) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(shell, *arguments, **named)


async def test_dumped_under_load_and_restored_on_an_empty_server(
    place: Place, server: EmbeddedServer, empty: EmbeddedServer, tmp_path: Path
) -> None:
    anna, bert = await sign_up(place.served), await sign_up(place.served)
    await fill(place, anna, seed=5)
    # So that this server has counted further than the new one ever will here.
    async with place.admin.connect() as connection:
        await connection.execute(sa.text(COUNT_ON))
    await place.settled()
    answer, feed = await anna.ask(EVERYTHING), await anna.ask(FEED)
    project = await a_project(bert, "LOAD")
    kept: list[str] = []
    stop = asyncio.Event()
    writers = [asyncio.create_task(write(bert, project, kept, stop)) for _ in range(3)]
    while len(kept) < 20:  # noqa: ASYNC110  # the writers wait for answers
        await asyncio.sleep(0.01)

    acknowledged = list(kept)
    admin_url = server.admin_url(str(make_url(place.url).database))
    await in_thread(commands("dump"), tmp_path, ADMIN_URL=admin_url)
    after_dump = len(kept)
    stop.set()
    await asyncio.gather(*writers)
    assert after_dump > len(acknowledged)  # they wrote through the dump
    await place.settled()
    at_the_end = (await bert.ask(FEED))["changes"]["latestCursor"]

    new = {"NEW_SERVER_URL": empty.admin_url(), "NEW_URL": empty.url()}
    restoring = commands("restore")
    migrating = restoring.splitlines()[-1]
    assert "server migrate" in migrating
    await in_thread(
        restoring.replace(migrating, ""), tmp_path, NEW_ADMIN_URL=empty.admin_url("engram"), **new
    )
    too_early = await asyncio.to_thread(run, tmp_path, "serve", DATABASE_URL=empty.url())
    assert too_early.returncode == 1
    assert "brought here from another PostgreSQL server" in too_early.stderr
    await in_thread(migrating, tmp_path, **new)
    checked = await in_thread(commands("check"), tmp_path, **new)
    assert checked.stdout == ""

    async with placed(empty.url(), empty.admin_url("engram")) as restored:
        again = Someone(restored.served, anna.token)
        assert await again.ask(EVERYTHING) == answer
        assert await again.ask(FEED) == feed
        writer = Someone(restored.served, bert.token)
        found = await all_tasks(writer)
        assert set(acknowledged) <= set(found) <= set(kept)
        assert len(found) == len(set(found))
        # What the dump has not is known to be missing: the cursor is no good.
        refused = await writer.execute(FEED, after=at_the_end)
        assert refused["errors"][0]["extensions"] == {"code": "BAD_CURSOR"}
        # The feed goes on, after all that was in it.
        before = (await writer.ask(FEED))["changes"]
        assert len(before["nodes"]) > len(found)
        data = await writer.ask(CREATE, input={"projectId": project, "title": "new"})
        await restored.settled()
        (change,) = [
            node
            for node in (await writer.ask(FEED, after=before["latestCursor"]))["changes"]["nodes"]
            if node["entityId"] == data["createTask"]["task"]["id"]
        ]
        assert change["action"] == "create"
    # Once is enough, and done again it changes nothing.
    offset = empty.sql("SELECT engram_feed_offset()", database="engram")
    assert int(offset) > 20_000
    await in_thread(migrating, tmp_path, **new)
    assert empty.sql("SELECT engram_feed_offset()", database="engram") == offset


@pytest.mark.parametrize("role", ["engram_owner", "engram_app"])
async def test_a_role_that_is_bound_gets_no_dump_rather_than_half_a_one(
    place: Place, server: EmbeddedServer, tmp_path: Path, role: str
) -> None:
    await sign_up(place.served)
    url = server.admin_url(str(make_url(place.url).database))
    dumping = commands("dump").replace("pg_dump ", f"pg_dump --role={role} ")
    refused = await in_thread(dumping, tmp_path, fails=True, ADMIN_URL=url)
    assert "row-level security" in refused.stderr or "permission denied" in refused.stderr
