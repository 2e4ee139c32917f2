"""While the provider is silent nothing is held, and followers are told over any transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from db.engine import create_engine
from server.app import create_app
from tests.edge.conftest import MakeSettings, Served, serving
from tests.edge.sockets import hear, opened, say
from tests.edge.waiting import until
from tests.edge.whole import Someone, sign_up
from tests.provider import KEY, FakeProvider, words
from tests.replies.chats import STREAM, ended, following, fresh, sent

STREAMS = 30


@pytest_asyncio.fixture
async def small(database_url: str) -> AsyncIterator[AsyncEngine]:
    """A pool of two connections."""
    engine = create_engine(database_url, pool_size=2)
    yield engine
    await engine.dispose()


async def test_many_silent_streams_hold_no_connection(
    small: AsyncEngine, provider: FakeProvider, make_settings: MakeSettings
) -> None:
    settings = make_settings(
        llm_base_url=provider.url, llm_api_key=SecretStr(KEY), llm_model="gated-3",
        database_pool_size=2,
    )  # fmt: skip
    pool: Any = small.pool
    async with serving(create_app(settings, engine=small)) as served:
        someone = await sign_up(served)
        said = [fresh() for _ in range(STREAMS)]
        payloads = await asyncio.gather(*(sent(someone, text) for text in said))
        ids = [payload["generation"]["id"] for payload in payloads]
        await until(lambda: all(provider.about(text) for text in said))

        async def follow(text: str, id: str) -> str:
            async with following(served.url, someone, id) as followed:
                await followed.until(words(1))
                last = await followed.to_the_end()
            content: str = last["message"]["content"]
            return content

        following_all = [asyncio.create_task(follow(*one)) for one in zip(said, ids, strict=True)]
        for text in said:
            provider.release(text)
        # all of them wait for the provider now, and followers for them
        await until(lambda: pool.checkedout() == 0)
        for _ in range(20):
            await someone.ask("{ viewer { id } }")
            await until(lambda: pool.checkedout() == 0)
        for text in said:
            provider.release(text, 3)
        assert await asyncio.gather(*following_all) == [words(3)] * STREAMS
        for id in ids:
            assert (await ended(someone, id))["status"] == "COMPLETE"


async def test_it_is_followed_over_a_socket(
    someone: Someone, replying: Served, provider: FakeProvider
) -> None:
    said = fresh()
    generation = (await sent(someone, said, "gated-2"))["generation"]["id"]
    async with opened(replying, someone) as connection:
        payload = {"query": STREAM, "variables": {"id": generation}}
        await say(connection, {"type": "subscribe", "id": "1", "payload": payload})
        provider.release(said)
        first = await hear(connection)
        event = first["payload"]["data"]["generationStream"]
        assert (event["seq"], event["text"], event["message"]) == (1, words(1), None)
        provider.release(said, 2)
        while event["message"] is None:
            event = (await hear(connection))["payload"]["data"]["generationStream"]
        assert event["message"]["content"] == words(2)
        assert await hear(connection) == {"type": "complete", "id": "1"}


async def test_a_deleted_conversation_is_written_no_further(
    someone: Someone, replying: Served, provider: FakeProvider
) -> None:
    said = fresh()
    payload = await sent(someone, said, "gated")
    conversation, generation = payload["conversation"]["id"], payload["generation"]["id"]
    provider.release(said)
    async with following(replying.url, someone, generation) as followed:
        await followed.until(words(1))
        await someone.ask(
            "mutation($id: ID!) { deleteConversation(input: {id: $id}) { problems { message } } }",
            id=conversation,
        )
        provider.release(said)
        [asked] = provider.about(said)
        await until(lambda: asked.gone)
        assert await followed.next() is None
    await someone.ask(
        "mutation($id: ID!) { restoreConversation(input: {id: $id}) { problems { message } } }",
        id=conversation,
    )
    found = await ended(someone, generation)
    assert (found["status"], found["assistantMessage"]["content"]) == ("INTERRUPTED", words(1))
