"""sendMessage puts passages of the sender's documents before the model, and remembers them."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from sqlalchemy import text

from db.notifications import Listener
from db.repositories.conversations_citations import cite
from db.repositories.knowledge import reindex_document, update_document
from db.session import Author, Session
from schema import ids
from schema.context import Actor, Context
from schema.retrieval import Retrieval, RetrievalInput
from schema.search_fields import SearchMode
from server.replies.service import Replies, ReplyOptions
from tests.mutations import done, refused, rules
from tests.people import Person
from tests.provider import KEY, FakeProvider, providing
from tests.search.conftest import MODEL, PATIENT, Place, until
from tests.search.provider import Answer
from tests.search.test_embedding import nothing_left, write

SHOWN = """reply { id } generation { id }"""
ANSWER = """query($id: ID!) { node(id: $id) { ... on Message { id status content
    citations { nodes { position quote start end score document { id } chunk { id } } }
    generation { context } } } }"""


@pytest_asyncio.fixture
async def model() -> AsyncIterator[FakeProvider]:
    async with providing() as provider:
        yield provider


@pytest_asyncio.fixture
async def writer(place: Place, model: FakeProvider) -> AsyncIterator[Person]:
    """Somebody whose server has a model that answers, and embeddings."""
    listener = Listener(place.engine)
    await listener.start()
    options = ReplyOptions(base_url=model.url, api_key=KEY, models=("echo",))
    replies = Replies(place.engine, PATIENT, options, listener)
    replies.open()
    person = await place.person(place.open())
    person.services = replace(person.services, changes=listener, replies=replies)
    yield person
    await replies.close(5)
    await listener.stop()


async def send(person: Person, content: str, **retrieval: Any) -> dict[str, Any]:
    """The answer to a message, once it is whole."""
    made = await done(person, "createConversation", "conversation { id }")
    sent = await done(
        person, "sendMessage", SHOWN,
        conversationId=made["conversation"]["id"], content=content, retrieval=retrieval,
    )  # fmt: skip
    found: dict[str, Any] = {}

    async def whole() -> bool:
        found.update((await person.ask(ANSWER, id=sent["reply"]["id"]))["node"])
        return bool(found["status"] == "COMPLETE")

    await until(whole)
    return found


async def test_the_passages_that_fit_go_to_the_model_and_are_cited(
    place: Place, writer: Person, model: FakeProvider
) -> None:
    kitchen = await write(writer, "The kitchen lamp is a QX-4711.", title="Kitchen")
    await write(writer, "Gardening begins in spring.", title="Garden")
    foreign = await place.person()
    await write(foreign, "The kitchen lamp of a stranger.")
    await until(lambda: nothing_left(place))
    answer = await send(writer, "kitchen lamps", first=1)
    (cited,) = answer["citations"]["nodes"]
    assert cited["quote"] == "The kitchen lamp is a QX-4711."
    assert (cited["position"], cited["start"], cited["end"]) == (0, 0, 30)
    assert cited["document"]["id"] == kitchen
    asked = model.about("kitchen lamps")[0].body["messages"]
    assert "[1] The kitchen lamp is a QX-4711." in asked[0]["content"]
    assert "stranger" not in str(asked)
    sent = answer["generation"]["context"]["sent"]
    assert sent[0] == {
        "document": kitchen,
        "chunk": cited["chunk"]["id"],
        "sha256": hashlib.sha256(cited["quote"].encode()).hexdigest(),
    }
    # Cut anew, the document has other chunks; what was cited stays as it was.
    await done(writer, "reindexDocument", "document { id }", id=kitchen)
    again = (await writer.ask(ANSWER, id=answer["id"]))["node"]
    (kept,) = again["citations"]["nodes"]
    assert kept == {**cited, "chunk": None}


@asynccontextmanager
async def writing(place: Place, person: Person) -> AsyncIterator[Session]:
    """A transaction of somebody's, which is open as long as the block runs."""
    author = Author("user", person.owner_id, "test")
    async with (
        Session(place.engine, person.owner_id, PATIENT, author=author) as session,
        session.transaction(),
    ):
        yield session


