"""What travels ahead of a statement: it takes effect, fails with it, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Integer, bindparam, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from db.connection import Opening, OpenTransaction
from db.embedded import EmbeddedServer
from db.engine import create_engine
from db.failures import StatementCancelled
from db.models.work import Project
from db.pipeline import Pipeline, _Incoming
from db.prepared import PreparedSelect
from db.scope import readable
from db.session import Session, SessionOptions
from tests.conftest import NewOwner, OpenSession

PROJECTS = Project.__table__
STATE = (
    "SELECT current_user, current_setting('app.owner_id', true),"
    " current_setting('transaction_read_only'), current_setting('transaction_isolation')"
)


class Driver(asyncio.Protocol):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data


def message(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body


MESSAGES = st.sampled_from([b"2", b"D", b"Z", b"S", b"N", b"A", b"1", b"n"])


@given(
    st.lists(st.tuples(MESSAGES, st.binary(max_size=40)), max_size=6),
    st.lists(st.tuples(MESSAGES, st.binary(max_size=40)), max_size=6),
    st.booleans(),
    st.lists(st.integers(0, 600), max_size=12),
)
def test_the_driver_gets_its_own_however_the_bytes_arrive(
    first: list[tuple[bytes, bytes]],
    second: list[tuple[bytes, bytes]],
    fails: bool,
    cuts: list[int],
) -> None:
    done = message(b"C", b"SELECT 1\0")
    theirs = message(b"2", b"") + message(b"D", b"\0\1") + message(b"C", b"SELECT 2\0")
    ahead = b"".join(message(*one) for one in first) + done
    ahead += b"".join(message(*one) for one in second)
    ahead += message(b"E", b"no\0") if fails else done
    expected = b"".join(message(*one) for one in [*first, *second] if one[0] in b"SNA")
    expected += (message(b"E", b"no\0") if fails else b"") + theirs
    data = ahead + theirs
    driver = Driver()
    incoming = _Incoming(driver)
    incoming.skip(2)
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in pairwise(places):
        incoming.data_received(data[start:end])
    assert driver.received == expected


async def test_a_lone_statement_has_the_settings_of_a_snapshot(
    open_session: OpenSession, new_owner: NewOwner
) -> None:
    owner = await new_owner()
    session = open_session(owner)
    lone = PreparedSelect(select(text(STATE.removeprefix("SELECT "))))
    for _ in range(2):
        records = await session.fetch(lone, {}, alone=True)
        assert tuple(records[0]) == ("engram_app", str(owner), "on", "read committed")
        await session.end_snapshot()


async def test_a_statement_that_was_to_be_alone_is_not_followed_by_another(
    open_session: OpenSession, new_owner: NewOwner
) -> None:
    session = open_session(await new_owner())
    lone = PreparedSelect(readable(PROJECTS))
    assert await session.fetch(lone, {}, alone=True) == []
    with pytest.raises(RuntimeError, match="alone"):
        await session.fetch(lone, {})
    await session.end_snapshot()
    assert await session.fetch(lone, {}) == []


async def test_nothing_of_a_lone_statement_stays_on_the_connection(
    database_url: str, new_owner: NewOwner
) -> None:
    engine = create_engine(database_url, pool_size=1)
    async with Session(engine, await new_owner()) as session:
        await session.fetch(PreparedSelect(readable(PROJECTS)), {}, alone=True)
    async with engine.connect() as connection:
        row = (await connection.execute(text(STATE))).one()
        assert tuple(row) == ("engram_owner", "", "off", "read committed")
    await engine.dispose()


async def test_a_failure_ahead_is_the_statement_s_failure_and_nothing_runs(
    engine: AsyncEngine, open_session: OpenSession, new_owner: NewOwner
) -> None:
    owner = await new_owner()
    nobody = open_session(owner, options=SessionOptions(role="nobody_of_that_name"))
    with pytest.raises(DBAPIError, match="nobody_of_that_name"):
        await nobody.execute(select(1))
    opening = Opening("BEGIN", ("role", "app.owner_id"), ("nobody_of_that_name", str(owner)))
    transaction = OpenTransaction(engine, opening)
    with pytest.raises(DBAPIError, match="nobody_of_that_name"):
        await transaction.fetch(
            "INSERT INTO projects (owner_id, key, name, next_number) VALUES ($1, 'X', 'X', 1)",
            [owner],
        )
    assert await transaction.end("COMMIT") == "ROLLBACK"
    assert await open_session(owner).execute(readable(PROJECTS)) == []


async def test_an_argument_that_the_driver_refuses_leaves_nothing_ahead(
    database_url: str, new_owner: NewOwner
) -> None:
    engine = create_engine(database_url, pool_size=1)
    wanted = select(bindparam("number", type_=Integer))
    for alone in (True, False):
        async with Session(engine, await new_owner()) as session:
            with pytest.raises(DBAPIError):
                await session.fetch(PreparedSelect(wanted), {"number": 2**40}, alone=alone)
        async with engine.connect() as connection:
            row = (await connection.execute(text(STATE))).one()
            assert tuple(row) in {
                ("engram_owner", setting, "off", "read committed") for setting in ("", None)
            }
        async with Session(engine, await new_owner()) as session:
            assert await session.scalar(wanted, {"number": 7}) == 7
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # known at run time
    await engine.dispose()


async def test_a_changed_column_is_prepared_anew(
    database_url: str, owner_engine: AsyncEngine, new_owner: NewOwner
) -> None:
    name = f"t{uuid4().hex}"
    engine = create_engine(database_url, pool_size=1)
    async with owner_engine.begin() as connection:
        await connection.execute(text(f"CREATE TABLE {name} (value int)"))
        await connection.execute(text(f"INSERT INTO {name} VALUES (7)"))
        await connection.execute(text(f"GRANT SELECT ON {name} TO engram_app"))
    statement = text(f"SELECT value FROM {name}")
    owner = await new_owner()
    try:
        async with Session(engine, owner) as session:
            assert await session.scalar(statement) == 7
        async with owner_engine.begin() as connection:
            await connection.execute(text(f"ALTER TABLE {name} ALTER value TYPE text"))
        async with Session(engine, owner) as session:
            assert await session.scalar(statement) == "7"
    finally:
        async with owner_engine.begin() as connection:
            await connection.execute(text(f"DROP TABLE {name}"))
        await engine.dispose()


async def test_a_connection_keeps_a_bounded_number_of_statements(
    database_url: str, new_owner: NewOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.pipeline.PREPARED", 10)
    engine = create_engine(database_url, pool_size=1)
    async with Session(engine, await new_owner()) as session:
        for number in range(30):
            assert await session.scalar(text(f"SELECT {number}")) == number
        kept = await session.scalar(text("SELECT count(*) FROM pg_prepared_statements"))
        assert 5 <= kept <= 15
    await engine.dispose()


async def test_a_snapshot_is_left_without_waiting_and_its_end_comes_first(
    database_url: str, new_owner: NewOwner
) -> None:
    engine = create_engine(database_url, pool_size=1)
    owner = await new_owner()
    pids = set()
    for _ in range(5):
        session = Session(engine, owner)
        assert await session.scalar(text("SELECT current_setting('transaction_isolation')"))
        await session.close()
        assert engine.pool.checkedin() == 1  # type: ignore[attr-defined]  # known at run time
        async with engine.connect() as connection:
            row = (await connection.execute(text(STATE))).one()
            assert tuple(row) == ("engram_owner", "", "off", "read committed")
            pids.add(await connection.scalar(text("SELECT pg_backend_pid()")))
        async with Session(engine, owner) as session, session.transaction():
            assert await session.scalar(text("SHOW transaction_read_only")) == "off"
    assert len(pids) == 1
    await engine.dispose()


async def test_a_snapshot_that_failed_is_ended_as_ever(
    database_url: str, new_owner: NewOwner
) -> None:
    engine = create_engine(database_url, pool_size=1)
    owner = await new_owner()
    for _ in range(3):
        async with Session(engine, owner) as session:
            assert await session.scalar(text("SELECT 1")) == 1
            with pytest.raises(DBAPIError):
                await session.scalar(text("SELECT 1 / 0"))
        async with Session(engine, owner) as session:
            assert await session.scalar(text("SELECT 2")) == 2
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # known at run time
    await engine.dispose()


async def test_a_driver_made_elsewhere_has_no_pipeline(database_url: str) -> None:
    driver = await asyncpg.connect(database_url)
    assert Pipeline.of(driver) is None
    await driver.close()


async def test_a_lone_statement_that_failed_is_not_followed_by_one_without_settings(
    open_session: OpenSession, new_owner: NewOwner
) -> None:
    owner = await new_owner()
    session = open_session(owner)
    fails = PreparedSelect(select(text("1 / (SELECT 0)")))
    with pytest.raises(DBAPIError):
        await session.fetch(fails, {}, alone=True)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="alone"):
            await session.execute(text(STATE))
    await session.end_snapshot()
    for _ in range(2):
        [row] = await session.execute(text(STATE))
        assert tuple(row) == ("engram_app", str(owner), "on", "repeatable read")


async def test_a_statement_prepared_and_refused_does_not_stand_in_the_next_one_s_way(
    database_url: str, new_owner: NewOwner
) -> None:
    engine = create_engine(database_url, pool_size=1)
    owner = await new_owner()
    async with Session(engine, owner) as session:
        await session.execute(text(STATE))
    refused = PreparedSelect(readable(PROJECTS, PROJECTS.c.id, bindparam("number", type_=Integer)))
    async with Session(engine, owner) as session:
        with pytest.raises(DBAPIError):
            await session.fetch(refused, {"number": 2**40})
        [row] = await session.execute(text(STATE))  # was prepared before: no Sync of its own
        assert row[3] == "repeatable read"
    await engine.dispose()


async def test_a_connection_that_does_not_answer_its_end_is_thrown_away(
    server: EmbeddedServer, database_url: str, tmp_path: Path
) -> None:
    silent: set[asyncio.StreamWriter] = set()
    made: list[asyncio.StreamWriter] = []

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if writer not in silent:
                writer.write(data)
        writer.close()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(str(server.socket))
        made.append(server_writer)
        await asyncio.gather(forward(reader, server_writer), forward(server_reader, writer))

    async with await asyncio.start_unix_server(proxy, tmp_path / server.socket.name):
        url = database_url.replace(str(server.socket.parent), str(tmp_path))
        engine = create_engine(url, pool_size=1, command_timeout_seconds=1.5)
        lone = PreparedSelect(select(bindparam("number", type_=Integer)))
        async with Session(engine, uuid4()) as session:
            await session.fetch(lone, {"number": 1}, alone=True)
        silent.update(made)  # the peer has vanished without a word
        async with Session(engine, uuid4()) as session:
            with pytest.raises(StatementCancelled):
                await session.fetch(lone, {"number": 2})
        async with Session(engine, uuid4()) as session:
            assert (await session.fetch(lone, {"number": 3}))[0][0] == 3
        await engine.dispose()
