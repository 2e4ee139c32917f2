"""Conversations of tests."""

from typing import Any

from tests.mutations import done
from tests.people import Person

MESSAGE = "message { id content depth version parent { id } } conversation { id version }"


async def start(person: Person, **input: Any) -> str:
    """The id of a new conversation."""
    payload = await done(person, "createConversation", "conversation { id }", **input)
    identifier: str = payload["conversation"]["id"]
    return identifier


async def say(person: Person, conversation: str, content: str, **input: Any) -> str:
    """The id of a new message, at the end of the active branch unless told otherwise."""
    input = {"role": "USER", "content": content, "conversationId": conversation, **input}
    payload = await done(person, "appendMessage", MESSAGE, **input)
    identifier: str = payload["message"]["id"]
    return identifier


async def talk(person: Person, *contents: str) -> tuple[str, list[str]]:
    """A conversation of some messages, one after the other: its id and theirs."""
    conversation = await start(person)
    return conversation, [await say(person, conversation, content) for content in contents]


async def edit(person: Person, message: str, content: str, **input: Any) -> str:
    """The id of another variant of a message."""
    payload = await done(person, "editMessage", MESSAGE, id=message, content=content, **input)
    identifier: str = payload["message"]["id"]
    return identifier


async def read(person: Person, conversation: str, selection: str, **variables: Any) -> Any:
    """What a conversation shows."""
    document = f"query($id: ID!) {{ conversation(id: $id) {{ {selection} }} }}"
    return (await person.ask(document, id=conversation, **variables))["conversation"]


async def active(person: Person, conversation: str) -> list[str]:
    """The texts of the active branch."""
    found = await read(person, conversation, "messages(first: 1000) { nodes { content } }")
    return [node["content"] for node in found["messages"]["nodes"]]
