"""Texts are embedded in the background: each once, whatever fails meanwhile, whoever dies."""

import asyncio
import json
import signal
import sys
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from db.repositories import knowledge_chunks
from db.repositories import knowledge_embedding as work
from db.repositories.knowledge_embedding import Model
from db.session import Session
from schema import ids
from tests.mutations import done
from tests.people import Person
from tests.search.conftest import MODEL, PATIENT, Place, until
from tests.search.provider import Answer, embed

STATUS = """query($id: ID!) { document(id: $id) {
    embedding { modelId status chunkCount embeddedCount attempts error runAfter } } }"""

SEARCH = "query($query: String!) { searchDocuments(query: $query) { totalCount limitedBy } }"


def paragraphs(*numbers: int) -> str:
    return "\n\n".join(f"Paragraph {n}. " + f"About the matter {n}. " * 40 for n in numbers)


async def write(person: Person, content: str, **input: Any) -> str:
    """A new document's id."""
    payload = await done(
        person, "createDocument", "document { id }", **{"title": "T", "content": content, **input}
    )
    id: str = payload["document"]["id"]
    return id


async def say(person: Person, content: str) -> str:
    """A new message's id."""
    payload = await done(person, "createConversation", "conversation { id }")
    payload = await done(
        person, "appendMessage", "message { id }",
        conversationId=payload["conversation"]["id"], role="USER", content=content,
    )  # fmt: skip
    id: str = payload["message"]["id"]
    return id


async def status(person: Person, id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await person.ask(STATUS, id=id))["document"]["embedding"]
    return found


async def ready(person: Person, id: str) -> None:
    async def is_ready() -> bool:
        return ((await status(person, id)) or {}).get("status") == "READY"

    await until(is_ready)


async def nothing_left(place: Place) -> bool:
    return not await place.rows("SELECT 1 FROM embedding_jobs WHERE status = 'pending'")


async def test_a_long_document_is_cut_and_embedded_by_the_process_that_waits_for_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knowledge_chunks, "MAX_INLINE_CHARS", 1_500)
    place.open()
    person = await place.person()
    id = await write(person, paragraphs(1, 2, 3))
    await ready(person, id)
    found = await status(person, id)
    assert (found["chunkCount"], found["embeddedCount"]) == (3, 3)


async def test_documents_and_messages_are_embedded(place: Place) -> None:
    place.open()
    person = await place.person()
    id = await write(person, paragraphs(1, 2))
    message = await say(person, "What was the matter?")
    await ready(person, id)
    found = await status(person, id)
    assert (found["modelId"], found["chunkCount"], found["embeddedCount"]) == (MODEL, 2, 2)
    await until(lambda: nothing_left(place))
    stored = await place.rows(
        "SELECT c.content, e.dimensions, e.embedding::text FROM embeddings e"
        " JOIN chunks c ON c.id = e.chunk_id"
    )
    for content, dimensions, vector in stored:
        assert dimensions == 64
        near = zip(json.loads(vector), embed(content, 64), strict=True)
        assert all(abs(a - b) < 0.001 for a, b in near)
    (row,) = await place.rows('SELECT message_id, position, start, "end" FROM message_embeddings')
    assert row == (ids.decode(message)[1], 0, 0, 20)


async def test_what_there_was_before_is_embedded_as_well(place: Place) -> None:
    person = await place.person()
    id = await write(person, paragraphs(1))
    await say(person, "Before")
    assert await status(person, id) is None
    place.open()
    await ready(person, id)
    await until(lambda: nothing_left(place))
    assert await place.rows("SELECT count(*) FROM message_embeddings") == [(1,)]


