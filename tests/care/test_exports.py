"""An export holds all that its owner has, as of one moment, and nothing else."""

from __future__ import annotations

import asyncio
import gzip
import re
import tracemalloc
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy import Column
from sqlalchemy.engine import make_url

from db import exports
from db.embedded import EmbeddedServer
from db.engine import create_engine
from db.models import metadata
from db.repositories import exports as repository
from db.repositories.exports import MAX_ATTEMPTS, MAX_FINISHED, Overtaken, Part
from db.scope import is_owned
from db.session import Author, Session
from server.background import Background
from tests.care.conftest import Place, placed
from tests.care.exporting import (
    EXPORT,
    KEEP,
    ask_for,
    exporter,
    get,
    owner_of,
    read,
    show,
    store_again,
    stored,
)
from tests.conftest import FreshDatabase
from tests.edge.whole import Someone, sign_up
from tests.factories import Factory, store
from tests.processes import Serving

OWNED = [table for table in metadata.sorted_tables if is_owned(table)]
SECRET = re.compile(r"password|secret|salt|(^|_)hash$|(^|_)token$")


async def fill(place: Place, someone: Someone, seed: int) -> Factory:
    """Give somebody rows in every table."""
    factory = Factory(owner_of(someone), seed=seed, marker=f"<{seed}>")
    factory.fill()
    rows = factory.rows
    rows["users"] = []
    (human,) = [row["id"] for row in rows["workers"] if row["kind"] == "human"][:1] or [None]
    async with place.admin.connect() as connection:
        # Theirs from the sign-up makes room for the one of the rows.
        if human is not None:
            await connection.execute(
                sa.text("DELETE FROM workers WHERE owner_id = :id"), {"id": factory.owner_id}
            )
    rows["account_exports"] = [row | {"status": "complete"} for row in rows["account_exports"]]
    await store(place.admin, rows)
    return factory


# By construction.


@pytest.mark.parametrize("table", OWNED, ids=lambda table: table.name)
def test_every_table_is_exported_or_says_why_not(table: sa.Table) -> None:
    reason = table.info["left_out"]
    assert (reason is None) is (table in exports.tables())
    assert reason is None or re.fullmatch(r"[A-Z].{20,}\.", reason)


@pytest.mark.parametrize("table", exports.tables(), ids=lambda table: table.name)
def test_every_column_is_exported_but_secrets_and_what_is_computed(table: sa.Table) -> None:
    left_out = {column.name for column in set(table.c) - set(exports.columns(table))}
    expected = {one.name for one in table.c if is_secret(one) or one.computed is not None}
    assert left_out == expected


def is_secret(column: Column[Any]) -> bool:
    """By its name alone."""
    return SECRET.search(column.name) is not None


def test_a_table_comes_after_those_that_its_keys_name() -> None:
    order = [table.name for table in exports.tables()]
    for table in exports.tables():
        for key in table.foreign_key_constraints:
            if not key.use_alter and key.referred_table is not table:
                assert order.index(key.referred_table.name) < order.index(table.name)


# What is in a file.


async def test_all_rows_of_the_owner_and_no_secrets(place: Place) -> None:
    anna, bert = await sign_up(place.served), await sign_up(place.served)
    await fill(place, anna, seed=1)
    await fill(place, bert, seed=2)
    asked = await ask_for(anna)
    assert asked["status"] == "PENDING"
    expected = await stored(place.admin, owner_of(anna))
    assert await exporter(place.engine, part_bytes=2_000).run() == 1

    done = await show(anna, asked["id"])
    assert (done["status"], done["attempts"]) == ("COMPLETE", 1)
    file = (await get(anna, done["path"])).content
    assert len(file) == int(done["bytes"])
    contents = read(file)
    # What it says of itself came after: an event for each thing that happened to it.
    events = contents.rows["audit_events"]
    assert [one["action"] for one in events if one not in expected["audit_events"]] == ["begin"]
    contents.rows["audit_events"] = [one for one in events if one in expected["audit_events"]]
    assert {name: contents.rows[name] for name in contents.end} == expected
    assert all(expected.values())
    assert int(done["rows"]) == sum(contents.end.values())
    assert contents.head["owner_id"] == str(owner_of(anna))
    text = gzip.decompress(file).decode()
    assert "<2>" not in text
    assert owner_of(bert).hex not in text
    assert str(owner_of(bert)) not in text
    async with place.admin.connect() as connection:
        for table in ("users", "login_sessions", "api_keys"):
            for row in await connection.execute(sa.text(f"SELECT to_jsonb(t) FROM {table} t")):
                for name, value in row[0].items():
                    if SECRET.search(name):
                        assert value.removeprefix("\\x") not in text


