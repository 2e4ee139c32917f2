"""The example of docs/migrations.md under load: no request fails, and none is kept waiting."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from time import monotonic

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

import db.migrate
from db.engine import create_engine
from db.migrate import ROOT, current_revision, downgrade, head_revision, serves, upgrade
from tests.care.conftest import Place
from tests.care.expanding import REQUIRED, STEPS, VERSIONS, ahead, upgrade_ahead, write_example
from tests.care.exporting import owner_of
from tests.care.test_exports import a_project
from tests.edge.whole import Someone, sign_up
from tests.processes import serving
from tests.structure.migration_rules import config, lint

CREATE = """mutation($input: CreateTaskInput!) {
    createTask(input: $input) { task { id version } problems { code } }
}"""
UPDATE = """mutation($input: UpdateTaskInput!) {
    updateTask(input: $input) { task { version } problems { code } }
}"""
READ = """query($id: ID!) { project(id: $id) { tasks(last: 20) { totalCount nodes { title } } } }"""
# Some of the tests of the code before the example, on what the example leaves.
SUBSET = ("tests/work/test_tasks.py", "tests/work/test_claims.py")


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """A folder with the revisions of the page."""
    folder = tmp_path / "versions"
    folder.mkdir()
    write_example(folder)
    return folder


async def many_tasks(place: Place, someone: Someone, count: int) -> str:
    """A project with tasks."""
    project = await a_project(someone, "MANY")
    async with place.admin.connect() as connection:
        await connection.execute(
            sa.text(
                "INSERT INTO tasks (owner_id, project_id, number, title, created_by_id, priority)"
                " SELECT p.owner_id, p.id, n, 'task', w.id, n % 5"
                " FROM generate_series(1, :count) n, projects p"
                " JOIN workers w ON w.owner_id = p.owner_id WHERE p.owner_id = :id"
            ),
            {"count": count, "id": owner_of(someone)},
        )
        await connection.execute(sa.text("UPDATE projects SET next_number = 1000000"))
    return project


async def load(someone: Someone, project: str, stop: asyncio.Event) -> int:
    """Create, change and read, until told to stop; every answer must be good."""
    rounds = 0
    while not stop.is_set():
        made = await someone.ask(CREATE, input={"projectId": project, "title": "new"})
        task = made["createTask"]["task"]
        change = {"id": task["id"], "expectedVersion": task["version"], "priority": 4}
        changed = await someone.ask(UPDATE, input=change)
        assert changed["updateTask"]["task"]["version"] == task["version"] + 1
        read = await someone.ask(READ, id=project)
        assert read["project"]["tasks"]["totalCount"] > rounds
        rounds += 1
    return rounds


def test_the_example_keeps_the_rules(example: Path) -> None:
    assert lint(config(VERSIONS, example)) == {}


async def test_no_request_fails_while_the_example_is_migrated(place: Place, example: Path) -> None:
    people = [await sign_up(place.served) for _ in range(3)]
    projects = [await many_tasks(place, one, 3_000) for one in people]
    stop = asyncio.Event()
    running = [
        asyncio.create_task(load(*pair, stop)) for pair in zip(people, projects, strict=True)
    ]
    try:
        with ahead(example):
            await upgrade(place.url, REQUIRED)
    finally:
        stop.set()
        rounds = await asyncio.gather(*running)
    assert min(rounds) > 0
    async with place.admin.connect() as connection:
        facts = (
            await connection.execute(
                sa.text(
                    "SELECT count(*), count(*) FILTER (WHERE effort = 1 + n.priority),"
                    " (SELECT attnotnull FROM pg_attribute WHERE attname = 'effort'"
                    "  AND attrelid = 'tasks'::regclass),"
                    " (SELECT indisvalid FROM pg_index"
                    "  WHERE indexrelid = 'ix_tasks_by_effort'::regclass)"
                    " FROM tasks n WHERE title = 'task'"
                )
            )
        ).one()
    assert tuple(facts) == (9_000, 9_000, True, True)
    # The code before it, here, goes on: it says nothing of an effort.
    await load_once(people[0], projects[0])
    with ahead(example):
        await upgrade(place.url)
    async with place.admin.connect() as connection:
        with pytest.raises(DBAPIError, match="effort"):
            await connection.execute(
                sa.text(
                    "INSERT INTO tasks (owner_id, project_id, number, title, created_by_id)"
                    " SELECT owner_id, project_id, 7000000, 't', created_by_id FROM tasks LIMIT 1"
                )
            )


async def load_once(someone: Someone, project: str) -> None:
    made = await someone.ask(CREATE, input={"projectId": project, "title": "once"})
    assert made["createTask"]["task"]


async def test_a_migration_that_has_to_wait_keeps_nobody_waiting(
    place: Place, example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody reads a table for long. The column cannot be added; whoever comes later is served.

    They are seen to wait behind the migration, and to go on while it has not got its lock.
    """
    monkeypatch.setattr(db.migrate, "PAUSE_SECONDS", 0.01)
    anna = await sign_up(place.served)
    project = await many_tasks(place, anna, 1)
    reader = create_engine(place.url, pooled=False)
    async with reader.connect() as long:
        await long.execution_options(isolation_level="READ COMMITTED")
        await long.execute(sa.text("SELECT count(*) FROM tasks"))  # its lock lasts
        with ahead(example):
            migrating = asyncio.create_task(upgrade(place.url, STEPS["expand"]))
            waited = 0
            until = monotonic() + 20
            while waited < 3 and monotonic() < until:
                if await waits_for_tasks(place):
                    # Now it stands in the queue, and this one behind it.
                    await load_once(anna, project)
                    waited += 1
            assert waited == 3
            assert not migrating.done()
            await long.rollback()
            await migrating
    async with place.admin.connect() as connection:
        assert await current_revision(connection) == STEPS["expand"]


