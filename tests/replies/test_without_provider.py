"""Without a provider nothing is asked of a model, and all else goes on."""

from collections.abc import AsyncIterator

import pytest_asyncio

from server.app import create_app
from tests.edge.conftest import MakeSettings, Served, serving
from tests.edge.whole import Someone, sign_up
from tests.replies.chats import REGENERATE, ask, send, start


@pytest_asyncio.fixture
async def alone(make_settings: MakeSettings) -> AsyncIterator[Served]:
    """A server that has no provider."""
    async with serving(create_app(make_settings())) as served:
        yield served


async def test_it_is_said_clearly(alone: Served) -> None:
    someone: Someone = await sign_up(alone)
    conversation = await start(someone)
    payload = await send(someone, "Hello", conversation=conversation, idempotencyKey="once")
    [problem] = payload["problems"]
    assert (problem["code"], problem["reason"]) == ("PROVIDER_UNAVAILABLE", "not_configured")
    assert "LLM_BASE_URL" in problem["message"]
    assert payload["message"] is payload["reply"] is payload["generation"] is None
    added = await ask(
        someone,
        "mutation($input: AppendMessageInput!) { appendMessage(input: $input)"
        " { message { id depth generation { id } } problems { message } } }",
        input={"conversationId": conversation, "role": "USER", "content": "Hello"},
    )
    assert added["problems"] == []
    # nothing of the refused one was stored
    assert added["message"]["depth"] == 0
    assert added["message"]["generation"] is None
    anew = await ask(someone, REGENERATE, input={"id": added["message"]["id"]})
    assert [problem["code"] for problem in anew["problems"]] == ["PROVIDER_UNAVAILABLE"]
    assert await someone.ask("{ replyModels }") == {"replyModels": []}
