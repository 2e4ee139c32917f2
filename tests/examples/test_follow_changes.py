"""`examples/follow_changes.py`: the mirror holds what there is, however often it was killed."""

from __future__ import annotations

import json
import signal
import sqlite3
from pathlib import Path
from typing import Any

from tests.examples.running import Account, Example

CREATE = (
    "mutation($input: CreateProjectInput!)"
    " { made: createProject(input: $input) { project { id } problems { message } } }"
)
RENAME = (
    "mutation($input: UpdateProjectInput!)"
    " { updateProject(input: $input) { project { id } problems { message } } }"
)
DELETE = (
    "mutation($input: DeleteProjectInput!)"
    " { deleteProject(input: $input) { project { id } problems { message } } }"
)
PLAN = (
    "mutation($input: CreateTasksInput!)"
    " { createTasks(input: $input) { tasks { id } problems { message } } }"
)
THERE = """{
    projects(first: 100) { nodes { id name key description version } }
    tasks(first: 1000) { nodes { id title status priority number version } }
}"""


async def project(account: Account, key: str) -> str:
    made = (await account.ask(CREATE, input={"key": key, "name": key}))["made"]
    return str(made["project"]["id"])


async def there(account: Account) -> dict[str, Any]:
    """What the mirror should hold."""
    data = await account.ask(THERE)
    rows = [node for connection in data.values() for node in connection["nodes"]]
    return {row.pop("id"): row for row in rows}


def mirrored(file: Path) -> dict[str, Any]:
    """What it holds."""
    with sqlite3.connect(file) as connection:
        rows = connection.execute("SELECT id, data FROM rows").fetchall()
    connection.close()
    return {identifier: json.loads(data) for identifier, data in rows}


async def test_a_mirror_that_is_killed_goes_on_where_it_was(
    account: Account, tmp_path: Path
) -> None:
    file = tmp_path / "mine.sqlite"
    first, second = await project(account, "ONE"), await project(account, "TWO")
    tasks = [{"projectId": first, "title": f"{n}"} for n in range(600)]
    await account.ask(PLAN, input={"tasks": tasks})
    async with Example("follow_changes.py", account, str(file), data=tmp_path) as mirror:
        await mirror.says("read 602 rows")
        assert mirrored(file) == await there(account)
        third = await project(account, "THREE")
        await mirror.says(f"create {third}")
        await account.ask(RENAME, input={"id": second, "name": "Renamed"})
        await mirror.says(f"update {second}")
        assert mirrored(file) == await there(account)
        mirror.signal(signal.SIGKILL)
    # While nobody looks, rows come, change and go.
    await account.ask(RENAME, input={"id": third, "name": "Renamed"})
    await account.ask(DELETE, input={"id": first})
    fourth = await project(account, "FOUR")
    async with Example("follow_changes.py", account, str(file), data=tmp_path) as mirror:
        await mirror.says("caught up with 603 changes")
        assert mirrored(file) == await there(account)
        await account.ask(DELETE, input={"id": fourth})
        await mirror.says(f"delete {fourth}")
        assert set(mirrored(file)) == {second, third} == set(await there(account))
        mirror.signal(signal.SIGINT)
        assert await mirror.ends() == 0, mirror.lines
    assert mirror.lines[-1] == "stopped; it will go on from here"


async def test_a_mirror_without_its_place_reads_everything_anew(
    account: Account, tmp_path: Path
) -> None:
    file = tmp_path / "mine.sqlite"
    await project(account, "ONE")
    async with Example("follow_changes.py", account, str(file), "--once", data=tmp_path) as mirror:
        assert await mirror.ends() == 0, mirror.lines
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE place SET cursor = 'of another time'")
        connection.execute("DELETE FROM rows")
    connection.close()
    async with Example("follow_changes.py", account, str(file), "--once", data=tmp_path) as mirror:
        assert await mirror.ends() == 0, mirror.lines
    assert mirror.lines[0] == "the feed has lost our place: reading everything anew"
    assert mirrored(file) == await there(account)
    assert len(mirrored(file)) == 1