async def test_what_is_exported_while_it_changes_can_be_stored_again(
    place: Place, fresh_database: FreshDatabase, server: EmbeddedServer
) -> None:
    anna = await sign_up(place.served)
    await fill(place, anna, seed=3)
    pair = [await a_project(anna, key) for key in ("LEFT", "RIGHT")]
    stop = asyncio.Event()
    writers = [asyncio.create_task(write(place, anna, pair, stop, number)) for number in range(3)]
    files = []
    for _ in range(3):
        asked = await ask_for(anna)
        assert await exporter(place.engine, part_bytes=1).run() == 1
        files.append((await get(anna, asked["path"])).content)
    stop.set()
    written = sum(await asyncio.gather(*writers))
    assert written > 10

    for file in files:
        contents = read(file)
        names = {row["key"]: row["name"] for row in contents.rows["projects"]}
        assert names["LEFT"] == names["RIGHT"]  # they change together
        url = await fresh_database()
        admin = create_engine(server.admin_url(str(make_url(url).database)), pooled=False)
        await store_again(admin, contents)
        assert await stored(admin, owner_of(anna)) == {
            name: contents.rows[name] for name in contents.end
        }


async def test_a_restored_account_gives_the_same_answers(
    place: Place, fresh_database: FreshDatabase, server: EmbeddedServer
) -> None:
    anna = await sign_up(place.served)
    await fill(place, anna, seed=4)
    asked = await ask_for(anna)
    await exporter(place.engine).run()
    contents = read((await get(anna, asked["path"])).content)
    url = await fresh_database()
    admin_url = server.admin_url(str(make_url(url).database))
    async with placed(url, admin_url) as other:
        await store_again(other.admin, contents)
        # Secrets are not exported: this one is let in by hand.
        await let_in(place, other, anna)
        again = Someone(other.served, anna.token)
        assert await again.ask(EVERYTHING) == await anna.ask(EVERYTHING)


EVERYTHING = """{
    viewer { id username email displayName settings version createdAt }
    conversations(first: 12) { totalCount nodes { id title tags metadata
        messages(first: 12) { nodes {
            id role content parent { id } parts { nodes { type text data } }
        } }
    } }
    documents(first: 12) { nodes { id title kind content
        chunks { nodes { id content start end } }
    } }
    projects(first: 12) { nodes { id key name tasks(first: 12) { nodes {
        id number title status priority tags result assignee { id name } parent { id }
    } } } }
    readyTasks(first: 12) { nodes { id } }
}"""


async def let_in(place: Place, other: Place, someone: Someone) -> None:
    """Give login sessions their secrets back."""
    async with place.admin.connect() as connection:
        hashes = (
            await connection.execute(sa.text("SELECT id, token_hash FROM login_sessions"))
        ).all()
    async with other.admin.connect() as connection:
        for identifier, token_hash in hashes:
            await connection.execute(
                sa.text("UPDATE login_sessions SET token_hash = :hash WHERE id = :id"),
                {"hash": token_hash, "id": identifier},
            )


async def a_project(someone: Someone, key: str) -> str:
    data = await someone.ask(
        'mutation($key: String!) { createProject(input: {key: $key, name: "0"})'
        " { project { id } problems { message } } }",
        key=key,
    )
    identifier: str = data["createProject"]["project"]["id"]
    return identifier


async def write(
    place: Place, someone: Someone, pair: Sequence[str], stop: asyncio.Event, number: int
) -> int:
    """Tasks below tasks, and two projects whose names change in one transaction."""
    count = 0
    parent: str | None = None
    rename = sa.text(
        "UPDATE projects SET name = :name"
        " WHERE projects.owner_id = :owner_id AND key IN ('LEFT', 'RIGHT')"
    )
    while not stop.is_set():
        data = await someone.ask(
            "mutation($input: CreateTaskInput!) { createTask(input: $input)"
            " { task { id } problems { message } } }",
            input={"projectId": pair[0], "title": f"{number}", "parentId": parent},
        )
        parent = data["createTask"]["task"]["id"] if count % 7 else None
        async with Session(place.engine, owner_of(someone)) as session, session.transaction():
            await session.execute(rename, {"name": f"{number}.{count}"})
        count += 1
    return count


