"""The session of one operation: concurrency, one snapshot, broken connections, cancellation."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import Uuid, bindparam, insert, literal, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine

from db.announcements import CHANNEL
from db.embedded import EmbeddedServer
from db.engine import create_engine
from db.failures import DatabaseUnavailable, StatementCancelled
from db.models.accounts import User
from db.models.work import Project
from db.scope import OWNER, predicate, readable, scope_disabled
from db.session import Author, Session, SessionOptions
from tests.conftest import NewOwner, OpenSession

PROJECTS = Project.__table__
USERS = User.__table__
SLEEP = text("SELECT pg_sleep(5)")


async def add_project(session: Session, key: str, number: int = 1) -> UUID:
    rows = await session.execute(
        insert(PROJECTS)
        .values(owner_id=OWNER, key=key, name=key, next_number=number)
        .returning(PROJECTS.c.id)
    )
    identifier: UUID = rows[0].id
    return identifier


async def test_statements_of_concurrent_resolvers_wait_for_each_other_on_a_cold_pool(
    database_url: str, new_owner: NewOwner
) -> None:
    owner = await new_owner()
    for _ in range(3):
        engine = create_engine(database_url, pool_size=4)
        try:

            async def operation(engine: AsyncEngine = engine) -> None:
                async with Session(engine, owner) as session:
                    statement = select(literal(1))
                    rows = await asyncio.gather(*(session.execute(statement) for _ in range(8)))
                    assert [row[0][0] for row in rows] == [1] * 8
                    assert session.statements == 8

            await asyncio.gather(*(operation() for _ in range(10)))
            assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # known at run time
        finally:
            await engine.dispose()


async def test_nothing_is_opened_before_the_first_statement(database_url: str) -> None:
    engine = create_engine(database_url)
    async with Session(engine, uuid4()) as session:
        session.owner_id = uuid4()
    assert engine.pool.checkedin() == 0  # type: ignore[attr-defined]  # known at run time
    await engine.dispose()


async def test_the_owner_cannot_change_while_something_is_open(open_session: OpenSession) -> None:
    session = open_session(uuid4())
    await session.execute(select(1))
    with pytest.raises(RuntimeError, match="owner"):
        session.owner_id = uuid4()
    await session.end_snapshot()
    session.owner_id = uuid4()


async def test_the_settings_of_a_snapshot(open_session: OpenSession) -> None:
    owner = uuid4()
    session = open_session(owner, options=SessionOptions(statement_timeout_ms=1234))
    row = (
        await session.execute(
            text(
                "SELECT current_setting('transaction_isolation'), current_user,"
                " current_setting('transaction_read_only'), current_setting('statement_timeout'),"
                " current_setting('app.owner_id')"
            )
        )
    )[0]
    assert tuple(row) == ("repeatable read", "engram_app", "on", "1234ms", str(owner))


async def test_nothing_of_an_owner_stays_on_the_connection(
    database_url: str, new_owner: NewOwner
) -> None:
    engine = create_engine(database_url, pool_size=1)
    state = text("SELECT current_user, current_setting('app.owner_id', true)")
    async with Session(engine, await new_owner()) as session:
        await session.execute(select(1))
    async with engine.connect() as connection:
        assert tuple((await connection.execute(state)).one()) == ("engram_owner", "")
    await engine.dispose()


async def test_one_snapshot_sees_no_half_of_a_concurrent_transfer(
    open_session: OpenSession, new_owner: NewOwner
) -> None:
    owner = await new_owner()
    setup = open_session(owner)
    async with setup.transaction():
        ids = [await add_project(setup, key, 1_000) for key in ("A", "B")]
    balance = readable(PROJECTS, PROJECTS.c.next_number).where(
        PROJECTS.c.id == bindparam("wanted", type_=Uuid())
    )
    done = asyncio.Event()

    async def transfer() -> None:
        direction = 1
        while not done.is_set():
            session = open_session(owner)
            direction = -direction
            async with session.transaction():
                for identifier, amount in zip(ids, (direction, -direction), strict=True):
                    await session.execute(
                        update(PROJECTS)
                        .where(predicate(PROJECTS), PROJECTS.c.id == identifier)
                        .values(next_number=PROJECTS.c.next_number + amount)
                    )

    async def read() -> int:
        session = open_session(owner)
        total: int = await session.scalar(balance, {"wanted": ids[0]})
        await asyncio.sleep(0.001)
        total += await session.scalar(balance, {"wanted": ids[1]})
        await session.close()
        return total

    writer = asyncio.create_task(transfer())
    totals = [
        total for _ in range(60) for total in await asyncio.gather(*(read() for _ in range(5)))
    ]
    done.set()
    await writer
    assert len(totals) == 300
    assert set(totals) == {2_000}


async def test_killed_connections_are_replaced_and_nobody_notices(
    database_url: str, admin_engine: AsyncEngine, new_owner: NewOwner
) -> None:
    owner = await new_owner()
    engine = create_engine(f"{database_url}&application_name=victim", pool_size=6)
    kill = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = :database AND pid <> pg_backend_pid() AND application_name = 'victim'"
    )

    async def reading() -> None:
        async with Session(engine, owner) as session:
            await session.execute(text("SELECT pg_sleep(0.005)"))

    async def writing() -> None:
        async with Session(engine, owner) as session, session.transaction():
            await session.execute(select(literal(1)))

    killed = 0
    for _ in range(4):
        await asyncio.gather(*(reading() for _ in range(6)))
        async with admin_engine.connect() as admin:
            name = engine.url.database
            killed += len((await admin.execute(kill, {"database": name})).all())
        await asyncio.gather(*(reading() for _ in range(9)), *(writing() for _ in range(6)))
    assert killed >= 20
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # known at run time
    await engine.dispose()


async def test_a_connection_lost_in_a_transaction_is_an_error_and_is_not_replaced(
    open_session: OpenSession, admin_engine: AsyncEngine, new_owner: NewOwner
) -> None:
    session = open_session(await new_owner())
    with pytest.raises(DatabaseUnavailable):
        async with session.transaction():
            await add_project(session, "LOST")
            pid = await session.scalar(text("SELECT pg_backend_pid()"))
            async with admin_engine.connect() as admin:
                await admin.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            await asyncio.sleep(0.05)
            await session.execute(select(1))
    assert await session.execute(readable(PROJECTS)) == []


async def test_a_connection_lost_before_the_commit_is_an_error(
    open_session: OpenSession, admin_engine: AsyncEngine, new_owner: NewOwner
) -> None:
    session = open_session(await new_owner())
    with pytest.raises(DatabaseUnavailable, match="commit"):
        async with session.transaction():
            pid = await session.scalar(text("SELECT pg_backend_pid()"))
            async with admin_engine.connect() as admin:
                await admin.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})


async def test_no_server_and_no_free_connection_are_one_kind_of_error(database_url: str) -> None:
    nowhere = create_engine("postgresql://nobody@127.0.0.1:1/none")
    async with Session(nowhere, uuid4()) as session:
        with pytest.raises(DatabaseUnavailable, match="does not answer"):
            await session.execute(select(1))
    engine = create_engine(database_url, pool_size=1, pool_timeout_seconds=0.05)
    async with Session(engine, uuid4()) as first, Session(engine, uuid4()) as second:
        await first.execute(select(1))
        with pytest.raises(DatabaseUnavailable, match="busy"):
            await second.execute(select(1))
        await first.close()
        await second.execute(select(1))
    await engine.dispose()


async def test_a_cancelled_request_stops_its_statement_and_gives_the_connection_back(
    database_url: str, admin_engine: AsyncEngine, new_owner: NewOwner
) -> None:
    engine = create_engine(database_url, pool_size=2)
    owner = await new_owner()

    async def request() -> None:
        async with Session(engine, owner) as session:
            await asyncio.gather(session.execute(SLEEP), session.execute(SLEEP))

    for _ in range(3):
        task = asyncio.create_task(request())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # known at run time
    running = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = :database"
        " AND query LIKE 'SELECT pg_sleep%' AND state = 'active'"
    )
    async with admin_engine.connect() as admin:
        left = await admin.scalar(running, {"database": engine.url.database})
    assert left == 0
    await engine.dispose()


async def test_cancel_stops_the_running_statement_and_refuses_more(
    open_session: OpenSession,
) -> None:
    session = open_session(uuid4())
    task = asyncio.create_task(session.execute(SLEEP))
    waiting = asyncio.create_task(session.execute(SLEEP))
    await asyncio.sleep(0.1)
    await session.cancel()
    for statement in (task, waiting):
        with pytest.raises(StatementCancelled):
            await statement
    with pytest.raises(StatementCancelled):
        await session.execute(select(1))
    await session.close()


async def test_cancel_leaves_a_mutation_alone(
    open_session: OpenSession, new_owner: NewOwner
) -> None:
    owner = await new_owner()
    session = open_session(owner)
    async with session.transaction():
        await session.cancel()
        await add_project(session, "KEPT")
    assert len(await open_session(owner).execute(readable(PROJECTS))) == 1


async def test_a_commit_is_not_torn_by_a_cancelled_task(
    open_session: OpenSession, new_owner: NewOwner
) -> None:
    owner = await new_owner()
    inside = asyncio.Event()

    async def mutation() -> None:
        session = open_session(owner)
        async with session.transaction():
            await add_project(session, "WHOLE")
            inside.set()

    task = asyncio.create_task(mutation())
    await inside.wait()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(await open_session(owner).execute(readable(PROJECTS))) == 1


async def test_a_slow_statement_meets_its_time_limit(open_session: OpenSession) -> None:
    session = open_session(uuid4(), options=SessionOptions(statement_timeout_ms=50))
    with pytest.raises(StatementCancelled):
        await session.execute(SLEEP)
    await session.close()
    longer = open_session(uuid4(), options=SessionOptions(statement_timeout_ms=1))
    async with longer.transaction(statement_timeout_ms=5_000):
        await longer.execute(text("SELECT pg_sleep(0.02)"))


async def test_a_connection_still_in_a_transaction_is_thrown_away(database_url: str) -> None:
    engine = create_engine(database_url, pool_size=1)
    pid = text("SELECT pg_backend_pid()")
    async with engine.connect() as connection:
        first = await connection.scalar(pid)
        raw = await connection.get_raw_connection()
        driver = raw.driver_connection
        assert driver is not None
        await driver.execute("BEGIN; SET LOCAL app.owner_id = 'left behind'")
    async with engine.connect() as connection:
        assert await connection.scalar(pid) != first
        raw = await connection.get_raw_connection()
        assert not raw.driver_connection.is_in_transaction()  # type: ignore[union-attr]  # it is connected
    await engine.dispose()


async def test_an_exception_rolls_back_and_the_session_goes_on(
    open_session: OpenSession, new_owner: NewOwner
) -> None:
    session = open_session(await new_owner())
    with pytest.raises(ValueError, match="no"):
        async with session.transaction():
            await add_project(session, "GONE")
            raise ValueError("no")
    assert await session.execute(readable(PROJECTS)) == []
    with pytest.raises(IntegrityError) as caught:
        async with session.transaction():
            await add_project(session, "TWICE")
            await add_project(session, "TWICE")
    assert "TWICE" not in str(caught.value)
    assert await session.execute(readable(PROJECTS)) == []
    async with session.transaction() as transaction:
        await add_project(session, "REFUSED")
        transaction.refuse()
    assert await session.execute(readable(PROJECTS)) == []


async def test_a_swallowed_error_does_not_look_like_a_commit(
    open_session: OpenSession, new_owner: NewOwner
) -> None:
    session = open_session(await new_owner())
    with pytest.raises(RuntimeError, match="rolled back"):
        async with session.transaction():
            await add_project(session, "ONE")
            with pytest.raises(DBAPIError):
                await session.execute(text("SELECT 1/0"))


async def test_a_constraint_checked_at_the_commit_fails_as_any_other(
    open_session: OpenSession, new_owner: NewOwner
) -> None:
    session = open_session(await new_owner())
    with pytest.raises(IntegrityError):
        async with session.transaction():
            await session.execute(
                text(
                    "INSERT INTO conversations (owner_id, title, active_leaf_id)"
                    " VALUES (:owner_id, 'x', uuidv7())"
                )
            )


async def test_a_transaction_ends_the_snapshot_and_is_read_afterwards(
    open_session: OpenSession, new_owner: NewOwner
) -> None:
    session = open_session(await new_owner())
    assert await session.execute(readable(PROJECTS)) == []
    async with session.transaction():
        assert session.writing
        await add_project(session, "NEW")
        with pytest.raises(RuntimeError, match="already"):
            async with session.transaction():
                pass
    assert len(await session.execute(readable(PROJECTS))) == 1
    with pytest.raises(DBAPIError, match="read-only"):
        await add_project(session, "LATE")


async def test_round_trips(server: EmbeddedServer, database_url: str, tmp_path: Path) -> None:
    """The statements and the end: nothing more is waited for once a connection is warm."""
    sent: list[bytes] = []
    answered = True
    target = str(server.socket)

    async def forward(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counted: bool
    ) -> None:
        nonlocal answered
        while data := await reader.read(65_536):
            if counted and answered:
                sent.append(data)
            answered = not counted
            writer.write(data)
        writer.close()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(target)
        await asyncio.gather(
            forward(reader, server_writer, True), forward(server_reader, writer, False)
        )

    async with await asyncio.start_unix_server(proxy, tmp_path / server.socket.name):
        engine = create_engine(database_url.replace(str(server.socket.parent), str(tmp_path)))
        for expected in (None, 4):
            before = len(sent)
            async with Session(engine, uuid4()) as session:
                for _ in range(3):
                    await session.execute(select(literal(1)))
            async with asyncio.timeout(10):  # for the end, which nobody else waits for
                while not sent[-1].endswith(b"ROLLBACK\0"):  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            assert expected in (None, len(sent) - before)
        for expected in (None, 2):
            before = len(sent)
            async with Session(engine, uuid4()) as session, session.transaction():
                await session.execute(select(literal(1)))
                session.notify("task", uuid4(), [uuid4()], "update")
            assert expected in (None, len(sent) - before)
        await engine.dispose()


async def test_changes_are_announced_with_the_commit_and_only_then(
    open_session: OpenSession, new_owner: NewOwner, server: object, database_url: str
) -> None:
    owner, scope, ids = await new_owner(), uuid4(), [uuid4() for _ in range(450)]
    heard: list[dict[str, object]] = []
    listener = await asyncpg.connect(database_url)
    await listener.add_listener(CHANNEL, lambda *a: heard.append(json.loads(a[3])))
    session = open_session(owner)
    with pytest.raises(ValueError, match="no"):
        async with session.transaction():
            session.notify("task", scope, ids, "update")
            raise ValueError("no")
    async with session.transaction():
        session.notify("task", scope, ids, "insert")
        session.notify("message", scope, ids[:1], "delete")
        session.notify("task", scope, ids[:1], "insert")
        await listener.execute("SELECT 1")
        assert heard == []
    await listener.execute("SELECT 1")
    await listener.close()
    mine = [one for one in heard if one["o"] == owner.hex]
    assert [one["op"] for one in mine] == ["insert"] * 3 + ["delete"]
    told = [identifier for one in mine[:3] for identifier in one["ids"]]  # type: ignore[attr-defined]  # known at run time
    assert told == [identifier.hex for identifier in ids]
    assert mine[3] == {
        "o": owner.hex, "t": "message", "s": scope.hex, "op": "delete", "ids": [ids[0].hex]
    }  # fmt: skip
    with pytest.raises(RuntimeError, match="transaction"):
        session.notify("task", scope, ids, "update")


async def test_row_level_security_holds_when_the_scope_is_off(
    open_session: OpenSession, new_owner: NewOwner, statements: list[str]
) -> None:
    mine, other = await new_owner(), await new_owner()
    for owner in (mine, other):
        session = open_session(owner)
        async with session.transaction():
            await add_project(session, "P")
    session = open_session(mine)
    statement = readable(PROJECTS, PROJECTS.c.owner_id)
    for _ in range(2):
        assert [row.owner_id for row in await session.execute(statement)] == [mine]
        with scope_disabled():
            assert [row.owner_id for row in await session.execute(statement)] == [mine]
            aliased = PROJECTS.alias()
            inner = select(1).where(predicate(aliased)).exists()
            assert len(await session.execute(readable(PROJECTS).where(inner))) == 1
    scoped = [sql.count("owner_id = ") for sql in statements if sql.startswith("SELECT projects")]
    assert scoped == [1, 0, 0, 1, 0, 0]
    nobody = open_session(None)
    with scope_disabled():
        assert await nobody.execute(readable(PROJECTS)) == []
        assert await nobody.execute(readable(USERS)) == []
    stranger = open_session(other)
    with pytest.raises(ProgrammingError, match="row-level security"):
        async with stranger.transaction():
            await stranger.execute(
                insert(PROJECTS).values(owner_id=mine, key="X", name="X", next_number=1)
            )


async def test_the_scope_holds_when_row_level_security_is_off(
    admin_engine: AsyncEngine, new_owner: NewOwner, open_session: OpenSession
) -> None:
    mine, other = await new_owner(), await new_owner()
    session = open_session(other)
    async with session.transaction():
        await add_project(session, "P")
    superuser = SessionOptions(role=None)
    outside = open_session(mine, engine=admin_engine, options=superuser)
    assert await outside.execute(readable(PROJECTS)) == []
    assert [row.id for row in await outside.execute(readable(USERS, USERS.c.id))] == [mine]
    assert [r.id for r in await outside.execute(readable(USERS.alias("u")))] == [mine]
    with scope_disabled():
        assert len(await outside.execute(readable(PROJECTS))) >= 1


async def test_a_text_statement_gets_the_owner_too(open_session: OpenSession) -> None:
    owner = uuid4()
    statement = text("SELECT CAST(:owner_id AS uuid), CAST(:other AS int)")
    rows = await open_session(owner).execute(statement, {"other": 5})
    assert tuple(rows[0]) == (owner, 5)


async def test_a_session_counts_what_it_does(
    engine: AsyncEngine, open_session: OpenSession, new_owner: NewOwner
) -> None:
    seen: list[tuple[str, int | None]] = []

    def recorder(sql: str, *, rows: int | None, milliseconds: float) -> None:
        assert milliseconds > 0
        seen.append((sql, rows))

    session = open_session(await new_owner(), recorder=recorder)
    await session.execute(text("SELECT generate_series(1, 3)"))
    await session.execute(readable(PROJECTS, PROJECTS.c.id))
    assert [rows for _, rows in seen] == [3, 0]
    assert "projects.owner_id = $1" in seen[1][0]
    assert (session.statements, session.rows) == (2, 3)
    assert session.milliseconds > 0
    assert isinstance(session.author, Author)
    await session.close()
    await session.close()
    with pytest.raises(RuntimeError, match="closed"):
        await session.execute(select(1))
