"""Messages: append, edit beside, choose the active branch."""

from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from db.constraints import violated
from db.models.conversations import Message
from schema import ids
from tests.conftest import NewPerson
from tests.conversations.talks import active, edit, read, say, start, talk
from tests.mutations import done, refused, rules
from tests.people import Person

SHOWN = """
    message {
      id role status content metadata model inputTokens outputTokens depth version createdAt
      parent { id } parts { nodes { position type text data toolCallId } }
    }
    conversation { id version lastMessageAt activeLeaf { id } }
"""
FRESH = "message_01a1fb4da1727cc49b0e0c794bb7f082"
UNKNOWN = ids.encode("message", UUID(int=7))
PARTS: list[dict[str, Any]] = [
    {"type": "TOOL_CALL", "data": {"name": "search"}, "toolCallId": "call-1"},
    {"type": "TEXT", "text": "and text"},
]


async def test_a_message_has_what_it_was_given_and_becomes_the_active_leaf(person: Person) -> None:
    conversation = await start(person)
    given = {
        "role": "ASSISTANT",
        "content": "Hello",
        "metadata": {"a": 1},
        "model": "m-1",
        "inputTokens": 3,
        "outputTokens": 2,
    }
    payload = await done(
        person, "appendMessage", SHOWN, id=FRESH, conversationId=conversation, parts=PARTS, **given
    )
    message = payload["message"]
    assert message | given == message
    assert (message["id"], message["status"], message["depth"]) == (FRESH, "COMPLETE", 0)
    assert message["parent"] is None
    assert message["parts"]["nodes"] == [
        {"position": 0, "text": None, **PARTS[0]},
        {"position": 1, "data": None, "toolCallId": None, **PARTS[1]},
    ]
    assert payload["conversation"] == {
        "id": conversation,
        "version": 2,
        "lastMessageAt": message["createdAt"],
        "activeLeaf": {"id": FRESH},
    }


async def test_a_message_follows_the_active_leaf_or_the_parent_it_names(person: Person) -> None:
    conversation, (first, second) = await talk(person, "a", "b")
    payload = await done(
        person,
        "appendMessage",
        SHOWN,
        conversationId=conversation,
        parentId=first,
        role="USER",
        content="B",
    )
    assert payload["message"]["parent"] == {"id": first}
    assert payload["message"]["depth"] == 1
    await say(person, conversation, "C")
    assert await active(person, conversation) == ["a", "B", "C"]
    found = await read(person, conversation, f'branch(leafId: "{second}") {{ totalCount }}')
    assert found["branch"] == {"totalCount": 2}


async def test_only_the_first_message_follows_none(person: Person) -> None:
    conversation = await start(person)
    await say(person, conversation, "a", parentId=None)
    problems = await refused(
        person, "appendMessage", conversationId=conversation, role="USER", parentId=None
    )
    assert rules(problems) == {"parentId": "first"}
    assert await active(person, conversation) == ["a"]


async def test_a_parent_is_a_message_of_the_conversation(
    person: Person, new_person: NewPerson
) -> None:
    conversation, _ = await talk(person, "a")
    _, (elsewhere,) = await talk(person, "b")
    _, (foreign,) = await talk(await new_person(), "c")
    for parent in (elsewhere, foreign, UNKNOWN):
        problems = await refused(
            person, "appendMessage", conversationId=conversation, role="USER", parentId=parent
        )
        assert rules(problems) == {"parentId": "reference"}
    assert await active(person, conversation) == ["a"]


async def test_the_key_refuses_a_parent_in_another_conversation(
    person: Person, admin_engine: AsyncEngine
) -> None:
    conversation, _ = await talk(person, "a")
    _, (elsewhere,) = await talk(person, "b")
    row = {
        "owner_id": person.owner_id,
        "conversation_id": ids.decode(conversation)[1],
        "parent_id": ids.decode(elsewhere)[1],
        "depth": 1,
        "role": "user",
    }
    async with admin_engine.connect() as connection:
        with pytest.raises(IntegrityError) as caught:
            await connection.execute(Message.__table__.insert(), row)
    assert violated(caught.value) == "fk_messages_parent_id"