async def test_a_text_is_embedded_once_for_each_owner(place: Place) -> None:
    place.open(workers=1)
    one, other = await place.person(), await place.person()
    first = await write(one, paragraphs(1, 2, 1))
    await ready(one, first)
    second = await write(one, paragraphs(2, 3))
    await ready(one, second)
    foreign = await write(other, paragraphs(1))
    await ready(other, foreign)
    beginnings = sorted(text[:12] for text in place.provider.texts if text.startswith("Para"))
    assert beginnings == ["Paragraph 1.", "Paragraph 1.", "Paragraph 2.", "Paragraph 3."]
    counted = "SELECT count(*) FROM embeddings WHERE owner_id = :owner"
    assert await place.rows(counted, owner=one.owner_id) == [(5,)]
    assert await place.rows(counted, owner=other.owner_id) == [(1,)]
    await say(one, "Again and again.")
    await until(lambda: nothing_left(place))
    await say(one, "Again and again.")
    await until(lambda: nothing_left(place))
    assert place.provider.texts.count("Again and again.") == 1
    assert await place.rows("SELECT count(*) FROM message_embeddings") == [(2,)]


async def test_a_changed_document_is_embedded_where_it_changed(place: Place) -> None:
    place.open()
    person = await place.person()
    id = await write(person, paragraphs(1, 2, 3))
    await ready(person, id)
    place.provider.asked.clear()
    await done(person, "updateDocument", "document { id }", id=id, content=paragraphs(1, 4, 3))
    await ready(person, id)
    assert [text[:12] for text in place.provider.texts] == ["Paragraph 4."]
    await done(person, "reindexDocument", "document { id }", id=id)
    await ready(person, id)
    assert len(place.provider.texts) == 4
    counted = "SELECT count(*), count(c.id) FROM embeddings LEFT JOIN chunks c ON c.id = chunk_id"
    assert await place.rows(counted) == [(3, 3)]


async def test_a_busy_provider_is_left_alone_as_long_as_it_asks(place: Place) -> None:
    place.provider.away = Answer(429, {"retry-after": "600"})
    person = await place.person()
    id = await write(person, paragraphs(1))
    place.open(dimensions=64)

    async def refused() -> bool:
        return bool(((await status(person, id)) or {}).get("attempts"))

    await until(refused)
    found = await status(person, id)
    assert found["status"] == "PENDING"
    assert found["error"] == "The provider is asked too often, or the credit is used up."
    waits = "SELECT run_after - now() > interval '9 minutes' FROM embedding_jobs"
    assert await place.rows(waits) == [(True,)]
    place.provider.away = None
    await place.run("UPDATE embedding_jobs SET run_after = now()")
    place.open()
    await ready(person, id)
    assert (await status(person, id))["error"] is None


@pytest.mark.parametrize(
    "answer", [Answer(500, message="oops"), Answer(429, {"retry-after": "0"}), Answer(503)]
)
async def test_what_fails_is_tried_again(place: Place, answer: Answer) -> None:
    person = await place.person()
    id = await write(person, paragraphs(1, 2))
    place.provider.answers.extend([answer, answer])
    place.open(dimensions=64)
    await ready(person, id)
    assert not place.provider.answers


@pytest.mark.parametrize(
    "nonsense",
    [
        b"<html>",
        b"null",
        b'{"data": null}',
        b'{"data": [{"index": 0, "embedding": [NaN]}]}',
        b'{"data": [{"index": 1e999, "embedding": [1]}]}',
        b'{"data": [{"index": 0, "embedding": [1' + b"0" * 400 + b"]}]}",
        b"[" * 100_000 + b"]" * 100_000,
    ],
    ids=lambda body: body[:24].decode(),
)
async def test_no_nonsense_ends_the_work(place: Place, nonsense: bytes) -> None:
    person = await place.person()
    id = await write(person, paragraphs(1, 2))
    place.provider.nonsense = nonsense
    place.open(dimensions=64)

    async def refused() -> bool:
        return bool(((await status(person, id)) or {}).get("attempts"))

    await until(refused)
    found = (await person.ask(SEARCH, query="matter"))["searchDocuments"]
    assert (found["totalCount"], found["limitedBy"]) == (1, "PROVIDER_FAILED")
    place.provider.nonsense = None
    await place.run("UPDATE embedding_jobs SET run_after = now()")
    await ready(person, id)


