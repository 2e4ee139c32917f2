"""Which server answers a query: the standby if it has replayed what the caller may expect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest_asyncio

from db import tokens
from db.embedded import DATABASE, EmbeddedServer
from tests.edge.sockets import answer, hear, opened, say, subscribe
from tests.edge.whole import Someone, sign_up
from tests.replica.conftest import MakeReader, Reader
from tests.replica.standby import Standby

NAME = "{ viewer { displayName } }"
RENAME = """mutation($name: String!) {
    updateViewer(input: {displayName: $name}) { viewer { displayName } problems { message } }
}"""


@contextmanager
def paused(standby: Standby) -> Iterator[None]:
    """The standby stays as it is."""
    standby.catch_up()
    standby.pause()
    try:
        yield
    finally:
        standby.resume()


def rename_unnoticed(primary: EmbeddedServer, someone: Someone, name: str) -> None:
    """Change a row past the API, so that no server hears of it."""
    parsed = tokens.parse(someone.token)
    assert parsed is not None
    primary.sql(
        f"UPDATE users SET display_name = '{name}' WHERE id = '{parsed.owner_id}'",
        database=DATABASE,
    )


async def name_of(someone: Someone, **more: Any) -> str | None:
    """The person's name as the server says."""
    answer = await asked(someone, NAME, **more)
    name: str | None = answer["data"]["viewer"]["displayName"]
    return name


async def asked(
    someone: Someone, query: str, variables: Any = None, *, extensions: Any = None, **headers: str
) -> dict[str, Any]:
    """A whole answer, and under `headers` what came with it."""
    response = await someone.served.client.post(
        "/graphql",
        json={"query": query, "variables": variables, "extensions": extensions},
        headers={
            "authorization": f"Bearer {someone.token}",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        },
    )
    body: dict[str, Any] = response.json()
    assert "errors" not in body, body
    return {**body, "headers": response.headers}


async def rename(someone: Someone, name: str) -> dict[str, Any]:
    """Change the person's name through the API."""
    answer = await asked(someone, RENAME, {"name": name})
    assert answer["data"]["updateViewer"]["viewer"] == {"displayName": name}
    return answer


async def test_the_standby_answers_queries(
    reader: Reader, primary: EmbeddedServer, standby: Standby, anna: Someone
) -> None:
    with paused(standby):
        rename_unnoticed(primary, anna, "New")
        assert await name_of(anna) is None
        assert await reader.where(anna) == "replica"
    assert await name_of(anna) == "New"
    assert await reader.lag() < 5


async def test_who_wrote_sees_it_at_once_and_others_are_not_sent_away(
    reader: Reader, standby: Standby, anna: Someone
) -> None:
    bert = await sign_up(reader.served)
    await reader.until_read(bert)
    with paused(standby):
        await rename(anna, "Anna")
        for _ in range(3):
            assert await name_of(anna) == "Anna"
            assert await reader.where(anna) == "written"
        assert await reader.where(bert) == "replica"
    await reader.until_read(anna)
    assert await name_of(anna) == "Anna"


async def test_what_another_process_wrote_is_seen_once_it_was_heard_of(
    reader: Reader, make_reader: MakeReader, standby: Standby, anna: Someone
) -> None:
    async with make_reader() as other:
        await other.until_read(anna)
        with paused(standby):
            await rename(other.as_(anna), "Anna")
            async with asyncio.timeout(10):
                while await name_of(anna) != "Anna":  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert await reader.where(anna) == "written"


@pytest_asyncio.fixture(scope="package")
async def deaf(make_reader: MakeReader) -> AsyncIterator[Reader]:
    """A process that hears of no other's writes, and sends BEGIN by itself, as behind a pooler."""
    async with make_reader(database_pooler="transaction", database_poll_seconds=3_600.0) as deaf:
        yield deaf