async def test_a_large_account_needs_little_memory(place: Place) -> None:
    """The texts are 48 MB together, and one by one they are small enough."""
    anna = await sign_up(place.served)
    async with place.admin.connect() as connection:
        await connection.execute(
            sa.text(
                "INSERT INTO documents (owner_id, title, content, content_sha256)"
                " SELECT :id, 'd', repeat(md5(n::text), 15000), sha256('') "
                " FROM generate_series(1, 100) n"
            ),
            {"id": owner_of(anna)},
        )
    asked = await ask_for(anna)
    writing = exporter(place.engine, part_bytes=1_000_000)
    tracemalloc.start()
    try:
        assert await writing.run() == 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    file = (await get(anna, asked["path"])).content
    assert len(gzip.decompress(file)) > 48_000_000
    assert peak < 24_000_000


# Who writes it.


async def begun(place: Place, owner_id: UUID) -> tuple[Session, UUID]:
    """A session of an export's owner, and the export."""
    async with Session(place.engine, None) as session:
        ((found, export_id),) = await repository.due(session, 10)
    assert found == owner_id
    return Session(place.engine, owner_id, author=Author("user", owner_id, "test")), export_id


async def lapse(place: Place) -> None:
    """Let all leases end."""
    async with place.admin.connect() as connection:
        await connection.execute(sa.text("UPDATE account_exports SET lease_expires_at = now()"))


async def test_one_process_at_a_time_and_the_slow_one_leaves_nothing(place: Place) -> None:
    anna = await sign_up(place.served)
    asked = await ask_for(anna)
    session, export_id = await begun(place, owner_of(anna))
    async with session:
        async with session.transaction():
            first = await repository.claim(session, export_id)
        assert first is not None
        async with session.transaction():
            assert await repository.claim(session, export_id) is None
        assert await exporter(place.engine).run() == 0
        await lapse(place)
        async with session.transaction():
            await repository.append(session, first, Part(0, 0, 1), b"x", 1)
        await lapse(place)
        assert await exporter(place.engine).run() == 1
        with pytest.raises(Overtaken):
            async with session.transaction():
                await repository.append(session, first, Part(1, 1, 1), b"x", 1)
        with pytest.raises(Overtaken):
            async with session.transaction():
                await repository.complete(session, first, datetime.now(UTC), KEEP)
    done = await show(anna, asked["id"])
    assert (done["status"], done["attempts"]) == ("COMPLETE", 2)
    read((await get(anna, done["path"])).content)


async def test_what_keeps_failing_is_given_up(place: Place) -> None:
    anna = await sign_up(place.served)
    asked = await ask_for(anna)
    session, export_id = await begun(place, owner_of(anna))
    async with session:
        for number in range(MAX_ATTEMPTS):
            await lapse(place)
            async with session.transaction():
                attempt = await repository.claim(session, export_id)
            assert attempt is not None
            assert attempt.number == number + 1
    await lapse(place)
    assert await exporter(place.engine).run() == 0
    failed = await show(anna, asked["id"])
    assert failed["status"] == "FAILED"
    assert (await get(anna, failed["path"])).status_code == 404
    assert (await ask_for(anna))["id"] != asked["id"]


async def many_messages(place: Place, someone: Someone) -> None:
    """As many as take a while to write."""
    async with place.admin.connect() as connection:
        for statement in (
            "INSERT INTO conversations (owner_id) VALUES (:id)",
            "INSERT INTO messages (owner_id, conversation_id, depth, role, content)"
            " SELECT owner_id, id, 0, 'user', repeat(md5(n::text), 100)"
            " FROM conversations, generate_series(1, 8000) n WHERE owner_id = :id",
        ):
            await connection.execute(sa.text(statement), {"id": owner_of(someone)})


async def test_a_process_that_stops_leaves_its_export_to_others_at_once(place: Place) -> None:
    anna = await sign_up(place.served)
    await many_messages(place, anna)
    asked = await ask_for(anna)
    work = Background("exports", exporter(place.engine, 10_000).run, every_seconds=3_600)
    work.start()
    await until_rows(anna, asked["id"])
    await work.stop()
    left = await show(anna, asked["id"])
    assert (left["status"], left["attempts"]) == ("RUNNING", 1)
    assert (await get(anna, left["path"])).status_code == 409
    assert await exporter(place.engine).run() == 1
    done = await show(anna, asked["id"])
    assert (done["status"], done["attempts"]) == ("COMPLETE", 2)
    contents = read((await get(anna, done["path"])).content)
    assert contents.end["messages"] == 8_000