async def change(session: Session, id: UUID) -> None:
    await update_document(session, id, {"content": "It is blue."}, None)


async def reindex(session: Session, id: UUID) -> None:
    await reindex_document(session, id, None)


CUTTING = pytest.mark.parametrize("cut", [change, reindex])
Cut = Callable[[Session, UUID], Awaitable[None]]


@CUTTING
async def test_a_document_is_cut_anew_while_it_is_cited(
    place: Place, writer: Person, cut: Cut
) -> None:
    document = await write(writer, "The lamp is red.")
    await until(lambda: nothing_left(place))
    async with writing(place, writer) as session:
        await cut(session, ids.decode(document)[1])
        sending = asyncio.create_task(send(writer, "lamp"))
        await asyncio.wait({sending}, timeout=0.3)
    answer = await sending
    (cited,) = answer["citations"]["nodes"]
    assert (cited["quote"], cited["document"]["id"]) == ("The lamp is red.", document)
    assert (cited["chunk"], answer["status"]) == (None, "COMPLETE")


@CUTTING
async def test_a_document_is_cited_while_it_is_cut_anew(
    place: Place, writer: Person, cut: Cut
) -> None:
    document = await write(writer, "The lamp is red.")
    await until(lambda: nothing_left(place))
    message = (await send(writer, "nothing", query="?!", mode="TEXT"))["id"]

    async def meanwhile() -> None:
        async with writing(place, writer) as session:
            await cut(session, ids.decode(document)[1])

    async with writing(place, writer) as session:
        context = Context(
            writer.services, Actor(writer.owner_id, "user", writer.owner_id), request_id="test"
        )
        async with context:
            retrieval = Retrieval(RetrievalInput(mode=SearchMode.TEXT), "lamp")
            await retrieval.prepare(context)
        passages = await retrieval.passages(session)
        cutting = asyncio.create_task(meanwhile())
        await asyncio.wait({cutting}, timeout=0.3)
        await cite(session, ids.decode(message)[1], passages)
    await cutting
    (cited,) = (await writer.ask(ANSWER, id=message))["node"]["citations"]["nodes"]
    assert (cited["quote"], cited["chunk"]) == ("The lamp is red.", None)


async def test_passages_are_of_the_documents_that_are_named(place: Place, writer: Person) -> None:
    named = [await write(writer, f"The lamp {n}", title=f"{n}") for n in range(4)][:2]
    await until(lambda: nothing_left(place))
    answer = await send(writer, "lamp", documentIds=named)
    cited = [one["document"]["id"] for one in answer["citations"]["nodes"]]
    assert sorted(cited) == sorted(named)


async def test_without_words_or_vectors_nothing_is_cited(place: Place, writer: Person) -> None:
    await write(writer, "The lamp")
    await until(lambda: nothing_left(place))
    answer = await send(writer, "lamp", query="?!", mode="TEXT")
    assert answer["citations"]["nodes"] == []


async def test_what_cannot_be_retrieved_is_a_problem(writer: Person) -> None:
    made = await done(writer, "createConversation", "conversation { id }")
    given = {"conversationId": made["conversation"]["id"], "content": "lamp"}
    for retrieval, expected in (
        ({"first": 0}, {"retrieval.first": "range"}),
        ({"query": "a" * 1_001}, {"retrieval.query": "max_length"}),
        ({"documentIds": ["x"]}, {"retrieval.documentIds.0": "id"}),
    ):
        problems = await refused(writer, "sendMessage", **given, retrieval=retrieval)
        assert rules(problems) == expected