async def test_every_bad_value_is_named_at_once(person: Person) -> None:
    conversation = await start(person)
    problems = await refused(
        person,
        "appendMessage",
        id=ids.encode("message", UUID(int=7)),
        conversationId=f"{conversation}0",
        parentId=conversation,
        role="USER",
        content="a\0b",
        metadata={"a": "x" * 70_000},
        model="",
        inputTokens=-1,
        outputTokens=-(2**31),
        parts=[
            {"type": "TEXT", "text": "fine"},
            {"type": "TEXT", "text": "\ud800", "toolCallId": "", "data": {"a": "x" * 300_000}},
        ],
    )
    assert rules(problems) == {
        "id": "uuidv7",
        "conversationId": "id",
        "parentId": "id",
        "content": "characters",
        "metadata": "value",
        "model": "min_length",
        "inputTokens": "ge",
        "outputTokens": "ge",
        "parts.1.text": "characters",
        "parts.1.toolCallId": "min_length",
        "parts.1.data": "value",
    }
    assert await read(person, conversation, "version root { id }") == {"version": 1, "root": None}


async def test_lengths_are_bounded(person: Person) -> None:
    conversation = await start(person)
    longest = "é" * 1_000_000
    await say(person, conversation, longest)
    problems = await refused(
        person,
        "appendMessage",
        conversationId=conversation,
        role="USER",
        content=f"{longest}x",
        parts=[{"type": "TEXT"}] * 101,
    )
    assert rules(problems) == {"content": "max_length", "parts": "max_items"}
    assert [problem["bound"] for problem in problems] == ["1000000", "100"]


async def test_a_conversation_that_is_not_there_takes_no_message(
    person: Person, new_person: NewPerson
) -> None:
    deleted = await start(person)
    await done(person, "deleteConversation", "conversation { id }", id=deleted)
    foreign = await start(await new_person())
    for conversation in (deleted, foreign):
        (problem,) = await refused(
            person, "appendMessage", conversationId=conversation, role="USER", content="x"
        )
        assert problem["code"] == "NOT_FOUND"
        assert problem["path"] == ["input", "conversationId"]


async def test_an_id_is_used_once(person: Person) -> None:
    conversation, (first,) = await talk(person, "a")
    problems = await refused(
        person, "appendMessage", id=first, conversationId=conversation, role="USER"
    )
    assert rules(problems) == {"id": "unique"}
    problems = await refused(person, "editMessage", id=first, newId=first)
    assert rules(problems) == {"newId": "unique"}


async def test_an_edit_keeps_what_it_does_not_name(person: Person) -> None:
    conversation = await start(person)
    original = await done(
        person,
        "appendMessage",
        SHOWN,
        conversationId=conversation,
        role="ASSISTANT",
        content="Hello",
        metadata={"a": 1},
        model="m-1",
        outputTokens=2,
        parts=PARTS,
    )
    first = original["message"]
    payload = await done(person, "editMessage", SHOWN, id=first["id"], newId=FRESH, content="Bye")
    variant = payload["message"]
    # Tokens are counted for one text, and this is another.
    differing = {"id": FRESH, "content": "Bye", "outputTokens": None}
    assert variant == {**first, **differing, "createdAt": variant["createdAt"]}
    assert payload["conversation"]["activeLeaf"] == {"id": FRESH}
    assert payload["conversation"]["lastMessageAt"] == variant["createdAt"]
    document = "query($id: ID!) { node(id: $id) { ... on Message { content version } } }"
    old = await person.ask(document, id=first["id"])
    assert old["node"] == {"content": "Hello", "version": 1}


async def test_an_edit_may_replace_all_but_the_place_and_the_role(person: Person) -> None:
    conversation = await start(person)
    await say(person, conversation, "a")
    second = await say(person, conversation, "b", parts=PARTS, model="m-1")
    given = {"content": "B", "metadata": {"b": 2}, "model": None, "inputTokens": 1}
    payload = await done(person, "editMessage", SHOWN, id=second, parts=[], **given)
    variant = payload["message"]
    assert variant | given == variant
    assert variant["depth"] == 1
    assert variant["role"] == "USER"
    assert variant["parts"]["nodes"] == []
    problems = await refused(person, "editMessage", id=second, parts=None, content=None)
    assert rules(problems) == {"parts": "not_null", "content": "not_null"}


async def test_an_edit_minds_the_version_it_was_based_on(person: Person) -> None:
    _, (first,) = await talk(person, "a")
    (problem,) = await refused(person, "editMessage", id=first, content="b", expectedVersion=2)
    current = {"__typename": "Message", "id": first}
    assert (problem["code"], problem["current"]) == ("CONFLICT", current)
    assert problem["currentVersion"] == 1
    await edit(person, first, "b", expectedVersion=1)