async def until_rows(someone: Someone, identifier: str) -> None:
    """Wait until an export holds something."""
    async with asyncio.timeout(20):
        while (await show(someone, identifier))["rows"] == "0":  # noqa: ASYNC110  # it is elsewhere
            await asyncio.sleep(0.01)


async def test_after_kill_9_another_process_writes_it(place: Place, tmp_path: Path) -> None:
    """Of two servers on one database the one that writes is killed; the lease ends by hand."""
    anna = await sign_up(place.served)
    await many_messages(place, anna)
    async with place.admin.connect() as connection:
        await connection.execute(
            sa.text(
                "INSERT INTO documents (owner_id, title, content, content_sha256)"
                " SELECT :id, 'd', md5(random()::text) || repeat('x', 1000000), sha256('')"
                " FROM generate_series(1, 80)"
            ),
            {"id": owner_of(anna)},
        )
    loop = asyncio.get_running_loop()
    settings = {"DATABASE_URL": place.url, "LOG_LEVEL": "error"}
    first = await loop.run_in_executor(None, partial(Serving, tmp_path, **settings))
    asked = await ask_for(anna)
    try:
        await until_rows(anna, asked["id"])
    finally:
        first.process.kill()
        first.process.communicate()
    left = await show(anna, asked["id"])
    assert (left["status"], left["attempts"]) == ("RUNNING", 1)
    assert (await get(anna, left["path"])).status_code == 409
    async with place.admin.connect() as connection:
        kept = await connection.scalar(sa.text("SELECT count(*) FROM account_export_parts"))
        assert kept > 0
    second = await loop.run_in_executor(None, partial(Serving, tmp_path, **settings))
    try:
        await lapse(place)
        async with asyncio.timeout(60):
            while (await show(anna, asked["id"]))["status"] != "COMPLETE":  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    finally:
        second.end()
    done = await show(anna, asked["id"])
    assert done["attempts"] == 2
    contents = read((await get(anna, done["path"])).content)
    assert (contents.end["messages"], contents.end["documents"]) == (8_000, 80)


# Who asks for it.


async def test_one_export_at_a_time(place: Place) -> None:
    anna, bert = await sign_up(place.served), await sign_up(place.served)
    asked = await asyncio.gather(*(ask_for(anna) for _ in range(8)))
    assert len({export["id"] for export in asked}) == 1
    assert (await ask_for(bert))["id"] != asked[0]["id"]
    assert await exporter(place.engine).run() == 2


async def test_an_export_asked_for_again_under_its_key_is_the_same(place: Place) -> None:
    anna = await sign_up(place.served)
    first = await anna.ask(EXPORT, input={"idempotencyKey": "k"})
    await exporter(place.engine).run()
    assert await anna.ask(EXPORT, input={"idempotencyKey": "k"}) == first
    assert (await ask_for(anna))["id"] != first["exportAccount"]["accountExport"]["id"]


async def test_of_too_many_the_oldest_expires(place: Place) -> None:
    anna = await sign_up(place.served)
    paths = []
    for _ in range(MAX_FINISHED + 1):
        paths.append((await ask_for(anna))["path"])
        assert await exporter(place.engine).run() == 1
    statuses = [(await get(anna, path)).status_code for path in paths]
    assert statuses == [404, *[200] * MAX_FINISHED]


async def test_a_key_needs_both_scopes(place: Place) -> None:
    anna = await sign_up(place.served)
    path = (await ask_for(anna))["path"]
    await exporter(place.engine).run()
    for scopes, code, status in (
        (["ACCOUNT"], "FORBIDDEN", 403),
        (["READ"], "FORBIDDEN", 403),
        (["READ", "ACCOUNT"], None, 200),
    ):
        made = await anna.ask(
            'mutation($s: [ApiKeyScope!]!) { createApiKey(input: {name: "k", scopes: $s})'
            " { token problems { message } } }",
            s=scopes,
        )
        program = Someone(anna.served, made["createApiKey"]["token"])
        assert (await get(program, path)).status_code == status
        answer = (await program.execute(EXPORT))["data"]["exportAccount"]
        assert [one["code"] for one in answer["problems"]] == ([code] if code else [])