async def test_who_sends_again_embeds_nothing_again(
    place: Place, writer: Person, model: FakeProvider
) -> None:
    made = await done(writer, "createConversation", "conversation { id }")
    given = {
        "conversationId": made["conversation"]["id"],
        "content": "kitchen lamps",
        "idempotencyKey": "once",
        "retrieval": {"first": 1},
    }
    await write(writer, "The lamp is red.")
    await until(lambda: nothing_left(place))
    first = await done(writer, "sendMessage", SHOWN, **given)
    # At another server, which has not seen the query.
    elsewhere = replace(writer, services=replace(writer.services, embeddings=place.embeddings()))
    asked = len(place.provider.asked)
    assert await done(elsewhere, "sendMessage", SHOWN, **given) == first
    other = {**given, "content": "garden lamps"}
    assert [one["code"] for one in await refused(elsewhere, "sendMessage", **other)] == [
        "IDEMPOTENCY_CONFLICT"
    ]
    assert len(place.provider.asked) == asked


async def test_a_question_in_sentences_finds_what_has_some_of_its_words(
    place: Place, writer: Person
) -> None:
    """By words alone: the rare words of the question count, and those of every text do not."""
    lamp = await write(writer, "The lamp over the stove is a QX-4711.", title="A")
    await write(writer, "The stove is where the pots are, and the stove is hot.", title="B")
    await write(writer, "One stove was sold.", title="C")
    await write(writer, "What is it of which I can and should do nothing?", title="D")
    question = "Could you please tell me what kind of lamp is over the stove in the kitchen?"
    answer = await send(writer, question, mode="TEXT")
    cited = answer["citations"]["nodes"]
    assert cited[0]["document"]["id"] == lamp
    assert {one["quote"].split()[0] for one in cited} == {"The", "One"}
    assert len(cited) == 3
    # Most words are of no chunk, and one is in another language.
    answer = await send(writer, "Wo ist die Lampe mit der Nummer qx-4711 von Anna?", mode="TEXT")
    assert [one["document"]["id"] for one in answer["citations"]["nodes"]] == [lamp]
    # There is nothing but words of every text: they are looked for.
    answer = await send(writer, "What should I do?", mode="TEXT", first=1)
    assert "nothing" in answer["citations"]["nodes"][0]["quote"]


async def test_titles_count_and_what_operators_are_in_searches_are_words(
    place: Place, writer: Person
) -> None:
    await write(writer, "It gives light: a lamp.", title="Garden")
    kitchen = await write(writer, "It gives light: a lamp.", title="Kitchen")
    said = """Is 'the "lamp' (of | the) -kitchen & c:\\lamp\\' !light?"""
    answer = await send(writer, said, mode="TEXT")
    assert answer["citations"]["nodes"][0]["document"]["id"] == kitchen
    assert len(answer["citations"]["nodes"]) == 2


async def test_a_long_question_is_cut_to_its_longest_words(place: Place, writer: Person) -> None:
    await write(writer, "aa ab ac")
    lamp = await write(writer, "chandelier")
    short = " ".join(f"a{one}" for one in "abcdefghijklmnopqrstuvwxyz")
    shorter = " ".join(f"b{one}" for one in "abcdefghijklmnopqrstuvwxyz")
    words = " ".join(f"illuminating{one}" for one in "abcdefghijklmnopqrstuvwxyz")
    answer = await send(writer, f"{short} {shorter} {words} chandelier", mode="TEXT", first=20)
    assert lamp in [one["document"]["id"] for one in answer["citations"]["nodes"]]


async def test_words_that_too_many_chunks_have_say_nothing_beside_rarer_ones(
    place: Place, writer: Person
) -> None:
    common = await write(writer, "common words " * 30, title="common")
    rare = await write(writer, "rare words", title="rare")
    await place.run(
        """
        INSERT INTO chunks (owner_id, document_id, revision, position, start, "end", token_count,
            content, content_sha256)
        SELECT owner_id, id, revision, n, n, n + 1, 1, 'common words ' || n, sha256(n::text::bytea)
        FROM documents CROSS JOIN generate_series(100, 4200) AS n WHERE title = 'common'
        """
    )
    answer = await send(writer, "words: common or rare", mode="TEXT", first=20)
    assert [one["document"]["id"] for one in answer["citations"]["nodes"]] == [rare]
    answer = await send(writer, "common words", mode="TEXT", first=1)
    assert [one["document"]["id"] for one in answer["citations"]["nodes"]] == [common]


