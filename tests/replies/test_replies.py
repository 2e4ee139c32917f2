"""Replies from the first word to the last, as a client sees them."""

import asyncio
import json
from typing import Any

import pytest

from tests.edge.conftest import Served
from tests.edge.waiting import until
from tests.edge.whole import Someone, sign_up
from tests.provider import KEY, NOISE, FakeProvider, words
from tests.replies.chats import (
    REGENERATE,
    STOP,
    ask,
    ended,
    following,
    fresh,
    read,
    send,
    sent,
    start,
)


async def test_a_message_is_answered(someone: Someone, provider: FakeProvider) -> None:
    said = fresh()
    payload = await sent(someone, said)
    assert payload["message"]["content"] == said
    assert payload["reply"] == {
        "id": payload["reply"]["id"],
        "status": "PENDING",
        "content": "",
        "model": "echo",
        "inputTokens": None,
        "outputTokens": None,
        "version": 1,
        "parent": {"id": payload["message"]["id"]},
    }
    assert payload["conversation"]["activeLeaf"]["id"] == payload["reply"]["id"]
    found = await ended(someone, payload["generation"]["id"])
    message = found["assistantMessage"]
    assert message["content"] == f"You said: {said} "
    assert (message["status"], found["status"]) == ("COMPLETE", "COMPLETE")
    assert found["finishReason"] == "stop"
    assert found["error"] is None
    assert (message["inputTokens"], message["outputTokens"]) == (1, 6)
    assert (found["inputTokens"], found["outputTokens"]) == (1, 6)
    [asked] = provider.about(said)
    assert asked.key == KEY
    assert asked.body["messages"] == [{"role": "user", "content": said}]
    assert asked.body["stream"] is True


async def test_it_can_be_followed_from_the_first_word(
    someone: Someone, replying: Served, provider: FakeProvider
) -> None:
    said = fresh()
    payload = await sent(someone, said, "gated-4")
    generation = payload["generation"]["id"]
    async with following(replying.url, someone, generation) as followed:
        for count in (1, 2):
            provider.release(said)
            await followed.until(words(count))
        assert (await read(someone, generation))["status"] == "STREAMING"
        provider.release(said, 3)
        last = await followed.to_the_end()
    # the last of it may come with the message alone
    assert words(4).startswith(followed.text)
    assert followed.seqs == sorted(followed.seqs)
    assert last["message"]["content"] == words(4)
    assert last["message"]["status"] == "COMPLETE"
    assert last["problem"] is None
    assert last["seq"] == (await read(someone, generation))["lastSeq"] >= followed.seqs[-2]


async def test_it_is_taken_up_where_it_broke_off(
    someone: Someone, replying: Served, provider: FakeProvider
) -> None:
    said = fresh()
    generation = (await sent(someone, said, "gated-6"))["generation"]["id"]
    provider.release(said, 2)
    async with following(replying.url, someone, generation) as first:
        await first.until(words(2))
    provider.release(said, 2)
    async with following(replying.url, someone, generation, after=first.seq) as second:
        second.text = first.text
        await second.until(words(4))
        assert second.seqs[0] > first.seq
        provider.release(said, 3)
        assert (await second.to_the_end())["message"]["content"] == words(6)
    # what has ended is told at once, whole
    async with following(replying.url, someone, generation, after=first.seq) as third:
        assert (await third.to_the_end())["message"]["content"] == words(6)
        assert third.text == ""


async def test_a_client_that_goes_away_changes_nothing(
    someone: Someone, replying: Served, provider: FakeProvider
) -> None:
    said = fresh()
    generation = (await sent(someone, said, "gated-3"))["generation"]["id"]
    provider.release(said)
    async with following(replying.url, someone, generation) as followed:
        await followed.until(words(1))
    provider.release(said, 3)
    assert (await ended(someone, generation))["assistantMessage"]["content"] == words(3)


async def test_a_reply_is_stopped_and_keeps_what_was_written(
    someone: Someone, replying: Served, provider: FakeProvider
) -> None:
    said = fresh()
    generation = (await sent(someone, said, "gated"))["generation"]["id"]
    provider.release(said, 2)
    async with following(replying.url, someone, generation) as followed:
        await followed.until(words(2))
        payload = await ask(someone, STOP, id=generation)
        assert payload["problems"] == []
        assert payload["message"]["content"] == words(2)
        assert payload["message"]["status"] == payload["generation"]["status"] == "STOPPED"
        assert payload["generation"]["stopRequestedAt"] is not None
        last = await followed.to_the_end()
    assert last["message"]["status"] == "STOPPED"
    assert last["problem"] is None
    [asked] = provider.about(said)
    await until(lambda: asked.gone)
    provider.release(said, 5)
    again = await ask(someone, STOP, id=generation)
    assert again["generation"] == payload["generation"]
    assert (await read(someone, generation))["assistantMessage"]["content"] == words(2)


