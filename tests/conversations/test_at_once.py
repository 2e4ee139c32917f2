"""Writes that come twice, at once, or whose answer is lost."""

import asyncio
from typing import Any

import pytest

from schema.context import Context
from tests.conftest import NewPerson
from tests.conversations.talks import MESSAGE, active, edit, read, say, start, talk
from tests.mutations import do, done, refused, rules
from tests.people import Person

TREE = "messages(first: 100) { totalCount nodes { id depth parent { id } } } activeLeaf { id }"
AT_ONCE = 20


def appended(conversation: str, **input: Any) -> dict[str, Any]:
    """The input of an append."""
    return {"conversationId": conversation, "role": "USER", "content": "x", **input}


async def count(person: Person) -> int:
    """How many conversations a person has."""
    data = await person.ask("{ conversations { totalCount } }")
    total: int = data["conversations"]["totalCount"]
    return total


async def test_appends_at_once_become_one_chain(person: Person) -> None:
    conversation = await start(person)
    made = await asyncio.gather(*(say(person, conversation, f"{n}") for n in range(AT_ONCE)))
    found = await read(person, conversation, TREE)
    nodes = found["messages"]["nodes"]
    assert [node["depth"] for node in nodes] == list(range(AT_ONCE))
    assert {node["id"] for node in nodes} == set(made)
    parents = [node["parent"] and node["parent"]["id"] for node in nodes]
    assert parents == [None, *(node["id"] for node in nodes[:-1])]
    assert found["activeLeaf"] == {"id": nodes[-1]["id"]}


async def test_appends_and_edits_at_once_keep_a_tree(person: Person) -> None:
    conversation, (first, second) = await talk(person, "a", "b")
    made = await asyncio.gather(
        *(say(person, conversation, "x", parentId=second) for _ in range(8)),
        *(edit(person, second, "y") for _ in range(8)),
        *(edit(person, first, "z") for _ in range(4)),
    )
    document = """query($ids: [ID!]!) { nodes(ids: $ids) { ... on Message {
        id content depth parent { id } siblings { totalCount } } } }"""
    nodes = (await person.ask(document, ids=made))["nodes"]
    places = {"x": (2, {"id": second}, 8), "y": (1, {"id": first}, 9), "z": (0, None, 5)}
    for node in nodes:
        place = (node["depth"], node["parent"], node["siblings"]["totalCount"])
        assert place == places[node["content"]]
    found = await read(person, conversation, "activeLeaf { id } version")
    assert found["activeLeaf"]["id"] in made
    assert found["version"] == 3 + len(made)


async def test_first_messages_at_once_make_one_root(person: Person) -> None:
    conversation = await start(person)
    payloads = await asyncio.gather(
        *(
            do(person, "appendMessage", MESSAGE, **appended(conversation, parentId=None))
            for _ in range(5)
        )
    )
    problems = [payload["problems"] for payload in payloads if payload["problems"]]
    assert len(problems) == 4
    assert [rules(one) for one in problems] == [{"parentId": "first"}] * 4
    assert (await read(person, conversation, TREE))["messages"]["totalCount"] == 1


async def test_a_delete_and_appends_at_once_leave_nothing_alive_in_a_deleted_conversation(
    person: Person,
) -> None:
    conversation, _ = await talk(person, "a")
    payloads = await asyncio.gather(
        *(do(person, "appendMessage", MESSAGE, **appended(conversation)) for _ in range(6)),
        do(person, "deleteConversation", "conversation { id }", id=conversation),
        *(do(person, "appendMessage", MESSAGE, **appended(conversation)) for _ in range(6)),
    )
    stored = [one["message"]["id"] for one in payloads if one.get("message")]
    missing = [one["problems"][0]["code"] for one in payloads if one["problems"]]
    assert set(missing) <= {"NOT_FOUND"}
    document = "query($ids: [ID!]!) { nodes(ids: $ids) { id } }"
    assert (await person.ask(document, ids=stored))["nodes"] == [None] * len(stored)
    await done(person, "restoreConversation", "conversation { id }", id=conversation)
    assert (await person.ask(document, ids=stored))["nodes"] == [{"id": one} for one in stored]


