"""Places in the WAL: as text, and of commits."""

from __future__ import annotations

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from db.lsn import UNREADABLE, read_lsn, show_lsn
from db.pipeline import Heard
from db.session import Session
from tests.conftest import NewOwner

CREATE = text(
    "INSERT INTO projects (owner_id, key, name, next_number) VALUES (:owner_id, :key, 'P', 1)"
)

COUNT = text("SELECT count(*) FROM projects WHERE projects.owner_id = :owner_id")


@given(lsn=st.integers(0, 2**64 - 1))
def test_a_place_is_read_as_it_is_written(lsn: int) -> None:
    assert read_lsn(show_lsn(lsn)) == lsn


@given(words=st.text() | st.from_regex(r"[0-9A-Fa-f]{0,10}/[0-9A-Fa-f]{0,10}\n?", fullmatch=True))
def test_what_is_no_place_lies_behind_all_places(words: str) -> None:
    lsn = read_lsn(words)
    assert lsn == UNREADABLE or read_lsn(show_lsn(lsn)) == lsn < UNREADABLE
    assert read_lsn(show_lsn(UNREADABLE)) == UNREADABLE


def message(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def row(value: bytes) -> bytes:
    return message(b"D", b"\0\1" + len(value).to_bytes(4, "big") + value)


@given(cuts=st.sets(st.integers(0, 200)), ending=st.sampled_from(["COMMIT", "ROLLBACK"]))
def test_an_ending_is_heard_however_its_bytes_arrive(cuts: set[int], ending: str) -> None:
    data = b"".join(
        [
            row(b""),  # of pg_notify
            message(b"C", b"SELECT 1\0"),
            message(b"N", b"SWARNING\0\0"),
            message(b"C", ending.encode() + b"\0"),
            row(b"16/B374D848"),
            message(b"C", b"SELECT 1\0"),
            message(b"Z", b"I"),
        ]
    )
    heard = Heard()
    start = 0
    for end in [*sorted(cuts), len(data)]:
        heard.hear(data[start:end])
        start = max(start, end)
    assert (heard.ending, heard.value) == (ending, "16/B374D848")


async def test_a_commit_stands_before_its_place_and_after_the_one_before(
    engine: AsyncEngine, new_owner: NewOwner
) -> None:
    owner = await new_owner()
    places = []
    async with Session(engine, owner) as session:
        session.locates = True
        for number in range(5):
            async with session.transaction():
                await session.execute(CREATE, {"key": f"K{number}"})
                session.notify("project", owner, [owner], "insert")
            places.append(session.lsn)
        # What is refused leaves nothing behind, and what was never asked for as little.
        async with session.transaction() as transaction:
            await session.execute(CREATE, {"key": "K9"})
            transaction.refuse()
        async with session.transaction():
            pass
        assert session.lsn == places[-1]
        assert places == sorted(set(places))
        assert all(0 < place < UNREADABLE for place in places)
        now = await session.scalar(text("SELECT pg_current_wal_insert_lsn()::text"))
        assert places[-1] <= read_lsn(now)
        assert await session.scalar(COUNT) == 5


async def test_a_commit_that_fails_says_so_and_the_connection_is_whole(
    engine: AsyncEngine, new_owner: NewOwner
) -> None:
    owner = await new_owner()
    session = Session(engine, owner)
    session.locates = True
    async with session:
        with pytest.raises(RuntimeError, match="rolled back"):
            async with session.transaction():
                await session.execute(CREATE, {"key": "K"})
                driver = session._open._driver  # type: ignore[union-attr]  # it is open
                with pytest.raises(asyncpg.DivisionByZeroError):
                    await driver.execute("SELECT 1/0")
        async with session.transaction():
            await session.execute(CREATE, {"key": "K"})
        assert await session.scalar(COUNT) == 1


async def test_what_fails_behind_a_commit_does_not_undo_it(
    engine: AsyncEngine, new_owner: NewOwner
) -> None:
    """The backend ends between the two, for all that the driver can tell."""
    owner = await new_owner()
    session = Session(engine, owner)
    session.locates = True
    async with session:
        async with session.transaction():
            await session.execute(CREATE, {"key": "K"})
            driver = session._open._driver  # type: ignore[union-attr]  # it is open
            execute = driver.execute

            async def fail_behind(script: str) -> object:
                commit, _, locate = script.rpartition(";")
                return await execute(f"{commit};SELECT 1/0;{locate}")

            session._open._driver = _Failing(driver, fail_behind)  # type: ignore[union-attr]
        assert session.lsn == UNREADABLE
        assert await session.scalar(COUNT) == 1


class _Failing:
    """The driver, which fails behind a commit."""

    def __init__(self, driver: object, execute: object) -> None:
        self._driver = driver
        self.execute = execute

    def __getattr__(self, name: str) -> object:
        return getattr(self._driver, name)
