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
from tests.search.conftest import PATIENT, Place, until
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
