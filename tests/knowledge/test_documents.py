"""Documents: create, change, delete, restore; and the chunks that go with them."""

import hashlib
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from db.models.knowledge import Chunk, Document
from schema import ids
from tests.conftest import NewPerson
from tests.mutations import done, refused, rules
from tests.people import Person

SHOWN = """
    document {
      id title kind content sourceUri mimeType author metadata status revision version
      createdAt updatedAt deletedAt
    }
"""
FRESH = "document_01a1fb4da1727cc49b0e0c794bb7f082"


async def write(person: Person, **input: Any) -> dict[str, Any]:
    """A new document."""
    input = {"title": "T", **input}
    made: dict[str, Any] = (await done(person, "createDocument", SHOWN, **input))["document"]
    return made


async def stored(admin_engine: AsyncEngine, document: str) -> Any:
    """A document's row."""
    documents = Document.__table__
    async with admin_engine.connect() as connection:
        found = documents.select().where(documents.c.id == ids.decode(document)[1])
        return (await connection.execute(found)).one()


async def add_chunks(
    admin_engine: AsyncEngine, person: Person, document: str, count: int, revision: int = 1
) -> None:
    """Chunks of a document, one letter each."""
    rows = [
        {
            "owner_id": person.owner_id,
            "document_id": ids.decode(document)[1],
            "revision": revision,
            "position": n,
            "start": n,
            "end": n + 1,
            "token_count": 1,
            "content": chr(ord("a") + n),
            "content_sha256": bytes(32),
        }
        for n in range(count)
    ]
    async with admin_engine.connect() as connection:
        await connection.execute(Chunk.__table__.insert(), rows)


async def test_a_new_document_has_what_it_was_given(
    person: Person, admin_engine: AsyncEngine
) -> None:
    given = {
        "title": "Notes",
        "kind": "POST",
        "content": "Grüße",
        "sourceUri": "https://example.org/a",
        "mimeType": "text/plain",
        "author": "Ada",
        "metadata": {"a": [1]},
    }
    made = await write(person, **given)
    assert made | given == made
    assert (made["status"], made["revision"], made["version"]) == ("READY", 1, 1)
    assert made["deletedAt"] is None
    row = await stored(admin_engine, made["id"])
    assert row.content_sha256 == hashlib.sha256("Grüße".encode()).digest()


async def test_a_document_needs_a_title_alone(person: Person, admin_engine: AsyncEngine) -> None:
    made = await write(person, title="T")
    defaults: dict[str, Any] = {"kind": "NOTE", "content": "", "sourceUri": None, "metadata": {}}
    assert made | defaults == made
    row = await stored(admin_engine, made["id"])
    assert row.content_sha256 == hashlib.sha256(b"").digest()


async def test_every_bad_value_is_named_at_once(person: Person) -> None:
    problems = await refused(
        person,
        "createDocument",
        id="task_01a1fb4da1727cc49b0e0c794bb7f082",
        title="",
        content="a\0",
        sourceUri="",
        mimeType="m" * 256,
        author="\udfff",
        metadata=[],
    )
    assert rules(problems) == {
        "id": "id",
        "title": "min_length",
        "content": "characters",
        "sourceUri": "min_length",
        "mimeType": "max_length",
        "author": "characters",
        "metadata": "type",
    }
    assert (await person.ask("{ documents { totalCount } }"))["documents"] == {"totalCount": 0}


async def test_content_is_bounded(person: Person) -> None:
    problems = await refused(person, "createDocument", title="T", content="é" * 5_000_001)
    assert rules(problems) == {"content": "max_length"}
    assert problems[0]["bound"] == "5000000"


async def test_a_client_may_choose_the_id_once(person: Person, new_person: NewPerson) -> None:
    assert (await write(person, id=FRESH))["id"] == FRESH
    problems = await refused(person, "createDocument", title="T", id=FRESH)
    assert rules(problems) == {"id": "unique"}
    await write(await new_person(), id=FRESH)


async def test_other_content_is_another_revision(person: Person, admin_engine: AsyncEngine) -> None:
    made = await write(person, content="old")
    changed = (
        await done(person, "updateDocument", SHOWN, id=made["id"], content="new", title="U")
    )["document"]
    assert (changed["content"], changed["title"]) == ("new", "U")
    assert (changed["revision"], changed["version"], changed["status"]) == (2, 2, "READY")
    row = await stored(admin_engine, made["id"])
    assert row.content_sha256 == hashlib.sha256(b"new").digest()