async def test_a_repeated_request_is_done_once_and_answered_alike(person: Person) -> None:
    conversation = await start(person)
    input = appended(conversation, idempotencyKey="k", parts=[{"type": "TEXT", "text": "p"}])
    selection = "message { id createdAt parts { nodes { id text } } } conversation { id version }"
    first = await done(person, "appendMessage", selection, **input)
    await say(person, conversation, "later")
    second = await done(person, "appendMessage", selection, clientMutationId="2", **input)
    assert second == {**first, "clientMutationId": "2"}
    assert len(await active(person, conversation)) == 2


async def test_a_key_belongs_to_one_request_of_one_mutation(
    person: Person, new_person: NewPerson
) -> None:
    conversation, (first,) = await talk(person, "a")
    await done(person, "appendMessage", MESSAGE, **appended(conversation, idempotencyKey="k"))
    (problem,) = await refused(
        person, "appendMessage", **appended(conversation, content="y", idempotencyKey="k")
    )
    assert problem["code"] == "IDEMPOTENCY_CONFLICT"
    assert problem["path"] == ["input", "idempotencyKey"]
    await edit(person, first, "b", idempotencyKey="k")
    await start(await new_person(), idempotencyKey="k")
    assert len(await active(person, conversation)) == 1


async def test_a_refusal_is_not_kept(person: Person) -> None:
    problems = await refused(person, "createConversation", title="", idempotencyKey="k")
    assert rules(problems) == {"title": "min_length"}
    await start(person, title="fine", idempotencyKey="k")
    assert await count(person) == 1


@pytest.mark.parametrize("key", ["", "k" * 201, "a\0b"])
async def test_a_bad_key_is_refused(person: Person, key: str) -> None:
    problems = await refused(person, "createConversation", idempotencyKey=key)
    assert list(rules(problems)) == ["idempotencyKey"]
    assert await count(person) == 0


async def test_identical_requests_at_once_are_done_once(person: Person) -> None:
    conversation = await start(person)
    input = appended(conversation, idempotencyKey="k")
    answers = await asyncio.gather(
        *(done(person, "appendMessage", MESSAGE, **input) for _ in range(AT_ONCE))
    )
    assert answers == [answers[0]] * AT_ONCE
    assert (await read(person, conversation, TREE))["messages"]["totalCount"] == 1

    created = await asyncio.gather(
        *(
            done(person, "createConversation", "conversation { id }", idempotencyKey="c")
            for _ in range(AT_ONCE)
        )
    )
    assert created == [created[0]] * AT_ONCE
    assert await count(person) == 2


async def test_an_answer_lost_after_the_commit_is_given_again(
    person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = await start(person)
    input = appended(conversation, idempotencyKey="k")

    async def crash(_: Context) -> None:
        raise RuntimeError("the process dies here")

    with monkeypatch.context() as patched:
        # Runs as soon as the transaction has ended.
        patched.setattr(Context, "renew", crash)
        document = """mutation($input: AppendMessageInput!) {
            appendMessage(input: $input) { message { id } } }"""
        lost = await person.execute(document, input=input)
    assert lost["data"] is None
    (stored,) = (await read(person, conversation, TREE))["messages"]["nodes"]
    again = await done(person, "appendMessage", MESSAGE, **input)
    assert again["message"]["id"] == stored["id"]
    assert (await read(person, conversation, TREE))["messages"]["totalCount"] == 1


async def test_a_replayed_delete_is_the_first_answer(person: Person) -> None:
    conversation, _ = await talk(person, "a")
    selection = "conversation { id version deletedAt }"
    input = {"id": conversation, "idempotencyKey": "d"}
    first = await done(person, "deleteConversation", selection, **input)
    assert await done(person, "deleteConversation", selection, **input) == first
    assert first["conversation"]["deletedAt"] is not None
