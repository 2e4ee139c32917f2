"""The data set in a PostgreSQL of its own: loaded by COPY once, used again by later runs.

The server is the embedded one, in `.engram-bench/`, apart from any other. It does not wait for the
disk: every peer writes to the same one, and its speed is not what is compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any
from uuid import UUID

import asyncpg

from benchmarks.shape import END, LONG, MEASURED, WRITERS, Line, Rows, Shape
from db import tokens
from db.embedded import EmbeddedServer
from db.migrate import upgrade

HOME = Path(__file__).parents[1] / ".engram-bench"
LAYOUT = 3
"""Raised when the rows change, so that an older data set is not taken for this one."""
PEER_ROLE = "bench_peer"
"""Who the peers without row-level security log in as: they name the owner in every statement."""

# What a small dedicated server would have; and no autovacuum that falls on somebody's round.
SETTINGS = {
    "shared_buffers": "1GB",
    "maintenance_work_mem": "512MB",
    "max_wal_size": "8GB",
    "autovacuum": "off",
}
COLUMNS = {
    "users": "id, username, email, password_hash",
    "messages": "owner_id, id, conversation_id, parent_id, depth, role, status, content,"
    " created_at, updated_at",
    "conversations": "owner_id, id, title, last_message_at, active_leaf_id, created_at, updated_at",
    "projects": "owner_id, id, key, name, next_number, created_at, updated_at",
    "workers": "owner_id, id, name, kind",
    "tasks": "owner_id, id, project_id, number, parent_id, created_by_id, title, status, priority,"
    " created_at, updated_at",
}
# Keys are several columns, and the planner takes columns for independent unless it is told. Some
# peers join by all of them.
STATISTICS = """
CREATE STATISTICS bench_tasks (dependencies)
    ON owner_id, project_id, parent_id FROM tasks;
CREATE STATISTICS bench_messages (dependencies)
    ON owner_id, conversation_id, parent_id FROM messages;
"""
MESSAGE = f"SELECT id FROM messages WHERE conversation_id = $1 AND depth = {LONG // 2 - 1}"
TASK = f"SELECT id FROM tasks WHERE project_id = $1 AND number = {LONG // 2}"
WRITTEN = ("audit_events", "idempotency_keys")
LINES_AT_ONCE = 2_000


@dataclass(frozen=True)
class Person:
    """Someone whose data is asked for, and the rows the workloads start from."""

    owner: str
    token: str
    conversation: str | None = None
    long_conversation: str | None = None
    middle_message: str | None = None
    long_project: str | None = None
    middle_task: str | None = None


@dataclass(frozen=True)
class Dataset:
    """A loaded database and where it is."""

    server: EmbeddedServer
    name: str
    messages: int
    readers: tuple[Person, ...]
    writers: tuple[Person, ...]

    @property
    def url(self) -> str:
        """As the tables' owner: what a platform would hand out."""
        return self.server.url(self.name)

    @property
    def postmaster(self) -> int:
        """The process id of the server, whose children are all of PostgreSQL."""
        pid_file = HOME / "data" / "postgres" / "postmaster.pid"
        return int(pid_file.read_text().split("\n", 1)[0])

    async def forget_writes(self) -> None:
        """Remove what the inserts added, and vacuum, so that every round starts alike."""
        owners = [UUID(person.owner) for person in self.writers]
        connection = await asyncpg.connect(self.server.admin_url(self.name))
        try:
            await connection.execute(
                "DELETE FROM conversations WHERE owner_id = ANY($1) AND created_at > $2",
                owners,
                END,
            )
            for table in WRITTEN:
                await connection.execute(f"DELETE FROM {table} WHERE owner_id = ANY($1)", owners)
            await connection.execute("VACUUM (ANALYZE) conversations")
            for table in WRITTEN:
                await connection.execute(f"VACUUM (ANALYZE) {table}")
        finally:
            await connection.close()


@contextmanager
def server() -> Iterator[EmbeddedServer]:
    """The PostgreSQL of the benchmarks, for as long as the block runs."""
    HOME.mkdir(exist_ok=True)
    started = EmbeddedServer.start(HOME / "data", durable=False)
    try:
        if started.sql("SHOW autovacuum") != "off":
            for name, value in SETTINGS.items():
                started.sql(f"ALTER SYSTEM SET {name} = '{value}'")
            started.stop()
            started = EmbeddedServer.start(HOME / "data", durable=False)
        yield started
    finally:
        started.stop()