async def waits_for_tasks(place: Place) -> bool:
    """Whether somebody waits for the strongest lock on the tasks."""
    waiting = sa.text(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'tasks'::regclass"
        " AND mode = 'AccessExclusiveLock' AND NOT granted)"
    )
    async with place.admin.connect() as connection:
        return bool(await connection.scalar(waiting))


async def test_what_takes_long_locks_nobody_out(place: Place, example: Path) -> None:
    """Making the index, filling and validating go on beside a transaction that has changed rows."""
    anna = await sign_up(place.served)
    await many_tasks(place, anna, 10)
    writer = create_engine(place.url, pooled=False)
    with ahead(example):
        await upgrade(place.url, STEPS["index"])
        async with writer.connect() as other:
            await other.execution_options(isolation_level="READ COMMITTED")
            mine = {"id": str(owner_of(anna))}
            await other.execute(sa.text("SELECT set_config('app.owner_id', :id, true)"), mine)
            changed = sa.text("UPDATE tasks SET title = 'held' WHERE number = 1 RETURNING id")
            assert (await other.execute(changed)).all()
            await upgrade(place.url, STEPS["fill"])  # skips the row
            await other.commit()
        # The row that was skipped is found out, and nothing is half done.
        with pytest.raises(DBAPIError, match="ck_tasks_effort_is_there"):
            await upgrade(place.url, REQUIRED)
        async with place.admin.connect() as connection:
            assert await current_revision(connection) == STEPS["check"]
        # As the page says.
        await downgrade(place.url, STEPS["index"])
        await upgrade(place.url, REQUIRED)


async def test_servers_of_before_start_and_are_ready_on_what_comes_after(
    place: Place, tmp_path: Path
) -> None:
    await upgrade_ahead(place.url)
    assert (await place.served.client.get("/readyz")).status_code == 200
    assert head_revision() != REQUIRED

    def starts() -> None:
        with serving(tmp_path, DATABASE_URL=place.url):
            pass  # it has said that it is ready

    await asyncio.to_thread(starts)
    assert serves(REQUIRED)
    assert serves(head_revision())
    assert not serves("907a6b9c4872")
    assert not serves(None)
    # As a release does that goes back to the code before: there is nothing to do.
    await upgrade(place.url)
    async with place.admin.connect() as connection:
        assert await current_revision(connection) == REQUIRED


def test_the_code_before_passes_its_tests_on_what_comes_after() -> None:
    """Here the code is what came before the example: no history is needed to have both."""
    plugins = ("-p", "tests.care.expanding", "-p", "no:cacheprovider")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, "-n", "0", *SUBSET],
        cwd=ROOT, env={**os.environ, "PYTEST_XDIST_TESTRUNUID": f"ahead{os.getpid()}"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5_000:]
