"""Conversations: create, change, archive, delete, restore."""

from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from db.models.conversations import Message
from schema import ids
from tests.conftest import NewPerson
from tests.conversations.talks import active, edit, read, say, start, talk
from tests.mutations import do, done, refused, rules
from tests.people import Person

SHOWN = """
    conversation {
      id title metadata tags pinnedAt archivedAt lastMessageAt createdAt updatedAt deletedAt version
    }
"""
FRESH = "conversation_01a1fb4da1727cc49b0e0c794bb7f082"


async def test_a_new_conversation_has_what_it_was_given(person: Person) -> None:
    given = {"title": "Plans", "metadata": {"a": [1, None]}, "tags": ["x", "y"]}
    payload = await done(person, "createConversation", SHOWN, clientMutationId="7", **given)
    made = payload["conversation"]
    assert payload["clientMutationId"] == "7"
    assert made | given == made
    assert made["version"] == 1
    assert made["pinnedAt"] is made["archivedAt"] is made["deletedAt"] is None
    assert made["lastMessageAt"] == made["createdAt"] == made["updatedAt"]
    assert await read(person, made["id"], "title metadata tags version") == {**given, "version": 1}


async def test_a_conversation_needs_nothing(person: Person) -> None:
    made = (await done(person, "createConversation", SHOWN))["conversation"]
    assert made | {"title": None, "metadata": {}, "tags": []} == made


async def test_a_client_may_choose_the_id_once(person: Person, new_person: NewPerson) -> None:
    made = await done(person, "createConversation", SHOWN, id=FRESH)
    assert made["conversation"]["id"] == FRESH
    problems = await refused(person, "createConversation", id=FRESH)
    assert rules(problems) == {"id": "unique"}
    assert problems[0]["message"] == "Another conversation has this id."
    # Whether somebody else has it is nobody's business.
    await done(await new_person(), "createConversation", SHOWN, id=FRESH)


async def test_every_bad_value_is_named_at_once(person: Person) -> None:
    problems = await refused(
        person,
        "createConversation",
        id="conversation_00000000000000000000000000000000",
        title="x" * 256,
        metadata={"a": "x" * 70_000},
        tags=["ok", "", "x" * 101],
    )
    assert rules(problems) == {
        "id": "uuidv7",
        "title": "max_length",
        "metadata": "value",
        "tags.1": "min_length",
        "tags.2": "max_length",
    }
    bounds = {".".join(one["path"]): one["bound"] for one in problems}
    assert bounds["input.title"] == "255"
    assert (await person.ask("{ conversations { totalCount } }"))["conversations"] == {
        "totalCount": 0
    }


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
async def test_text_that_cannot_be_stored_is_refused(person: Person, text: str) -> None:
    problems = await refused(person, "createConversation", title=text, tags=[text])
    assert rules(problems) == {"title": "characters", "tags": "characters"}


async def test_an_update_changes_what_it_names(person: Person) -> None:
    conversation = await start(person, title="Old", tags=["keep"])
    payload = await done(
        person, "updateConversation", SHOWN, id=conversation, title="New", metadata={"n": 1}
    )
    changed = payload["conversation"]
    assert changed | {"title": "New", "metadata": {"n": 1}, "tags": ["keep"]} == changed
    assert changed["version"] == 2
    assert changed["updatedAt"] > changed["createdAt"]
    payload = await done(person, "updateConversation", SHOWN, id=conversation, title=None)
    assert payload["conversation"]["title"] is None


async def test_an_update_of_nothing_changes_nothing(person: Person) -> None:
    conversation = await start(person)
    payload = await done(person, "updateConversation", SHOWN, id=conversation, expectedVersion=1)
    assert payload["conversation"]["version"] == 1
    problems = await refused(person, "updateConversation", id=conversation, expectedVersion=2)
    assert problems[0]["code"] == "CONFLICT"


async def test_nulls_where_none_may_be_are_refused(person: Person) -> None:
    conversation = await start(person)
    problems = await refused(
        person, "updateConversation", id=conversation, metadata=None, tags=None, pinned=None
    )
    assert rules(problems) == dict.fromkeys(("metadata", "tags", "pinned"), "not_null")


async def test_a_pin_keeps_its_first_moment(person: Person) -> None:
    conversation = await start(person)

    async def pin(pinned: bool) -> Any:
        payload = await done(person, "updateConversation", SHOWN, id=conversation, pinned=pinned)
        return payload["conversation"]["pinnedAt"]

    first = await pin(True)
    assert first is not None
    assert await pin(True) == first
    assert await pin(False) is None


async def test_the_archive_takes_and_gives_back(person: Person) -> None:
    conversation = await start(person)
    payload = await done(person, "archiveConversation", SHOWN, id=conversation)
    moment = payload["conversation"]["archivedAt"]
    assert moment is not None
    payload = await done(person, "archiveConversation", SHOWN, id=conversation, expectedVersion=2)
    assert payload["conversation"]["archivedAt"] == moment
    payload = await done(person, "archiveConversation", SHOWN, id=conversation, archived=False)
    assert payload["conversation"]["archivedAt"] is None
    assert payload["conversation"]["version"] == 4