async def test_what_is_not_the_callers_cannot_be_edited(
    person: Person, new_person: NewPerson
) -> None:
    _, (foreign,) = await talk(await new_person(), "a")
    conversation, (deleted,) = await talk(person, "b")
    await done(person, "deleteConversation", "conversation { id }", id=conversation)
    for message in (foreign, deleted, UNKNOWN):
        (problem,) = await refused(person, "editMessage", id=message, content="x")
        assert (problem["code"], problem["path"]) == ("NOT_FOUND", ["input", "id"])


async def test_the_active_leaf_is_exactly_the_message_that_is_named(person: Person) -> None:
    conversation, (first, second, _) = await talk(person, "a", "b", "c")
    payload = await done(
        person,
        "setActiveLeaf",
        "conversation { version activeLeaf { id } messages { nodes { content } } }",
        conversationId=conversation,
        messageId=second,
        expectedVersion=4,
    )
    assert payload["conversation"] == {
        "version": 5,
        "activeLeaf": {"id": second},
        "messages": {"nodes": [{"content": "a"}, {"content": "b"}]},
    }
    await say(person, conversation, "C")
    assert await active(person, conversation) == ["a", "b", "C"]
    problems = await refused(
        person,
        "setActiveLeaf",
        conversationId=conversation,
        messageId=first,
        expectedVersion=5,
    )
    assert problems[0]["code"] == "CONFLICT"
    assert problems[0]["current"] == {"__typename": "Conversation", "id": conversation}


async def test_the_active_leaf_is_of_the_conversation(
    person: Person, new_person: NewPerson
) -> None:
    conversation, _ = await talk(person, "a")
    other, (elsewhere,) = await talk(person, "b")
    stranger = await new_person()
    foreign_conversation, (foreign,) = await talk(stranger, "c")
    for message in (elsewhere, foreign, UNKNOWN):
        problems = await refused(
            person, "setActiveLeaf", conversationId=conversation, messageId=message
        )
        assert rules(problems) == {"messageId": "reference"}
    (problem,) = await refused(
        person, "setActiveLeaf", conversationId=foreign_conversation, messageId=foreign
    )
    assert (problem["code"], problem["path"]) == ("NOT_FOUND", ["input", "conversationId"])
    problems = await refused(person, "setActiveLeaf", conversationId="x", messageId=other)
    assert rules(problems) == {"conversationId": "id", "messageId": "id"}


async def test_an_append_costs_a_fixed_number_of_statements(person: Person) -> None:
    conversation = await start(person)
    counts = []
    for parts in (0, 1, 100):
        await say(person, conversation, "x", parts=[{"type": "TEXT", "text": "y"}] * parts)
        counts.append(len(person.statements))
    # Lock, look, insert, move the leaf; the parts, and reading the parent for the answer.
    assert counts == [4, 6, 6]


async def test_changes_are_written_to_the_audit_log(person: Person) -> None:
    conversation, (first,) = await talk(person, "a")
    await edit(person, first, "b")
    await done(
        person, "setActiveLeaf", "conversation { id }", conversationId=conversation, messageId=first
    )
    data = await person.ask("{ auditEvents(last: 50) { nodes { action entityType after } } }")
    events = [(e["entityType"], e["action"]) for e in data["auditEvents"]["nodes"]]
    assert sorted(events) == sorted(
        [
            ("conversation", "create"),
            *[("message", "create"), ("conversation", "update")] * 2,
            ("conversation", "update"),
        ]
    )


async def test_rows_of_the_message_and_its_place_agree(
    person: Person, admin_engine: AsyncEngine
) -> None:
    conversation, _ = await talk(person, "a", "b", "c")
    times = sa.text(
        "SELECT m.created_at > lag(m.created_at) OVER (ORDER BY m.depth) AS later,"
        " m.created_at = c.last_message_at AS last FROM messages m JOIN conversations c"
        " ON c.owner_id = m.owner_id AND c.id = m.conversation_id WHERE c.id = :id"
        " ORDER BY m.depth"
    )
    async with admin_engine.connect() as connection:
        rows = (await connection.execute(times, {"id": ids.decode(conversation)[1]})).all()
    assert [tuple(row) for row in rows] == [(None, False), (True, False), (True, True)]