async def test_a_text_that_is_refused_does_not_hold_up_the_others(place: Place) -> None:
    place.provider.refused = "Paragraph 3."
    place.open(workers=1)
    person = await place.person()
    id = await write(person, paragraphs(*range(10)))
    others = await write(person, paragraphs(11, 12))
    message = await say(person, "Paragraph 3. is not for you")
    await ready(person, others)

    async def failed() -> bool:
        return bool((await status(person, id))["status"] == "FAILED")

    await until(failed)
    found = await status(person, id)
    assert (found["chunkCount"], found["embeddedCount"]) == (10, 9)
    # Nobody may read where the provider is.
    assert found["error"] == "The provider refuses the text: a text is too long, says [hidden]"
    await until(lambda: nothing_left(place))
    left = await place.rows(
        "SELECT message_id, status FROM embedding_jobs WHERE message_id IS NOT NULL"
    )
    assert left == [(ids.decode(message)[1], "failed")]
    place.provider.refused = None
    await done(person, "reindexDocument", "document { id }", id=id)
    await ready(person, id)


async def test_other_dimensions_are_never_stored(place: Place) -> None:
    person = await place.person()
    id = await write(person, paragraphs(1))
    place.provider.dimensions = 63
    place.open(dimensions=64)

    async def said() -> bool:
        return bool((await status(person, id) or {}).get("error"))

    await until(said)
    found = await status(person, id)
    assert (found["status"], found["error"]) == (
        "PENDING", "The provider sent 63 dimensions, not 64."
    )  # fmt: skip
    assert await place.rows("SELECT 1 FROM embeddings") == []


async def test_no_connection_is_held_while_the_provider_takes_its_time(place: Place) -> None:
    place.provider.gate = asyncio.Event()
    place.open(dimensions=64, workers=4)
    person = await place.person()
    id = await write(person, paragraphs(1))

    async def asked() -> bool:
        return bool(place.provider.asked)

    await until(asked)
    ((moment,),) = await place.rows("SELECT clock_timestamp()")

    async def all_ended() -> bool:
        begun = (
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND xact_start < :moment"
        )
        return not await place.rows(begun, moment=moment)

    await until(all_ended, seconds=2)
    assert not (await status(person, id))["embeddedCount"]
    place.provider.gate.set()
    await ready(person, id)


async def test_work_of_who_died_is_done_by_another(place: Place) -> None:
    """The lease of a claim that nobody renews runs out; who was slow writes nothing."""
    person = await place.person()
    await place.run("INSERT INTO embedding_models VALUES ('bag-64', 64, 'active')")
    id = await write(person, paragraphs(1))
    model = Model(MODEL, 64, active=True)
    nobody = UUID(int=0)
    async with Session(place.engine, None, PATIENT) as session:
        lease = timedelta(seconds=0.5)
        dead = await work.claim(session, model, after=nobody, size=10, lease=lease)
        assert dead is not None
        assert dead.owner_id == person.owner_id
        assert await work.claim(session, model, after=nobody, size=10, lease=lease) is None
    place.open()
    await ready(person, id)
    async with Session(place.engine, person.owner_id, PATIENT) as session:
        assert await work.store(session, model, [], dead.jobs, lease) == set()
        await work.give_back(session, dead.jobs, error="late", pause=timedelta())
    assert (await status(person, id))["error"] is None


async def test_owners_take_turns(place: Place) -> None:
    people = [await place.person() for _ in range(3)]
    await place.run("INSERT INTO embedding_models VALUES ('bag-64', 64, 'active')")
    for person in people:
        for number in range(5):
            await write(person, f"note {number}")
    model = Model(MODEL, 64, active=True)
    after, served = UUID(int=0), []
    async with Session(place.engine, None, PATIENT) as session:
        for _ in range(3):
            claimed = await work.claim(
                session, model, after=after, size=2, lease=timedelta(minutes=1)
            )
            assert claimed is not None
            assert len(claimed.jobs) == 2
            after = claimed.owner_id
            served.append(after)
    assert sorted(served) == sorted(person.owner_id for person in people)