async def test_passages_are_the_owners_alone(place: Place) -> None:
    """Somebody who could run any SQL as the application still reads their own rows alone."""
    mine, theirs = await place.person(), await place.person()
    await write(theirs, "The lamp of a stranger")
    find = text("SELECT * FROM engram_any_word_chunks('lamp', NULL, 10)")
    for owner, count in ((mine.owner_id, 0), (theirs.owner_id, 1), (None, 0)):
        async with Session(place.engine, owner, PATIENT) as session:
            assert len(await session.execute(find)) == count


REPORT = "message { id } retrieval { mode limitedBy notice modelId }"


async def test_documents_that_are_gone_or_not_ones_own_are_a_problem(
    place: Place, writer: Person
) -> None:
    mine = await write(writer, "The lamp")
    gone = await write(writer, "The lamp")
    await done(writer, "deleteDocument", "document { id }", id=gone)
    foreign = await write(await place.person(), "The lamp of a stranger")
    made = await done(writer, "createConversation", "conversation { id }")
    given = {
        "conversationId": made["conversation"]["id"],
        "content": "lamp",
        "idempotencyKey": "once",
    }
    wrong = {"documentIds": [gone, mine, foreign]}
    problems = await refused(writer, "sendMessage", **given, retrieval=wrong)
    assert [(one["code"], one["path"]) for one in problems] == [
        ("NOT_FOUND", ["input", "retrieval", "documentIds", place_]) for place_ in "02"
    ]
    assert await place.rows("SELECT count(*) FROM messages") == [(0,)]
    # The key is still free.
    await done(writer, "sendMessage", REPORT, **given, retrieval={"documentIds": [mine]})


async def test_a_provider_that_fails_is_told(place: Place, writer: Person) -> None:
    await write(writer, "The lamp")
    await until(lambda: place.rows("SELECT 1 FROM embeddings"))
    made = await done(writer, "createConversation", "conversation { id }")
    given = {
        "conversationId": made["conversation"]["id"],
        "content": "a lamp",
        "idempotencyKey": "once",
    }
    place.provider.away = Answer(500, message="out of memory")
    (problem,) = await refused(writer, "sendMessage", **given, retrieval={"mode": "VECTOR"})
    assert problem["code"] == "PROVIDER_UNAVAILABLE"
    assert problem["path"] == ["input", "retrieval", "mode"]
    assert "A search by meaning is not possible" in problem["message"]
    assert await place.rows("SELECT count(*) FROM messages") == [(0,)]
    hybrid = {**given, "retrieval": {"mode": "HYBRID"}}
    sent = await done(writer, "sendMessage", REPORT, **hybrid)
    told = sent["retrieval"]
    assert (told["mode"], told["limitedBy"], told["modelId"]) == ("TEXT", "PROVIDER_FAILED", None)
    assert told["notice"].startswith("Searched by words alone: ")
    # Asked again, it says the same.
    assert await done(writer, "sendMessage", REPORT, **hybrid) == sent


async def test_who_looks_by_meaning_is_told_by_which_model(place: Place, writer: Person) -> None:
    await write(writer, "The lamp")
    await until(lambda: place.rows("SELECT 1 FROM embeddings"))
    made = await done(writer, "createConversation", "conversation { id }")
    given = {"conversationId": made["conversation"]["id"], "content": "a lamp"}
    sent = await done(writer, "sendMessage", REPORT, **given, retrieval={})
    expected = {"mode": "HYBRID", "limitedBy": None, "notice": None, "modelId": MODEL}
    assert sent["retrieval"] == expected
    other = await done(writer, "createConversation", "conversation { id }")
    given["conversationId"] = other["conversation"]["id"]
    assert (await done(writer, "sendMessage", REPORT, **given))["retrieval"] is None
