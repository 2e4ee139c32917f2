"""What a model is sent."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from db.models.conversations import PartType
from db.repositories.conversations_citations import Passage, cite, passages_of
from db.repositories.conversations_prompts import Said, branch_of
from schema import ids
from server.replies.prompt import assemble
from tests.conftest import OpenSession
from tests.conversations.talks import edit, say, start
from tests.people import Person


def said(role: str, content: str = "", *parts: dict[str, Any]) -> Said:
    """A message of a branch."""
    empty = {"text": None, "data": None, "tool_call_id": None}
    return Said(uuid4(), role, content, [{**empty, **part} for part in parts])


def call(id: str) -> dict[str, Any]:
    """The part of a called tool."""
    return {
        "type": PartType.TOOL_CALL,
        "tool_call_id": id,
        "data": {"name": "f", "arguments": "{}"},
    }


def result(id: str) -> dict[str, Any]:
    """The part of what a tool answered."""
    return {"type": PartType.TOOL_RESULT, "tool_call_id": id, "text": "42"}


def roles(*branch: Said) -> list[str]:
    return [message["role"] for message in assemble(branch).messages]


def test_instructions_and_passages_come_first() -> None:
    passage = Passage(uuid4(), uuid4(), "Water boils at 100 degrees.", 5, 32, 0.9)
    prompt = assemble([said("system", "Be kind."), said("user", "When?")], [passage], "Be brief.")
    assert [message["role"] for message in prompt.messages] == ["system"] * 3 + ["user"]
    assert prompt.messages[0]["content"] == "Be brief."
    assert "[1] Water boils at 100 degrees." in prompt.messages[1]["content"]
    assert len(prompt.context["sent"]) == 4
    assert prompt.context["sent"][1]["chunk"] == f"chunk_{passage.chunk_id.hex}"  # type: ignore[union-attr]  # it has one


def test_calls_and_results_come_in_pairs() -> None:
    ask, answer = said("user", "?"), said("assistant", "", call("a"), call("b"))
    tools = [said("tool", "", result(id)) for id in "ab"]
    messages = assemble([ask, answer, *tools]).messages
    assert [one["id"] for one in messages[1]["tool_calls"]] == ["a", "b"]
    assert [one["tool_call_id"] for one in messages[2:]] == ["a", "b"]
    assert messages[2]["content"] == "42"
    # one result is missing: so is its call
    assert len(assemble([ask, answer, tools[0]]).messages[1]["tool_calls"]) == 1
    # none is there, and no text: the answer says nothing
    assert roles(ask, answer, said("user", "!")) == ["user", "user"]
    # the budget ended between them
    assert roles(*tools, said("user", "!")) == ["user"]


def test_answers_without_a_word_are_left_out() -> None:
    assert roles(said("user", "a"), said("assistant"), said("user", "b")) == ["user", "user"]


def test_pictures_go_by_their_address() -> None:
    picture = {"type": PartType.IMAGE, "data": {"url": "https://example.org/a.png"}}
    other = {"type": PartType.FILE, "data": {"name": "a.pdf"}}
    [message] = assemble([said("user", "Look", picture, other)]).messages
    assert message["content"] == [
        {"type": "text", "text": "Look"},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
    ]


async def test_the_branch_reaches_as_far_back_as_the_budget(
    person: Person, open_session: OpenSession
) -> None:
    conversation = await start(person)
    await say(person, conversation, "rules", role="SYSTEM")
    for number in range(6):
        role = "ASSISTANT" if number % 2 else "USER"
        last = await say(person, conversation, f"{number}" * 10, role=role)
    other = await edit(person, last, "elsewhere")
    session = open_session(person.owner_id)

    async def read(leaf: str, most: int) -> list[str]:
        return [one.content for one in await branch_of(session, ids.decode(leaf)[1], most)]

    assert await read(last, 1_000) == ["rules", *(f"{number}" * 10 for number in range(6))]
    assert await read(last, 30) == ["rules", "3" * 10, "4" * 10, "5" * 10]
    assert await read(last, 29) == ["rules", "4" * 10, "5" * 10]
    # what is asked is always sent
    assert await read(last, 1) == ["rules", "5" * 10]
    assert await read(other, 19) == ["rules", "4" * 10, "elsewhere"]
    assert await read(other, 17) == ["rules", "elsewhere"]


async def test_nobody_elses_branch_is_read(person: Person, open_session: OpenSession) -> None:
    message = await say(person, await start(person), "mine")
    stranger = open_session(uuid4())
    assert await branch_of(stranger, ids.decode(message)[1], 100) == []


async def test_passages_are_kept_as_they_were(person: Person, open_session: OpenSession) -> None:
    message = ids.decode(await say(person, await start(person), "Why?"))[1]
    passages = [Passage(None, None, f"quote {n}", n, n + 7, n / 4) for n in range(3)]
    session = open_session(person.owner_id)
    async with session.transaction():
        await cite(session, message, passages)
    assert await passages_of(session, message) == passages
    shown = await person.ask(
        "query($id: ID!) { node(id: $id) { ... on Message { citations { nodes {"
        " position quote start end score document { id } chunk { id } } } } } }",
        id=ids.encode("message", message),
    )
    assert shown["node"]["citations"]["nodes"][1] == {
        "position": 1, "quote": "quote 1", "start": 1, "end": 8, "score": 0.25,
        "document": None, "chunk": None,
    }  # fmt: skip


@pytest.mark.parametrize("arguments", [{"a": 1}, '{"a": 1}'])
def test_arguments_are_text(arguments: object) -> None:
    called = {**call("a"), "data": {"name": "f", "arguments": arguments}}
    messages = assemble([said("assistant", "", called), said("tool", "", result("a"))]).messages
    assert messages[0]["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'