async def test_a_killed_process_loses_nothing(place: Place) -> None:
    person = await place.person()
    written = [await write(person, paragraphs(10 * n, 10 * n + 1)) for n in range(20)]
    place.provider.gate = asyncio.Event()
    script = f"""
import asyncio
from db.engine import create_engine
from db.session import SessionOptions
from server.embedding import EmbeddingOptions, Embeddings

async def main():
    options = EmbeddingOptions(base_url={place.provider.url!r}, api_key="sk-secret-of-the-tests",
        model="bag-64", dimensions=64, lease_seconds=1.0, poll_seconds=0.05, batch=4)
    Embeddings(create_engine({place.url!r}), SessionOptions(), options).open()
    await asyncio.sleep(600)

asyncio.run(main())
"""
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
        before = len(place.provider.asked)

        async def asked(before: int = before) -> bool:
            return len(place.provider.asked) > before

        await until(asked)
        process.send_signal(signal.SIGKILL)
        await process.wait()
    place.provider.gate.set()
    place.open(lease_seconds=5.0)
    for id in written:
        await ready(person, id)
    counted = "SELECT count(*), count(DISTINCT chunk_id) FROM embeddings"
    assert await place.rows(counted) == [(40, 40)]


async def test_a_deleted_document_in_the_middle_of_it(place: Place) -> None:
    place.provider.gate = asyncio.Event()
    place.open(dimensions=64)
    person = await place.person()
    id = await write(person, paragraphs(1, 2))

    async def asked() -> bool:
        return bool(place.provider.asked)

    await until(asked)
    await place.run("DELETE FROM documents WHERE id = :id", id=ids.decode(id)[1])
    place.provider.gate.set()
    await until(lambda: nothing_left(place))
    assert await place.rows("SELECT 1 FROM embeddings") == []


async def test_the_provider_names_its_dimensions_where_nobody_does(place: Place) -> None:
    place.open()

    async def known() -> bool:
        return bool(await place.rows("SELECT 1 FROM embedding_models"))

    await until(known)
    assert await place.rows("SELECT id, dimensions, status FROM embedding_models") == [
        ("bag-64", 64, "active")
    ]
    with pytest.raises(Exception, match="has 64 dimensions, not 32"):
        async with Session(place.engine, None, PATIENT) as session:
            await work.register_model(session, MODEL, 32)


async def test_the_database_refuses_vectors_of_another_length(place: Place) -> None:
    person = await place.person()
    await place.run("INSERT INTO embedding_models VALUES ('bag-64', 64, 'active')")
    await write(person, "short")
    insert = """INSERT INTO embeddings (owner_id, model_id, chunk_id, dimensions, embedding)
        SELECT owner_id, 'bag-64', id, {}, '[1, 2, 3]' FROM chunks"""
    for dimensions in (3, 64):
        async with place.admin.connect() as connection:
            with pytest.raises(Exception, match=r"fk_embeddings_model_id|ck_embeddings_embedding"):
                await connection.execute(text(insert.format(dimensions)))


async def test_a_text_written_while_its_model_is_registered_is_not_forgotten(place: Place) -> None:
    person = await place.person()

    async def writing() -> list[str]:
        return [await write(person, f"Note {n}") for n in range(40)]

    async def registering() -> None:
        async with Session(place.engine, None, PATIENT) as session:
            for n in range(6):
                await work.register_model(session, f"bag-{n + 1}", n + 1)

    written, _ = await asyncio.gather(writing(), registering())
    counted = "SELECT count(*), count(DISTINCT document_id) FROM embedding_jobs"
    assert await place.rows(counted) == [(6 * len(written), len(written))]