async def test_another_answer_stands_beside_the_old_one(
    someone: Someone, provider: FakeProvider
) -> None:
    said = fresh()
    payload = await sent(someone, said)
    await ended(someone, payload["generation"]["id"])
    anew = await ask(
        someone, REGENERATE, input={"id": payload["reply"]["id"], "reply": {"model": "words-3-0"}}
    )
    assert anew["problems"] == []
    assert anew["message"]["id"] == payload["message"]["id"]
    assert anew["reply"]["parent"]["id"] == payload["message"]["id"]
    assert anew["reply"]["id"] != payload["reply"]["id"]
    found = await ended(someone, anew["generation"]["id"])
    assert found["assistantMessage"]["content"] == words(3)
    assert found["assistantMessage"]["model"] == "words-3-0"
    siblings = await ask(
        someone,
        """query($id: ID!) { node(id: $id) { ... on Message { children { nodes { content
        generation { model userMessage { id } } } } } } }""",
        id=payload["message"]["id"],
    )
    mine = {"id": payload["message"]["id"]}
    assert siblings["children"]["nodes"] == [
        {"content": f"You said: {said} ", "generation": {"model": "echo", "userMessage": mine}},
        {"content": words(3), "generation": {"model": "words-3-0", "userMessage": mine}},
    ]
    assert [asked.body["messages"] for asked in provider.about(said)] == [
        [{"role": "user", "content": said}]
    ] * 2


async def test_a_message_that_was_only_added_can_be_answered_later(someone: Someone) -> None:
    conversation = await start(someone)
    said = fresh()
    added = await ask(
        someone,
        "mutation($input: AppendMessageInput!) { appendMessage(input: $input)"
        " { message { id } problems { message } } }",
        input={"conversationId": conversation, "role": "USER", "content": said},
    )
    payload = await ask(someone, REGENERATE, input={"id": added["message"]["id"]})
    assert payload["problems"] == []
    assert payload["message"]["content"] == said
    found = await ended(someone, payload["generation"]["id"])
    assert found["assistantMessage"]["content"] == f"You said: {said} "


async def test_what_the_model_thought_and_called_are_parts(
    someone: Someone, replying: Served, provider: FakeProvider
) -> None:
    for model in ("thinks", "thinks-openrouter"):
        generation = (await sent(someone, fresh(), model))["generation"]["id"]
        async with following(replying.url, someone, generation) as followed:
            await followed.to_the_end()
        message = (await read(someone, generation))["assistantMessage"]
        assert message["content"] == "Yes."
        assert message["parts"]["nodes"] == [
            {"type": "REASONING", "text": "Let me think.", "data": None, "toolCallId": None}
        ]
    said = fresh()
    tools = {"weather": {"description": "The weather.", "parameters": {"type": "object"}}}
    payload = await sent(someone, said, "tools", reply={"tools": tools, "temperature": 0.5})
    found = await ended(someone, payload["generation"]["id"])
    assert found["finishReason"] == "tool_calls"
    message = found["assistantMessage"]
    assert message["content"] == "I look it up."
    assert message["parts"]["nodes"] == [
        {
            "type": "TOOL_CALL",
            "text": None,
            "data": {"name": name, "arguments": '{"place": "Bern"}'},
            "toolCallId": f"call_{name}",
        }
        for name in ("weather", "time")
    ]
    [asked] = provider.about(said)
    assert asked.body["temperature"] == 0.5
    assert asked.body["tools"] == [
        {"type": "function", "function": {"name": "weather", **tools["weather"]}}
    ]


@pytest.mark.parametrize("model", ["tools-same", "tools-none"])
async def test_calls_of_tools_are_told_apart_by_their_ids(someone: Someone, model: str) -> None:
    """Some providers give each call the index 0, or none."""
    found = await ended(someone, (await sent(someone, fresh(), model))["generation"]["id"])
    assert [
        (part["toolCallId"], part["data"]["name"], part["data"]["arguments"])
        for part in found["assistantMessage"]["parts"]["nodes"]
    ] == [(f"call_{name}", name, '{"place": "Bern"}') for name in ("weather", "time")]


async def test_events_without_data_say_nothing(someone: Someone) -> None:
    found = await ended(someone, (await sent(someone, fresh(), "noisy"))["generation"]["id"])
    assert (found["status"], found["error"]) == ("COMPLETE", None)
    assert found["assistantMessage"]["content"] == words(len(NOISE))


async def test_a_provider_may_end_without_a_reason(someone: Someone) -> None:
    found = await ended(someone, (await sent(someone, fresh(), "done-3"))["generation"]["id"])
    assert (found["status"], found["error"], found["finishReason"]) == ("COMPLETE", None, None)
    assert found["assistantMessage"]["content"] == words(3)
    assert found["outputTokens"] is not None


