"""Documents are cut into chunks when they are written, which are their text to the character."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from db.repositories import knowledge_chunks
from db.repositories.knowledge_chunks import cut_pending
from db.splitting import LONGEST_CHARS, WINDOW_CHARS, spans, tokens
from schema import ids
from tests.conftest import OpenSession
from tests.mutations import done
from tests.people import Person

SHOWN = "document { id status revision version }"
CHUNKS = """query($id: ID!) { document(id: $id) { content status revision
    chunks(first: 1000) { nodes { id revision position start end tokenCount content } } } }"""

PIECES = ["word", "größe", "漢字", "\U0001f469\u200d\U0001f467", "e\u0301", "# Title\n"]
PIECES += ["\n\n", "\r\n", ". ", " ", "\t", "```\n"]
texts = st.lists(
    st.sampled_from(PIECES) | st.text(st.characters(exclude_categories=["Cs"])), max_size=400
).map("".join)


@given(texts, st.integers(1, 40))
@settings(deadline=None)
def test_pieces_are_in_order_and_hold_all_but_white_space(piece: str, times: int) -> None:
    whole = piece * times
    end = 0
    for span in spans(whole):
        assert whole[end : span.start].strip() == ""
        assert 0 < span.end - span.start <= LONGEST_CHARS
        assert whole[span.start : span.end].strip() != ""
        assert span.token_count == tokens(whole[span.start : span.end])
        end = span.end
    assert whole[end:].strip() == ""


def test_pieces_end_where_a_reader_pauses() -> None:
    sentences = [f"Sentence {n} has some words in it, and ends here." for n in range(100)]
    whole = " ".join(sentences)
    assert len(whole) > WINDOW_CHARS / 2
    assert all(whole[span.start : span.end].endswith(".") for span in spans(whole))
    sections = "\n\n".join(f"## Part {n}\n\n{'Words of it. ' * 40}" for n in range(20))
    assert all(sections[span.start : span.end].startswith("## Part") for span in spans(sections))


@pytest.mark.parametrize("letter", ["x", "漢", "a ", "\n", "`", "e\u0301"])
def test_a_text_without_an_end_is_cut_in_time_that_grows_with_its_length(letter: str) -> None:
    """The splitter alone needs minutes for a few megabytes without a space."""
    started = time.process_time()
    found = spans(letter * 300_000)
    assert time.process_time() - started < 20
    assert sum(span.end - span.start for span in found) <= 600_000


def paragraphs(*numbers: int) -> str:
    return "\n\n".join(f"Paragraph {n}. " + f"About the matter {n}. " * 40 for n in numbers)


async def chunks(person: Person, id: str) -> list[dict[str, Any]]:
    """The chunks of a document, which must be its text."""
    document = (await person.ask(CHUNKS, id=id))["document"]
    found: list[dict[str, Any]] = document["chunks"]["nodes"]
    assert [chunk["position"] for chunk in found] == list(range(len(found)))
    for chunk in found:
        assert document["content"][chunk["start"] : chunk["end"]] == chunk["content"]
        assert chunk["revision"] == document["revision"]
        assert chunk["tokenCount"] == tokens(chunk["content"])
    return found


async def test_a_document_has_chunks_as_soon_as_it_is_there(person: Person) -> None:
    payload = await done(
        person, "createDocument", SHOWN, title="T", content=f"  {paragraphs(1, 2, 3)}\n"
    )
    document = payload["document"]
    assert (document["status"], document["version"]) == ("READY", 1)
    found = await chunks(person, document["id"])
    assert [chunk["content"][:12] for chunk in found] == [f"Paragraph {n}." for n in (1, 2, 3)]


async def test_what_is_the_same_in_another_revision_is_the_same_chunk(person: Person) -> None:
    payload = await done(person, "createDocument", SHOWN, title="T", content=paragraphs(1, 2, 3, 2))
    id = payload["document"]["id"]
    before = await chunks(person, id)
    payload = await done(person, "updateDocument", SHOWN, id=id, content=paragraphs(4, 2, 1, 2))
    assert payload["document"] == {"id": id, "status": "READY", "revision": 2, "version": 2}
    after = await chunks(person, id)
    assert [chunk["content"][:12] for chunk in after] == [f"Paragraph {n}." for n in (4, 2, 1, 2)]
    old = {chunk["id"] for chunk in before}
    assert [chunk["id"] in old for chunk in after] == [False, True, True, True]
    assert after[1]["id"] == before[1]["id"]
    assert after[3]["id"] == before[3]["id"]
    payload = await done(person, "updateDocument", SHOWN, id=id, content="")
    assert payload["document"]["status"] == "READY"
    assert await chunks(person, id) == []


async def test_other_fields_leave_the_chunks_alone(person: Person) -> None:
    payload = await done(person, "createDocument", SHOWN, title="T", content=paragraphs(1, 2))
    id = payload["document"]["id"]
    before = await chunks(person, id)
    await done(person, "updateDocument", SHOWN, id=id, content=paragraphs(1, 2), title="U")
    assert await chunks(person, id) == before


async def test_a_document_can_be_cut_anew(person: Person) -> None:
    payload = await done(person, "createDocument", SHOWN, title="T", content=paragraphs(1, 2))
    id = payload["document"]["id"]
    before = await chunks(person, id)
    payload = await done(person, "reindexDocument", SHOWN, id=id, expectedVersion=1)
    assert payload["document"] == {"id": id, "status": "READY", "revision": 1, "version": 1}
    after = await chunks(person, id)
    assert [chunk["content"] for chunk in after] == [chunk["content"] for chunk in before]
    assert not {chunk["id"] for chunk in after} & {chunk["id"] for chunk in before}


async def test_long_documents_are_cut_in_the_background(
    person: Person, open_session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knowledge_chunks, "MAX_INLINE_CHARS", 1_500)
    documents = [{"title": f"{n}", "content": paragraphs(n)} for n in (1, 2)]
    payload = await done(person, "createDocuments", "documents { id status }", documents=documents)
    first, second = payload["documents"]
    assert (first["status"], second["status"]) == ("READY", "PENDING")
    session = open_session(person.owner_id)
    assert await cut_pending(session, ids.decode(second["id"])[1])
    assert not await cut_pending(session, ids.decode(second["id"])[1])
    assert len(await chunks(person, second["id"])) == 1
    long = paragraphs(*range(9))
    payload = await done(person, "updateDocument", SHOWN, id=second["id"], content=long)
    assert (payload["document"]["status"], payload["document"]["revision"]) == ("PENDING", 2)
    assert await cut_pending(session, ids.decode(second["id"])[1])
    assert len(await chunks(person, second["id"])) == 9
    payload = await done(person, "reindexDocument", SHOWN, id=second["id"])
    assert payload["document"]["status"] == "PENDING"
    assert await chunks(person, second["id"]) == []


async def test_chunks_leave_no_events_of_their_own(
    person: Person, admin_engine: AsyncEngine
) -> None:
    payload = await done(person, "createDocument", SHOWN, title="T", content=paragraphs(1, 2))
    await done(person, "reindexDocument", SHOWN, id=payload["document"]["id"])
    events = text("SELECT entity_type, action FROM audit_events WHERE owner_id = :owner")
    async with admin_engine.connect() as connection:
        found = (await connection.execute(events, {"owner": person.owner_id})).all()
    assert [tuple(event) for event in found] == [("document", "create")]


async def test_a_citation_outlives_the_chunk_it_is_from(
    person: Person, admin_engine: AsyncEngine
) -> None:
    payload = await done(person, "createDocument", SHOWN, title="T", content=paragraphs(1, 2))
    id = payload["document"]["id"]
    chunk = (await chunks(person, id))[0]
    made = await done(person, "createConversation", "conversation { id }")
    made = await done(
        person, "appendMessage", "message { id }",
        conversationId=made["conversation"]["id"], role="ASSISTANT", content="As it is written",
    )  # fmt: skip
    cite = text(
        "INSERT INTO citations"
        ' (owner_id, message_id, document_id, chunk_id, position, quote, start, "end", score)'
        " VALUES (:owner, :message, :document, :chunk, 0, :quote, 0, 10, 0.5)"
    )
    given = {
        "owner": person.owner_id,
        "message": ids.decode(made["message"]["id"])[1],
        "document": ids.decode(id)[1],
        "chunk": ids.decode(chunk["id"])[1],
        "quote": chunk["content"],
    }
    async with admin_engine.connect() as connection:
        await connection.execute(cite, given)
    await done(person, "updateDocument", SHOWN, id=id, content=paragraphs(3))
    await done(person, "reindexDocument", SHOWN, id=id)
    kept = text("SELECT quote, chunk_id, document_id FROM citations WHERE owner_id = :owner")
    async with admin_engine.connect() as connection:
        (row,) = await connection.execute(kept, {"owner": person.owner_id})
    assert tuple(row) == (chunk["content"], None, given["document"])