async def test_the_same_content_is_the_same_revision(
    person: Person, admin_engine: AsyncEngine
) -> None:
    made = await write(person, content="same")
    documents = Document.__table__
    async with admin_engine.connect() as connection:
        await connection.execute(
            documents.update()
            .where(documents.c.id == ids.decode(made["id"])[1])
            .values(status="ready")
        )
    for input in ({"content": "same", "kind": "FILE"}, {"title": "U"}):
        payload = await done(person, "updateDocument", SHOWN, id=made["id"], **input)
        changed = payload["document"]
        assert (changed["revision"], changed["status"]) == (1, "READY")
    assert (changed["kind"], changed["title"], changed["version"]) == ("FILE", "U", 3)
    payload = await done(person, "updateDocument", SHOWN, id=made["id"], content="other")
    assert (payload["document"]["revision"], payload["document"]["status"]) == (2, "READY")


async def test_an_update_of_nothing_changes_nothing(person: Person) -> None:
    made = await write(person)
    payload = await done(person, "updateDocument", SHOWN, id=made["id"])
    assert payload["document"] == made
    problems = await refused(person, "updateDocument", id=made["id"], title=None, content=None)
    assert rules(problems) == {"title": "not_null", "content": "not_null"}


@pytest.mark.parametrize(
    ("mutation", "input"),
    [("updateDocument", {"title": "Mine"}), ("deleteDocument", {}), ("restoreDocument", {})],
)
async def test_another_version_is_a_conflict_that_shows_the_current_one(
    person: Person, mutation: str, input: dict[str, Any]
) -> None:
    made = await write(person)
    await done(person, "updateDocument", SHOWN, id=made["id"], title="Theirs")
    (problem,) = await refused(person, mutation, id=made["id"], expectedVersion=1, **input)
    assert (problem["code"], problem["currentVersion"]) == ("CONFLICT", 2)
    assert problem["current"] == {"__typename": "Document", "id": made["id"]}
    await done(person, mutation, SHOWN, id=made["id"], expectedVersion=2, **input)


@pytest.mark.parametrize("mutation", ["updateDocument", "deleteDocument", "restoreDocument"])
async def test_what_is_not_the_callers_is_not_there(
    person: Person, new_person: NewPerson, mutation: str
) -> None:
    foreign = (await write(await new_person()))["id"]
    for identifier in (foreign, ids.encode("document", UUID(int=7))):
        (problem,) = await refused(person, mutation, id=identifier)
        assert (problem["code"], problem["path"]) == ("NOT_FOUND", ["input", "id"])


async def test_chunks_go_and_come_with_their_document(
    person: Person, admin_engine: AsyncEngine
) -> None:
    made = await write(person)
    await add_chunks(admin_engine, person, made["id"], 3)
    document = """query($id: ID!) { document(id: $id) {
        chunks { totalCount nodes { position start end tokenCount content revision
                                    document { id } } } } }"""
    before = await person.ask(document, id=made["id"])
    assert before["document"]["chunks"]["totalCount"] == 3
    assert before["document"]["chunks"]["nodes"][1] == {
        "position": 1,
        "start": 1,
        "end": 2,
        "tokenCount": 1,
        "content": "b",
        "revision": 1,
        "document": {"id": made["id"]},
    }
    payload = await done(person, "deleteDocument", SHOWN, id=made["id"])
    assert payload["document"]["deletedAt"] is not None
    assert (await person.ask(document, id=made["id"]))["document"] is None
    (problem,) = await refused(person, "deleteDocument", id=made["id"])
    assert problem["code"] == "NOT_FOUND"
    payload = await done(person, "restoreDocument", SHOWN, id=made["id"])
    assert payload["document"]["deletedAt"] is None
    assert await person.ask(document, id=made["id"]) == before


async def test_chunks_of_a_level_cost_one_statement(
    person: Person, admin_engine: AsyncEngine
) -> None:
    counts = []
    for documents in (1, 4):
        for _ in range(documents):
            await add_chunks(admin_engine, person, (await write(person))["id"], 3)
        data = await person.ask(
            """{ documents { nodes {
                chunks(first: 2) { totalCount nodes { document { title } } } } } }"""
        )
        counts.append(len(person.statements))
    assert counts == [4, 4]
    assert [len(node["chunks"]["nodes"]) for node in data["documents"]["nodes"]] == [2] * 5
    assert {node["chunks"]["totalCount"] for node in data["documents"]["nodes"]} == {3}
