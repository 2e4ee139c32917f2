"""createDocuments: many at once, all or none."""

import asyncio
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from schema import ids
from tests.conftest import NewPerson
from tests.mutations import do, done, refused, rules
from tests.people import Person

SHOWN = "documents { id title content status revision }"


def fresh(n: int) -> str:
    """A document id that a client might choose."""
    return ids.encode("document", UUID(int=0x01A1FB4DA172 << 80 | 0x7 << 76 | 0x2 << 62 | n))


async def count(person: Person) -> int:
    """How many documents a person has."""
    total: int = (await person.ask("{ documents { totalCount } }"))["documents"]["totalCount"]
    return total


async def test_a_thousand_documents_are_a_bounded_number_of_statements(
    person: Person, admin_engine: AsyncEngine
) -> None:
    costs = []
    for number in (1, 1_000):
        documents: list[dict[str, Any]] = [
            {"title": f"{n}", "content": f"content {n}"} for n in range(number)
        ]
        documents[0]["id"] = fresh(number)
        payload = await done(person, "createDocuments", SHOWN, documents=documents)
        costs.append(len(person.statements))
        made = payload["documents"]
        assert [one["title"] for one in made] == [f"{n}" for n in range(number)]
        assert [one["content"] for one in made] == [f"content {n}" for n in range(number)]
        assert made[0]["id"] == fresh(number)
        assert {(one["status"], one["revision"]) for one in made} == {("READY", 1)}
    assert costs == [3, 3]
    assert await count(person) == 1_001
    digests = text(
        "SELECT count(*) FROM documents WHERE owner_id = :owner_id"
        " AND content_sha256 = sha256(convert_to(content, 'UTF8'))"
    )
    async with admin_engine.connect() as connection:
        found = await connection.execute(digests, {"owner_id": person.owner_id})
        assert found.scalar_one() == 1_001


async def test_nothing_at_all_may_be_created(person: Person) -> None:
    assert (await done(person, "createDocuments", SHOWN, documents=[]))["documents"] == []


async def test_more_than_a_thousand_are_refused(person: Person) -> None:
    problems = await refused(person, "createDocuments", documents=[{"title": "x"}] * 1_001)
    assert rules(problems) == {"documents": "max_items"}
    assert problems[0]["bound"] == "1000"
    assert await count(person) == 0


async def test_one_bad_document_refuses_all_and_each_is_named(person: Person) -> None:
    documents = [
        {"title": "fine"},
        {"title": "", "content": "a\0b"},
        {"title": "fine", "id": "document_x", "metadata": {"a": "x" * 70_000}},
        {"title": "x" * 501, "id": ids.encode("document", UUID(int=7))},
    ]
    problems = await refused(person, "createDocuments", documents=documents)
    assert rules(problems) == {
        "documents.1.title": "min_length",
        "documents.1.content": "characters",
        "documents.2.id": "id",
        "documents.2.metadata": "value",
        "documents.3.title": "max_length",
        "documents.3.id": "uuidv7",
    }
    assert await count(person) == 0


async def test_ids_that_are_taken_are_named_each(person: Person, new_person: NewPerson) -> None:
    await done(person, "createDocument", "document { id }", title="T", id=fresh(1))
    await done(person, "deleteDocument", "document { id }", id=fresh(1))
    await done(await new_person(), "createDocument", "document { id }", title="T", id=fresh(2))
    documents = [
        {"title": "a", "id": fresh(1)},
        {"title": "b", "id": fresh(2)},
        {"title": "c", "id": fresh(3)},
        {"title": "d", "id": fresh(3)},
    ]
    problems = await refused(person, "createDocuments", documents=documents)
    assert rules(problems) == {"documents.0.id": "unique", "documents.3.id": "unique"}
    await done(person, "createDocuments", SHOWN, documents=documents[1:3])
    assert await count(person) == 2


async def test_one_id_asked_for_at_once_is_given_once(person: Person) -> None:
    documents = [{"title": "other"}, {"title": "same", "id": fresh(1)}]
    payloads = await asyncio.gather(
        *(do(person, "createDocuments", SHOWN, documents=documents) for _ in range(8))
    )
    assert sum(payload["documents"] is not None for payload in payloads) == 1
    for payload in payloads:
        if payload["documents"] is None:
            assert rules(payload["problems"]) == {"documents.1.id": "unique"}
    assert await count(person) == 2


async def test_a_repeated_request_is_done_once(person: Person) -> None:
    input = {"documents": [{"title": f"{n}"} for n in range(20)], "idempotencyKey": "k"}
    answers = await asyncio.gather(
        *(done(person, "createDocuments", SHOWN, **input) for _ in range(20))
    )
    assert answers == [answers[0]] * 20
    assert len(answers[0]["documents"]) == 20
    assert await count(person) == 20
    (problem,) = await refused(
        person, "createDocuments", documents=[{"title": "x"}], idempotencyKey="k"
    )
    assert problem["code"] == "IDEMPOTENCY_CONFLICT"
    # The same key of another mutation is another key.
    await done(person, "createDocument", "document { id }", title="x", idempotencyKey="k")