@pytest.mark.parametrize(
    ("mutation", "input"),
    [
        ("updateConversation", {"title": "Mine"}),
        ("archiveConversation", {}),
        ("deleteConversation", {}),
        ("restoreConversation", {}),
    ],
)
async def test_another_version_is_a_conflict_that_shows_the_current_one(
    person: Person, mutation: str, input: dict[str, Any]
) -> None:
    conversation = await start(person)
    await done(person, "updateConversation", SHOWN, id=conversation, title="Theirs")
    document = f"""
        mutation($input: {mutation[0].upper()}{mutation[1:]}Input!) {{
          {mutation}(input: $input) {{
            conversation {{ id }}
            problems {{
              code path ... on Conflict {{
                currentVersion current {{ id ... on Conversation {{ title version tags }} }}
        }} }} }} }}
    """
    input = {"id": conversation, "expectedVersion": 1, **input}
    payload = (await person.ask(document, input=input))[mutation]
    current = {"id": conversation, "title": "Theirs", "version": 2, "tags": []}
    problem = {"code": "CONFLICT", "path": ["input"], "currentVersion": 2, "current": current}
    assert payload == {"conversation": None, "problems": [problem]}
    assert await read(person, conversation, "title archivedAt version") == {
        "title": "Theirs",
        "archivedAt": None,
        "version": 2,
    }
    await done(person, mutation, SHOWN, **{**input, "expectedVersion": 2})


@pytest.mark.parametrize(
    "mutation",
    ["updateConversation", "archiveConversation", "deleteConversation", "restoreConversation"],
)
async def test_what_is_not_the_callers_is_not_there(
    person: Person, new_person: NewPerson, mutation: str
) -> None:
    foreign = await start(await new_person())
    for identifier in (foreign, ids.encode("conversation", UUID(int=7))):
        (problem,) = await refused(person, mutation, id=identifier)
        assert (problem["code"], problem["path"]) == ("NOT_FOUND", ["input", "id"])
    (problem,) = await refused(person, mutation, id=foreign.replace("conversation", "task"))
    assert rules([problem]) == {"id": "id"}


async def test_a_restore_brings_back_what_its_delete_took(
    person: Person, admin_engine: AsyncEngine
) -> None:
    conversation, (_, second, third) = await talk(person, "a", "b", "c")
    await edit(person, second, "B", parts=[{"type": "TEXT", "text": "part"}])
    messages = Message.__table__
    async with admin_engine.connect() as connection:
        await connection.execute(
            messages.update()
            .where(messages.c.owner_id == person.owner_id, messages.c.id == ids.decode(third)[1])
            .values(deleted_at=sa.func.now(), deletion_id=UUID(int=1))
        )
    tree = "version messages { nodes { content parts { nodes { text } } } }"
    before = await read(person, conversation, tree)

    payload = await done(person, "deleteConversation", SHOWN, id=conversation, expectedVersion=5)
    assert payload["conversation"]["deletedAt"] is not None
    assert await read(person, conversation, "id") is None
    document = "query($ids: [ID!]!) { nodes(ids: $ids) { id } conversations { totalCount } }"
    gone = await person.ask(document, ids=[second, third])
    assert gone == {"nodes": [None, None], "conversations": {"totalCount": 0}}
    listed = await person.ask("{ conversations(deleted: true) { nodes { id } } }")
    assert listed["conversations"]["nodes"] == [{"id": conversation}]

    payload = await done(person, "restoreConversation", SHOWN, id=conversation)
    assert payload["conversation"]["deletedAt"] is None
    after = await read(person, conversation, tree)
    assert after == {**before, "version": 7}
    assert [node["content"] for node in after["messages"]["nodes"]] == ["a", "B"]
    assert after["messages"]["nodes"][1]["parts"]["nodes"] == [{"text": "part"}]
    again = await person.ask(document, ids=[second, third])
    assert again["nodes"] == [{"id": second}, None]


async def test_deleting_twice_finds_nothing_and_restoring_twice_changes_nothing(
    person: Person,
) -> None:
    conversation, _ = await talk(person, "a")
    await done(person, "deleteConversation", SHOWN, id=conversation)
    (problem,) = await refused(person, "deleteConversation", id=conversation)
    assert problem["code"] == "NOT_FOUND"
    first = await done(person, "restoreConversation", SHOWN, id=conversation)
    second = await do(person, "restoreConversation", SHOWN, id=conversation)
    assert second == first
    await say(person, conversation, "b")
    assert await active(person, conversation) == ["a", "b"]


async def test_deleting_costs_the_same_for_any_number_of_messages(person: Person) -> None:
    counts = []
    for messages in (1, 6):
        conversation, _ = await talk(person, *("x" * messages))
        for mutation in ("deleteConversation", "restoreConversation"):
            await done(person, mutation, "conversation { id }", id=conversation)
            counts.append(len(person.statements))
    assert counts[:2] == counts[2:]
    assert max(counts) <= 3