async def test_a_client_says_what_it_has_seen(
    reader: Reader, deaf: Reader, standby: Standby, anna: Someone
) -> None:
    there = deaf.as_(anna)
    await deaf.until_read(anna)
    with paused(standby):
        written = await rename(anna, "Anna")
        lsn = written["extensions"]["lsn"]
        assert written["headers"]["engram-lsn"] == lsn
        kept = written["headers"]["set-cookie"].partition(";")[0]
        assert kept == f"engram-lsn={lsn}"

        assert await name_of(there) is None  # nobody has told it
        assert await name_of(there, engram_lsn=lsn) == "Anna"
        assert await name_of(there, cookie=f"a=b; {kept}; c=d") == "Anna"
        assert await name_of(there, extensions={"lsn": lsn}) == "Anna"
        # What cannot be read may be anything.
        for unreadable in ("", "soon", "100000000/0"):
            assert await name_of(there, engram_lsn=unreadable) == "Anna"
        assert await name_of(there, extensions={"lsn": 7}) == "Anna"
        assert await name_of(there, engram_lsn="0/1") is None
    assert await name_of(there, engram_lsn=lsn) == "Anna"
    async with asyncio.timeout(10):
        while True:
            before = await deaf.counts()
            await name_of(there, engram_lsn=lsn)
            if (await deaf.counts())["replica"] > before["replica"]:
                break


async def test_without_a_pipeline_who_wrote_sees_it_at_once(
    deaf: Reader, standby: Standby, anna: Someone
) -> None:
    there = deaf.as_(anna)
    await deaf.until_read(anna)
    with paused(standby):
        written = await rename(there, "Anna")
        assert written["headers"]["engram-lsn"] == written["extensions"]["lsn"]
        assert await name_of(there) == "Anna"
        assert await deaf.where(anna) == "written"
    await deaf.until_read(anna)
    assert await name_of(there) == "Anna"


async def test_over_a_socket_too(reader: Reader, standby: Standby, anna: Someone) -> None:
    with paused(standby):
        async with opened(reader.served, anna) as socket:
            await say(socket, subscribe(RENAME, "1", variables={"name": "Anna"}))
            written = await hear(socket)
            assert written["payload"]["extensions"]["lsn"]
            assert (await hear(socket))["type"] == "complete"
            await say(socket, subscribe(NAME, "2"))
            assert await hear(socket) == answer({"viewer": {"displayName": "Anna"}}, "2")


async def test_the_change_feed_is_the_primary_s(
    reader: Reader, primary: EmbeddedServer, standby: Standby, anna: Someone
) -> None:
    """A standby may lack what a cursor stands behind, and would call it lost."""
    query = """query($after: String) {
        viewer { displayName } changes(after: $after) { nodes { action } pageInfo { endCursor } }
    }"""
    begin = (await asked(anna, query))["data"]["changes"]["pageInfo"]["endCursor"]
    with paused(standby):
        await rename(anna, "Anna")
        end = None
        async with asyncio.timeout(10):
            while end in (None, begin):
                found = (await asked(anna, query, {"after": begin}))["data"]
                end = found["changes"]["pageInfo"]["endCursor"]
        assert [one["action"] for one in found["changes"]["nodes"]] == ["update"]
        rename_unnoticed(primary, anna, "Later")
        # All of the answer is the primary's.
        found = (await asked(anna, query, {"after": end}))["data"]
        assert found["viewer"] == {"displayName": "Later"}
    before = await reader.counts()
    await asked(anna, query, {"after": end})
    after = await reader.counts()
    assert after["primary"] == before["primary"] + 1
    assert after["replica"] == before["replica"]


async def test_a_standby_that_lags_is_not_asked_until_it_has_caught_up(
    make_reader: MakeReader, primary: EmbeddedServer, standby: Standby, anna: Someone
) -> None:
    async with make_reader(database_replica_lag_seconds=0.5) as strict:
        there = strict.as_(anna)
        await strict.until_read(anna)
        with paused(standby):
            rename_unnoticed(primary, anna, "New")
            await strict.until("behind")
            assert await name_of(there) == "New"
            assert await strict.where(anna) == "behind"
            assert await strict.lag() > 0.5
        await strict.until("ok")
        await strict.until_read(anna)


async def test_cookies_and_places_are_not_heard_of_without_a_replica(
    make_reader: MakeReader, anna: Someone
) -> None:
    async with make_reader(database_replica_url=None) as plain:
        written = await rename(plain.as_(anna), "Anna")
        assert "engram-lsn" not in written["headers"]
        assert "set-cookie" not in written["headers"]
        assert "extensions" not in written
        ready = (await plain.served.client.get("/readyz")).json()
        assert "replica" not in ready
        assert await plain.counts() == {}
