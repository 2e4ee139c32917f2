"""JSON of a client comes back as it was sent, whatever its numbers."""

import pytest

from tests.people import Person

CREATE = """
    mutation($metadata: JSON, $key: String) {
      createConversation(input: {metadata: $metadata, idempotencyKey: $key}) {
        conversation { id metadata tags } problems { message }
      }
    }
"""


@pytest.mark.parametrize("number", [10**22, 123456789012345678901234567890, -(10**25), 1e22, 0.1])
async def test_a_number_of_any_size_comes_back(person: Person, number: float) -> None:
    sent = {"n": number, "deep": [{"text": "é \u2028 😀"}, None, True]}
    first = await person.ask(CREATE, metadata=sent, key="once")
    again = await person.ask(CREATE, metadata=sent, key="once")
    assert first == again
    conversation = first["createConversation"]["conversation"]
    assert conversation["metadata"] == sent
    read = await person.ask("{ conversations { nodes { id metadata tags } } }")
    assert read["conversations"]["nodes"] == [conversation]


async def test_such_numbers_can_be_written_in_the_document(person: Person) -> None:
    data = await person.ask(
        "mutation { createConversation(input: {metadata: {n: 1e22}}) {"
        " conversation { metadata } } }"
    )
    assert data["createConversation"]["conversation"]["metadata"] == {"n": 10**22}