async def load(server: EmbeddedServer, messages: int = 1_000_000) -> Dataset:
    """The data set with so many messages, made on first use (a minute for a million)."""
    shape = Shape(messages)
    name = f"bench_{messages}"
    facts = HOME / f"{name}.json"
    made_of = {"layout": LAYOUT, "migrations": _migrations(), "messages": messages}
    if not (facts.exists() and (found := json.loads(facts.read_text()))["made_of"] == made_of):
        facts.unlink(missing_ok=True)
        found = {"made_of": made_of, **await _build(server, name, shape)}
        facts.write_text(json.dumps(found, indent=1))
    readers = tuple(Person(**person) for person in found["readers"])
    writers = tuple(Person(**person) for person in found["writers"])
    return Dataset(server, name, messages, readers, writers)


def _migrations() -> str:
    """A digest of all revisions: one that was edited makes another schema under the same name."""
    files = sorted((HOME.parent / "migrations" / "versions").glob("*.py"))
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


async def _build(server: EmbeddedServer, name: str, shape: Shape) -> dict[str, Any]:
    started = perf_counter()
    server.drop_database(name)
    server.create_database(name)
    await upgrade(server.url(name))
    connection = await asyncpg.connect(server.admin_url(name), command_timeout=None)
    try:
        # The rows are right by construction, so the keys are not checked one by one.
        await connection.execute(
            "SET session_replication_role = replica; SET synchronous_commit = off"
        )
        rows = Rows(shape)
        await _copy(connection, "users", rows.users())
        indexes = await _drop_indexes(connection, "messages")
        await _copy(connection, "messages", rows.messages())
        await _copy(connection, "conversations", rows.conversations)
        projects, workers, tasks = rows.work()
        await _copy(connection, "projects", projects)
        await _copy(connection, "workers", workers)
        await _copy(connection, "tasks", tasks)
        for index in indexes:
            await connection.execute(index)
        await _add_peer_role(connection)
        await connection.execute(STATISTICS)
        await connection.execute("VACUUM (FREEZE, ANALYZE)")
        people = await _log_in(connection, rows)
    finally:
        await connection.close()
    print(f"data set of {shape.messages:,} messages made in {perf_counter() - started:.0f} s")
    return people


async def _copy(connection: Any, table: str, lines: Iterable[Line]) -> None:
    async def source() -> AsyncIterator[bytes]:
        iterator = iter(lines)
        while batch := list(islice(iterator, LINES_AT_ONCE)):
            yield "".join(batch).encode()

    columns = re.split(r",\s*", COLUMNS[table])
    await connection.copy_to_table(table, source=source(), columns=columns, format="text")


async def _drop_indexes(connection: Any, table: str) -> list[str]:
    """Drop the indexes that no constraint needs, and say how to make them again: that is faster
    once than row by row."""
    found = await connection.fetch(
        "SELECT i.indexrelid::regclass::text AS name, pg_get_indexdef(i.indexrelid) AS definition"
        " FROM pg_index i LEFT JOIN pg_constraint c ON c.conindid = i.indexrelid"
        " WHERE i.indrelid = $1::regclass AND c.oid IS NULL",
        table,
    )
    for index in found:
        await connection.execute(f"DROP INDEX {index['name']}")
    return [index["definition"] for index in found]


async def _log_in(connection: Any, rows: Rows) -> dict[str, Any]:
    """A log-in for everybody who is asked about or writes."""
    people = []
    for number, owner in enumerate(rows.owners[: MEASURED + WRITERS]):
        minted = tokens.mint(owner)
        await connection.execute(
            "INSERT INTO login_sessions (owner_id, token_hash, expires_at)"
            " VALUES ($1, $2, now() + interval '10 years')",
            owner,
            minted.hash,
        )
        person = Person(str(owner), minted.token)
        if number < MEASURED:
            person = Person(
                str(owner),
                minted.token,
                str(rows.first_conversations[number]),
                str(rows.long_conversations[number]),
                str(await connection.fetchval(MESSAGE, rows.long_conversations[number])),
                str(rows.long_projects[number]),
                str(await connection.fetchval(TASK, rows.long_projects[number])),
            )
        people.append(asdict(person))
    return {"readers": people[:MEASURED], "writers": people[MEASURED:]}


async def _add_peer_role(connection: Any) -> None:
    await connection.execute(
        f"""
        DO $$ BEGIN
            CREATE ROLE {PEER_ROLE} LOGIN BYPASSRLS;
        EXCEPTION WHEN duplicate_object THEN NULL;
        END $$;
        GRANT USAGE ON SCHEMA public TO {PEER_ROLE};
        GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO {PEER_ROLE};
        """
    )
