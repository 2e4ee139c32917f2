"""One embedding model replaces another: built beside it, switched at once, under traffic."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text

from db.engine import create_engine
from db.session import Session
from server.embedding import operator
from server.embedding.operator import EmbeddingModelError
from tests.mutations import done, refused, rules
from tests.people import Person
from tests.search.conftest import PATIENT, Place, until
from tests.search.provider import embed
from tests.search.test_embedding import nothing_left, write
from tests.search.test_searching import search, titles

MODELS = "{ embeddingModels { id dimensions status isCurrent pendingCount failedCount } }"


async def models(person: Person) -> dict[str, dict[str, Any]]:
    found = (await person.ask(MODELS))["embeddingModels"]
    return {one["id"]: one for one in found}


async def test_a_new_model_is_built_beside_the_old_and_switched_at_once(place: Place) -> None:
    old = place.open()
    person = await place.person(old)
    for number in range(6):
        await write(person, f"The lamp number {number} of the kitchen", title=f"{number}")
    await until(lambda: nothing_left(place))
    answers: list[dict[str, Any]] = []
    stop = asyncio.Event()

    async def traffic() -> None:
        while not stop.is_set():
            answers.append(await search(person, "lamp", mode="VECTOR"))

    async def writing() -> None:
        for number in range(6, 12):
            await write(person, f"The lamp number {number} of the kitchen", title=f"{number}")
            await asyncio.sleep(0)

    searching = asyncio.create_task(traffic())
    place.open(model="bag-32")

    async def built() -> bool:
        new = (await models(person)).get("bag-32")
        return bool(new and not new["pendingCount"] and await nothing_left(place))

    await writing()
    await until(built)
    assert (await models(person))["bag-32"]["status"] == "BUILDING"
    owner = create_engine(place.url, pooled=False)
    await operator.activate(owner, "bag-32")
    await until(lambda: _uses(answers, "bag-32"))
    stop.set()
    await searching
    await owner.dispose()
    used = [answer["modelId"] for answer in answers]
    # Never the old one again, and no search between the two that finds less than there was.
    assert used == sorted(used, reverse=True)
    assert all(answer["totalCount"] >= 6 for answer in answers)
    assert answers[-1]["totalCount"] == 12
    found = await models(person)
    assert (found["bag-64"]["status"], found["bag-32"]["status"]) == ("RETIRED", "ACTIVE")
    stored = "SELECT model_id, dimensions, count(*) FROM embeddings GROUP BY 1, 2 ORDER BY 1"
    assert await place.rows(stored) == [("bag-32", 32, 12), ("bag-64", 64, 12)]


async def _uses(answers: list[dict[str, Any]], model: str) -> bool:
    used: bool = answers[-1]["modelId"] == model
    return used


async def test_an_owner_may_choose_for_themselves(place: Place) -> None:
    embeddings = place.open()
    one, other = await place.person(embeddings), await place.person(embeddings)
    for person in (one, other):
        await write(person, "The lamp")
    await until(lambda: nothing_left(place))
    await place.run("INSERT INTO embedding_models VALUES ('bag-16', 16, 'building')")
    await write(one, "Another lamp")
    await until(lambda: nothing_left(place))
    payload = await done(one, "activateEmbeddingModel", "modelId", modelId="bag-16")
    assert payload["modelId"] == "bag-16"
    assert (await search(one, "lamp"))["modelId"] == "bag-16"
    assert (await search(other, "lamp"))["modelId"] == "bag-64"
    payload = await done(one, "activateEmbeddingModel", "modelId", modelId="bag-64")
    assert (await search(one, "lamp"))["modelId"] == "bag-64"
    assert await place.rows("SELECT count(*) FROM embedding_choices") == [(1,)]


async def test_a_model_must_be_there_and_complete_to_be_chosen(place: Place) -> None:
    person = await place.person()
    await place.run("INSERT INTO embedding_models VALUES ('bag-16', 16, 'active')")
    await write(person, "The lamp")
    await place.run("INSERT INTO embedding_models VALUES ('old', 16, 'retired')")
    for model, rule in (("bag-16", "complete"), ("nothing", "model"), ("old", "model")):
        problems = await refused(person, "activateEmbeddingModel", modelId=model)
        assert rules(problems) == {"modelId": rule}


async def test_an_operator_is_told_what_cannot_be(place: Place) -> None:
    person = await place.person()
    await place.run("INSERT INTO embedding_models VALUES ('bag-64', 64, 'active')")
    await place.run("INSERT INTO embedding_models VALUES ('bag-32', 32, 'building')")
    await write(person, "The lamp")
    owner = create_engine(place.url, pooled=False)
    try:
        with pytest.raises(EmbeddingModelError, match="1 documents and messages are not embedded"):
            await operator.activate(owner, "bag-32")
        with pytest.raises(EmbeddingModelError, match="bag-64 is active"):
            await operator.retire(owner, "bag-64")
        with pytest.raises(EmbeddingModelError, match="There is no embedding model x"):
            await operator.activate(owner, "x")
        with pytest.raises(EmbeddingModelError, match="bag-64 is in use"):
            await operator.erase(owner, "bag-64")
        await operator.activate(owner, "bag-32", force=True)
        await operator.build_index(owner, "bag-64")
        states = {one.id: one for one in await operator.report(owner)}
        assert states["bag-64"].indexed
        await operator.erase(owner, "bag-64")
        (left,) = await operator.report(owner)
        assert (left.id, left.status, left.pending, left.indexed) == ("bag-32", "active", 1, False)
    finally:
        await owner.dispose()


async def test_the_index_brings_what_the_scan_brings(place: Place) -> None:
    """Also to an owner whose rows are few among others', and through filters."""
    embeddings = place.open()
    many, few = await place.person(embeddings), await place.person(embeddings)
    for number in range(40):
        await write(many, f"The lamp number {number} of the kitchen", title=f"{number}")
    for number in range(3):
        await write(few, f"A lamp {number}", title=f"{number}")
    await until(lambda: nothing_left(place))
    owner = create_engine(place.url, pooled=False)
    await operator.build_index(owner, "bag-64")
    await owner.dispose()
    await place.run("ANALYZE")
    find = text(
        "SELECT document_id, distance FROM engram_vector_chunks("
        "'bag-64', CAST(:vector AS halfvec), NULL, :size, :limit, :cost)"
    )
    vector = str(embed("kitchen lamp number", 64))
    for person, count in ((many, 40), (few, 3)):
        async with Session(place.engine, person.owner_id, PATIENT) as session:
            given = {"vector": vector, "size": 50}
            exact = await session.execute(find, {**given, "limit": 10**9, "cost": 1.0})
            indexed = await session.execute(find, {**given, "limit": 0, "cost": 0.0})
        assert len(exact) == count
        assert {row.document_id for row in indexed} == {row.document_id for row in exact}
    assert len(titles(await search(many, "lamp", mode="VECTOR", first=100))) == 40
