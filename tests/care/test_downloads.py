"""A download goes on where it broke, and is its owner's alone."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx
import pytest
import pytest_asyncio
import sqlalchemy as sa

from tests.care.conftest import Place
from tests.care.exporting import ask_for, exporter, get, owner_of, read
from tests.edge.whole import Someone, sign_up


@pytest_asyncio.fixture
async def anna(place: Place) -> Someone:
    return await sign_up(place.served)


@pytest_asyncio.fixture
async def path(place: Place, anna: Someone) -> str:
    """A file of many parts."""
    async with place.admin.connect() as connection:
        await connection.execute(
            sa.text(
                "INSERT INTO documents (owner_id, title, content, content_sha256)"
                " SELECT :id, 'd', string_agg(md5(random()::text), ''), sha256('')"
                " FROM generate_series(1, 40) n, generate_series(1, 1000) m GROUP BY n"
            ),
            {"id": owner_of(anna)},
        )
    asked = await ask_for(anna)
    assert await exporter(place.engine, part_bytes=1).run() == 1
    return str(asked["path"])


async def parts(place: Place) -> list[int]:
    """The sizes of the parts."""
    async with place.admin.connect() as connection:
        sizes = sa.text("SELECT size FROM account_export_parts ORDER BY position")
        return list((await connection.execute(sizes)).scalars())


async def test_the_whole_file(place: Place, anna: Someone, path: str) -> None:
    answer = await get(anna, path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/gzip"
    assert answer.headers["content-disposition"].startswith('attachment; filename="engram-2')
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["cache-control"] == "private, no-store"
    assert len(answer.content) == int(answer.headers["content-length"]) == sum(await parts(place))
    assert len(await parts(place)) > 5
    assert read(answer.content).end["documents"] == 40
    headers = {"authorization": f"Bearer {anna.token}", "accept-encoding": "identity"}
    head = await anna.served.client.head(path, headers=headers)
    assert head.content == b""
    left = {"date", "x-request-id"}
    assert {name: value for name, value in head.headers.items() if name not in left} == {
        name: value for name, value in answer.headers.items() if name not in left
    }


async def test_from_any_byte_to_any_other(place: Place, anna: Someone, path: str) -> None:
    whole = (await get(anna, path)).content
    size, first = len(whole), (await parts(place))[0]
    for asked, start, end in (
        ("bytes=0-0", 0, 1),
        (f"bytes={first - 1}-{first}", first - 1, first + 1),
        (f"bytes={first}-", first, size),
        (f"bytes={size - 1}-", size - 1, size),
        (f"bytes=5-{size * 2}", 5, size),
        ("bytes=-7", size - 7, size),
        (f"bytes=-{size * 2}", 0, size),
    ):
        answer = await get(anna, path, range=asked)
        assert answer.status_code == 206, asked
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
        assert answer.content == whole[start:end]
    for asked in (f"bytes={size}-", f"bytes={size}-{size + 5}", "bytes=-0"):
        answer = await get(anna, path, range=asked)
        assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{size}")
    for asked in ("bytes=5-4", "bytes=-", "bytes=0-1,3-4", "rows=0-1", "bytes=a-b", "bytes=0"):
        answer = await get(anna, path, range=asked)
        assert (answer.status_code, answer.content == whole) == (200, True), asked


async def test_a_download_that_breaks_again_and_again_comes_to_its_end(
    anna: Someone, path: str
) -> None:
    """Each time the connection is cut in the middle of an answer."""
    expected = await get(anna, path)
    etag, size = expected.headers["etag"], len(expected.content)
    got = bytearray()
    cuts = 0
    async with httpx.AsyncClient(base_url=str(anna.served.client.base_url)) as client:
        while len(got) < size:
            headers = {
                "authorization": f"Bearer {anna.token}",
                "accept-encoding": "identity",
                "range": f"bytes={len(got)}-",
                "if-range": etag,
            }
            async with client.stream("GET", path, headers=headers) as answer:
                assert answer.status_code == 206
                async for chunk in answer.aiter_raw(50_000):
                    got += chunk
                    cuts += 1
                    break
    assert cuts > 5
    assert hashlib.sha256(got).digest() == hashlib.sha256(expected.content).digest()


async def test_of_another_file_all_is_sent(anna: Someone, path: str) -> None:
    answer = await get(anna, path, **{"range": "bytes=5-", "if-range": '"another"'})
    assert answer.status_code == 200


async def test_it_is_its_owners_alone(place: Place, anna: Someone, path: str) -> None:
    bert = await sign_up(place.served)
    nothing = path[:-4] + "0000"
    foreign, missing = await get(bert, path), await get(bert, nothing)
    assert (foreign.status_code, foreign.json()) == (404, missing.json())
    nobody = await place.served.client.get(path)
    assert nobody.status_code == 401
    assert nobody.headers["www-authenticate"] == "Bearer"
    wrong = await get(Someone(place.served, anna.token[:-1] + "?"), path)
    assert wrong.status_code == 401


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("nonsense", 400, "BAD_ID"),
        ("task_" + "0" * 32, 400, "BAD_ID"),
        ("account_export_" + "0" * 32, 404, "NOT_FOUND"),
    ],
)
async def test_what_is_no_export(anna: Someone, name: str, status: int, code: str) -> None:
    answer = await get(anna, f"/exports/{name}")
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["errors"][0]["extensions"]["code"]) == (status, code)


async def test_other_methods_are_refused(anna: Someone, path: str) -> None:
    answer = await anna.served.client.post(path)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_an_unfinished_one_is_not_ready_and_an_expired_one_gone(
    place: Place, anna: Someone, path: str
) -> None:
    second = await ask_for(anna)
    answer = await get(anna, second["path"])
    assert (answer.status_code, answer.headers["retry-after"]) == (409, "2")
    async with place.admin.connect() as connection:
        await connection.execute(sa.text("UPDATE account_exports SET expires_at = now()"))
    assert (await get(anna, path)).status_code == 404