async def test_results_of_tools_go_back_to_the_model(
    someone: Someone, provider: FakeProvider
) -> None:
    conversation = await start(someone)
    said = fresh()
    first = await sent(someone, said, "tools", conversation=conversation)
    await ended(someone, first["generation"]["id"])
    await ask(
        someone,
        "mutation($input: AppendMessageInput!) { appendMessage(input: $input)"
        " { problems { message } } }",
        input={
            "conversationId": conversation,
            "role": "TOOL",
            "content": "Rain",
            "parts": [{"type": "TOOL_RESULT", "toolCallId": "call_weather"}],
        },
    )
    noon = fresh("Noon")
    result = {"type": "TOOL_RESULT", "toolCallId": "call_time"}
    payload = await sent(someone, noon, conversation=conversation, role="TOOL", parts=[result])
    await ended(someone, payload["generation"]["id"])
    [asked] = provider.about(noon)
    function = {"arguments": '{"place": "Bern"}'}
    assert asked.body["messages"] == [
        {"role": "user", "content": said},
        {
            "role": "assistant",
            "content": "I look it up.",
            "tool_calls": [
                {"id": f"call_{name}", "type": "function", "function": {"name": name, **function}}
                for name in ("weather", "time")
            ],
        },
        {"role": "tool", "tool_call_id": "call_weather", "content": "Rain"},
        {"role": "tool", "tool_call_id": "call_time", "content": noon},
    ]


async def test_what_was_sent_is_recorded(someone: Someone) -> None:
    payload = await sent(someone, fresh(), reply={"instructions": "Be brief."})
    found = await ended(someone, payload["generation"]["id"])
    instructions, message = found["context"]["sent"]
    assert instructions["instructions"] is True
    assert message["message"] == payload["message"]["id"]
    assert len(message["sha256"]) == len(instructions["sha256"]) == 64


async def test_no_answer_to_an_unfinished_one(someone: Someone, provider: FakeProvider) -> None:
    conversation = await start(someone)
    said = fresh()
    first = await sent(someone, said, "gated-1", conversation=conversation)
    refused = await send(someone, "And?", conversation=conversation)
    [problem] = refused["problems"]
    assert (problem["code"], problem["path"]) == ("VALIDATION", ["input", "parentId"])
    provider.release(said, 2)
    await ended(someone, first["generation"]["id"])
    assert (await send(someone, "And?", conversation=conversation))["problems"] == []


@pytest.mark.parametrize(
    ("input", "path"),
    [
        ({"role": "ASSISTANT"}, "role"),
        ({"reply": {"temperature": 2.5}}, "reply.temperature"),
        ({"reply": {"maxOutputTokens": 0}}, "reply.maxOutputTokens"),
        ({"reply": {"model": ""}}, "reply.model"),
        ({"reply": {"tools": {"a": 1}}}, "reply.tools.a"),
        ({"replyId": "message_00"}, "replyId"),
    ],
)
async def test_a_bad_field_is_named(someone: Someone, input: dict[str, Any], path: str) -> None:
    payload = await send(someone, "Hello", **input)
    [problem] = payload["problems"]
    assert problem["code"] == "VALIDATION"
    assert ".".join(problem["path"][1:]) == path
    assert payload["generation"] is None


async def test_strangers_see_stop_and_follow_nothing(
    someone: Someone, replying: Served, provider: FakeProvider
) -> None:
    said = fresh()
    payload = await sent(someone, said, "gated-2")
    generation, reply = payload["generation"]["id"], payload["reply"]["id"]
    stranger = await sign_up(replying)
    stopped = await ask(stranger, STOP, id=generation)
    assert [problem["code"] for problem in stopped["problems"]] == ["NOT_FOUND"]
    anew = await ask(stranger, REGENERATE, input={"id": reply})
    assert [problem["code"] for problem in anew["problems"]] == ["NOT_FOUND"]
    body = await stranger.execute("query($id: ID!) { node(id: $id) { id } }", id=generation)
    assert body["data"] == {"node": None}
    async with following(replying.url, stranger, generation) as followed:
        assert await followed.next() is None
        assert [error["extensions"]["code"] for error in followed.errors] == ["NOT_FOUND"]
    provider.release(said, 3)
    assert (await ended(someone, generation))["status"] == "COMPLETE"


async def test_twenty_clicks_are_one_request(someone: Someone, provider: FakeProvider) -> None:
    conversation = await start(someone)
    said = fresh()
    payloads = await asyncio.gather(
        *(sent(someone, said, conversation=conversation, idempotencyKey=said) for _ in range(20))
    )
    assert len({json.dumps(payload["reply"]) for payload in payloads}) == 1
    await ended(someone, payloads[0]["generation"]["id"])
    await sent(someone, said, conversation=conversation, idempotencyKey=said)
    assert len(provider.about(said)) == 1
    messages = await ask(
        someone,
        "query($id: ID!) { conversation(id: $id) { messages { totalCount } } }",
        id=conversation,
    )
    assert messages["messages"]["totalCount"] == 2


async def test_the_caller_may_choose_the_ids(someone: Someone) -> None:
    first, second = (f"message_01a1fbf899d176d{n}b0e5881acb267c60" for n in "45")
    payload = await sent(someone, fresh(), id=first, replyId=second)
    assert (payload["message"]["id"], payload["reply"]["id"]) == (first, second)
    await ended(someone, payload["generation"]["id"])


async def test_the_models_are_told(someone: Someone) -> None:
    assert (await someone.ask("{ replyModels }")) == {"replyModels": ["echo"]}
