"""A stolen token: once it is revoked, at whatever process, nothing that it opened goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import pytest_asyncio
from websockets.exceptions import ConnectionClosed

from server.app import create_app
from tests.edge.conftest import MakeSettings, Served, serving
from tests.edge.sockets import hear, opened, say, subscribe
from tests.edge.whole import Someone, sign_up

FOLLOW = "subscription { changes { cursor } }"
EVENTS = "text/event-stream"
APOLLO = 'multipart/mixed;boundary="-";subscriptionSpec=1.0,application/json'
SECONDS = 5.0
"""What is promised; a loaded machine is given twice as long before the test fails."""


Way = Callable[[Served, Someone, asyncio.Event], Coroutine[Any, Any, None]]


@pytest_asyncio.fixture
async def other(make_settings: MakeSettings) -> AsyncIterator[Served]:
    """Another server on the same database, which shares nothing with `whole` but that."""
    async with serving(create_app(make_settings())) as served:
        yield served


async def socket(served: Served, login: Someone, began: asyncio.Event) -> None:
    async with opened(served, login) as connection:
        await say(connection, subscribe(FOLLOW))
        began.set()
        with pytest.raises(ConnectionClosed) as ended:
            while True:
                await hear(connection)
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == 4401


async def idle_socket(served: Served, login: Someone, began: asyncio.Event) -> None:
    async with opened(served, login) as connection:
        began.set()
        with pytest.raises(ConnectionClosed) as ended:
            await hear(connection)
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == 4401


def stream(accept: str) -> Way:
    async def follow(served: Served, login: Someone, began: asyncio.Event) -> None:
        headers = {"accept": accept, "authorization": f"Bearer {login.token}"}
        body = b""
        async with served.client.stream(
            "POST", "/graphql", json={"query": FOLLOW}, headers=headers
        ) as response:
            assert response.status_code == 200
            began.set()
            async for chunk in response.aiter_raw():
                body += chunk
        assert b"UNAUTHENTICATED" in body

    return follow


async def test_a_login_that_is_revoked_elsewhere_loses_all_that_it_has_open(
    whole: Served, other: Served
) -> None:
    thief = await sign_up(whole)
    ways: tuple[Way, ...] = (socket, idle_socket, stream(EVENTS), stream(APOLLO))
    tasks: list[asyncio.Task[None]] = []
    for way in ways:
        began = asyncio.Event()
        tasks.append(asyncio.create_task(way(whole, thief, began)))
        await asyncio.wait_for(began.wait(), 10)
    assert await thief.ask("{ viewer { id } }")
    person = Someone(other, thief.token)
    await person.ask("mutation { logOut(input: {}) { problems { code } } }")
    async with asyncio.timeout(2 * SECONDS):
        await asyncio.gather(*tasks)
        while "errors" not in await thief.execute("{ viewer { id } }"):  # noqa: ASYNC110  # polls
            await asyncio.sleep(0.1)
