"""Searches: by words, by meaning, by both; what is shown of hits, and whose they are."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from db.session import Session
from tests.mutations import done
from tests.people import Person
from tests.search.conftest import PATIENT, Place, until
from tests.search.provider import Answer
from tests.search.test_embedding import nothing_left, say, write

HITS = """
    totalCount mode limitedBy notice modelId
    pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
    nodes {
      score textRank textScore vectorRank similarity
      document { id title }
      passages {
        textScore similarity
        chunk { id content start }
        snippet { text start end fragments { text marked } }
      }
    }
"""
SEARCH = f"""query($query: String!, $mode: SearchMode, $filter: DocumentFilter, $first: Int,
    $after: String, $textWeight: Float, $vectorWeight: Float, $k: Int, $window: Int) {{
  searchDocuments(query: $query, mode: $mode, filter: $filter, first: $first, after: $after,
    textWeight: $textWeight, vectorWeight: $vectorWeight, k: $k, window: $window) {{ {HITS} }} }}"""
MESSAGES = """query($query: String!, $mode: SearchMode, $filter: MessageFilter) {
  searchMessages(query: $query, mode: $mode, filter: $filter) {
    mode totalCount
    nodes { score textRank vectorRank message { id content }
            snippet { text start end fragments { text marked } } } } }"""


async def search(person: Person, query: str, **given: Any) -> dict[str, Any]:
    found: dict[str, Any] = (await person.ask(SEARCH, query=query, **given))["searchDocuments"]
    return found


def titles(found: dict[str, Any]) -> list[str]:
    return [node["document"]["title"] for node in found["nodes"]]


async def fill(place: Place) -> Person:
    """Somebody with a few notes that are embedded."""
    embeddings = place.open()
    person = await place.person(embeddings)
    notes = {
        "Kitchen": "The kitchen needs a new lamp. Its number is QX-4711.",
        "Garden": "Gardening starts in spring: the gardener brings seeds.",
        "Lamps": "All lamps of the house are listed here, with their numbers.",
        "Empty": "",
    }
    for title, content in notes.items():
        await write(person, content, **{"title": title})
    await until(lambda: nothing_left(place))
    return person


async def test_words_find_what_vectors_do_not_and_the_other_way_round(place: Place) -> None:
    person = await fill(place)
    found = await search(person, "QX-4711", mode="TEXT")
    assert titles(found) == ["Kitchen"]
    assert (found["mode"], found["modelId"], found["limitedBy"]) == ("TEXT", None, None)
    (hit,) = found["nodes"]
    assert (hit["textRank"], hit["vectorRank"], hit["similarity"]) == (1, None, None)
    assert hit["score"] == pytest.approx(1 / 61)

    found = await search(person, "gardeners", mode="VECTOR")
    assert (found["mode"], found["modelId"]) == ("VECTOR", "bag-64")
    assert titles(found)[0] == "Garden"
    assert len(found["nodes"]) == 3
    (first, *_) = found["nodes"]
    assert (first["textRank"], first["vectorRank"]) == (None, 1)
    assert 0.1 < first["similarity"] <= 1
    assert titles(await search(person, "gardeners", mode="TEXT")) == []

    found = await search(person, "number of the lamp", mode="HYBRID")
    assert found["mode"] == "HYBRID"
    for hit in found["nodes"]:
        ranks = [hit["textRank"], hit["vectorRank"]]
        expected = sum(1 / (60 + rank) for rank in ranks if rank is not None)
        assert hit["score"] == pytest.approx(expected)
    assert [hit["score"] for hit in found["nodes"]] == sorted(
        (hit["score"] for hit in found["nodes"]), reverse=True
    )


async def test_titles_are_found_too(place: Place) -> None:
    person = await fill(place)
    found = await search(person, "empty", mode="TEXT")
    assert titles(found) == ["Empty"]
    assert found["nodes"][0]["passages"] == []
    assert titles(await search(person, "lamps", mode="TEXT")) == ["Lamps"]


async def test_weights_and_the_constant_decide_what_counts(place: Place) -> None:
    person = await fill(place)
    by_words = titles(await search(person, "kitchen", vectorWeight=0))
    assert by_words == ["Kitchen"]
    by_vectors = await search(person, "gardeners", textWeight=0)
    assert titles(by_vectors) == titles(await search(person, "gardeners", mode="VECTOR"))
    found = await search(person, "kitchen", textWeight=3, vectorWeight=2, k=1)
    assert found["nodes"][0]["score"] == pytest.approx(3 / 2 + 2 / 2)


async def test_snippets_show_where_the_words_stand(place: Place) -> None:
    person = await place.person()
    whole = (
        "Beginning of it. " * 60 + 'The <b>kitchen</b>, the "Kitchen" & the end. ' + "More. " * 90
    )
    await write(person, whole)
    found = await search(person, "kitchen", mode="TEXT")
    (passage,) = found["nodes"][0]["passages"]
    snippet = passage["snippet"]
    assert whole[snippet["start"] : snippet["end"]] == snippet["text"]
    assert "".join(fragment["text"] for fragment in snippet["fragments"]) == snippet["text"]
    marked = [one["text"] for one in snippet["fragments"] if one["marked"]]
    assert marked == ["kitchen", "Kitchen"]
    assert "<b>kitchen</b>" in snippet["text"]
    assert len(snippet["text"]) <= 240


async def test_messages_are_searched_in_all_conversations(place: Place) -> None:
    person = await place.person(place.open())
    lamp = await say(person, "Where is the lamp of the kitchen?")
    seeds = await say(person, "The gardener wanted seeds.")
    await until(lambda: nothing_left(place))

    async def ask(query: str, **given: Any) -> list[dict[str, Any]]:
        found = (await person.ask(MESSAGES, query=query, **given))["searchMessages"]
        nodes: list[dict[str, Any]] = found["nodes"]
        return nodes

    (hit,) = await ask("lamp", mode="TEXT")
    assert hit["message"]["id"] == lamp
    assert [one["text"] for one in hit["snippet"]["fragments"] if one["marked"]] == ["lamp"]
    first, second = await ask("gardening", mode="VECTOR")
    assert (first["message"]["id"], second["message"]["id"]) == (seeds, lamp)
    assert first["snippet"]["text"] == "The gardener wanted seeds."
    (hit,) = await ask("gardening", filter={"content": {"contains": "lamp"}})
    assert hit["message"]["id"] == lamp


@pytest.mark.parametrize("mode", ["TEXT", "VECTOR", "HYBRID"])
async def test_filters_narrow_before_the_best_are_taken(place: Place, mode: str) -> None:
    person = await place.person(place.open())
    for number in range(12):
        await write(person, f"The lamp {'lamp ' * (12 - number)}", title=f"{number}")
    await write(person, "One lamp in the corner of a large house with a garden", title="last")
    await until(lambda: nothing_left(place))
    narrow = {"title": {"in": ["last", "11"]}}
    found = await search(person, "lamp", mode=mode, filter=narrow, window=2)
    assert sorted(titles(found)) == ["11", "last"]
    assert found["totalCount"] == 2
    none = {"chunks": {"none": {"content": {"contains": "lamp"}}}}
    assert titles(await search(person, "lamp", mode=mode, filter=none)) == []


async def test_without_a_provider_words_alone_are_searched_and_it_says_so(place: Place) -> None:
    person = await place.person(place.embeddings(model=None))
    await write(person, "The lamp")
    found = await search(person, "lamp")
    assert titles(found) == ["T"]
    assert (found["mode"], found["limitedBy"]) == ("TEXT", "NO_PROVIDER")
    assert found["notice"] == "Searched by words alone: no provider of embeddings is configured."
    answer = await person.execute(SEARCH, query="lamp", mode="VECTOR")
    (error,) = answer["errors"]
    assert error["extensions"]["code"] == "PROVIDER_UNAVAILABLE"


async def test_a_provider_that_fails_does_not_fail_the_search(place: Place) -> None:
    person = await fill(place)
    place.provider.away = Answer(503)
    asked = len(place.provider.asked)
    for _ in range(3):
        found = await search(person, "kitchen lamp")
        assert titles(found) == ["Kitchen"]
        assert (found["mode"], found["limitedBy"]) == ("TEXT", "PROVIDER_FAILED")
    # It is left alone for a while, so that not every search waits for it.
    assert len(place.provider.asked) == asked + 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"query": ""}, "`query` must not be empty."),
        ({"query": " \n"}, "`query` must not be empty."),
        ({"query": "!!! ?"}, "`query` needs a word to look for"),
        ({"query": "-lamp"}, "`query` needs a word to look for"),
        ({"query": "a\0"}, "`query`: Text must not contain the NUL"),
        ({"query": "a" * 1_001}, "`query` has at most 1000 characters."),
        ({"query": "a", "first": 101}, "`first` must be between 0 and 100."),
        ({"query": "a", "first": -1}, "`first` must be between 0 and 100."),
        ({"query": "a", "window": 0}, "`window` must be between 1 and 500."),
        ({"query": "a", "k": 0}, "`k` must be between 1 and 10000."),
        ({"query": "a", "textWeight": -1}, "`textWeight` must be between 0 and 1000."),
        ({"query": "a", "textWeight": 0, "vectorWeight": 0}, "One of `textWeight`"),
        ({"query": "a", "after": "x"}, "`after` is not a cursor"),
    ],
)
async def test_what_cannot_be_searched_is_said(person: Person, given: Any, says: str) -> None:
    mode = "HYBRID" if "textWeight" in given else "TEXT"
    answer = await person.execute(SEARCH, mode=mode, **given)
    (error,) = answer["errors"]
    assert error["message"].startswith(says)
    code = "BAD_CURSOR" if "after" in given else "BAD_USER_INPUT"
    assert error["extensions"]["code"] == code


async def test_a_stranger_is_in_no_hits_even_with_the_same_text(place: Place) -> None:
    embeddings = place.open()
    mine, theirs = await place.person(embeddings), await place.person(embeddings)
    own = {await write(mine, "The lamp of the kitchen") for _ in range(2)}
    foreign = {await write(theirs, "The lamp of the kitchen") for _ in range(5)}
    await say(theirs, "The lamp of the kitchen")
    await until(lambda: nothing_left(place))
    for mode in ("TEXT", "VECTOR", "HYBRID"):
        found = await search(mine, "lamp kitchen", mode=mode)
        assert {node["document"]["id"] for node in found["nodes"]} == own
        assert found["totalCount"] == 2
        answer = await mine.ask(MESSAGES, query="lamp kitchen", mode=mode)
        assert answer["searchMessages"]["totalCount"] == 0
        # A filter that names a stranger's row narrows to nothing.
        narrow = {"id": {"in": list(foreign)}}
        found = await search(mine, "lamp kitchen", mode=mode, filter=narrow)
        assert found["totalCount"] == 0


async def test_what_is_deleted_is_not_found_until_it_is_restored(place: Place) -> None:
    person = await fill(place)
    found = await search(person, "kitchen", mode="HYBRID", vectorWeight=0)
    id = found["nodes"][0]["document"]["id"]
    await done(person, "deleteDocument", "document { id }", id=id)
    for mode in ("TEXT", "VECTOR"):
        assert "Kitchen" not in titles(await search(person, "kitchen", mode=mode))
    await done(person, "restoreDocument", "document { id }", id=id)
    for mode in ("TEXT", "VECTOR"):
        assert titles(await search(person, "kitchen", mode=mode))[0] == "Kitchen"


async def test_a_search_costs_the_same_statements_whatever_it_finds(place: Place) -> None:
    person = await place.person(place.open())
    counts = []
    for number in range(3):
        for _ in range(4):
            await write(person, f"The lamp {number}\n\n" + "word " * 300 * number)
        await until(lambda: nothing_left(place))
        found = await search(person, "lamp")
        assert len(found["nodes"]) == 4 * (number + 1)
        counts.append(len(person.statements))
    assert counts == [5, 5, 5]


async def test_the_functions_take_the_owner_from_nobody_else(place: Place) -> None:
    """Somebody who could run any SQL as the application still reads their own rows alone."""
    mine, theirs = await place.person(), await place.person()
    await write(theirs, "The lamp of a stranger")
    find = text("SELECT * FROM engram_text_chunks('lamp', NULL, 10)")
    for owner, count in ((mine.owner_id, 0), (theirs.owner_id, 1), (None, 0)):
        async with Session(place.engine, owner, PATIENT) as session:
            assert len(await session.execute(find)) == count


async def test_no_field_holds_a_connection_while_the_query_is_embedded(place: Place) -> None:
    person = await fill(place)
    place.provider.gate = asyncio.Event()
    asked = len(place.provider.asked)
    document = """{
        documents { totalCount nodes { title } }
        first: searchDocuments(query: "a lamp that was never asked for") { mode totalCount }
        other: searchMessages(query: "nor was this one") { mode totalCount }
    }"""
    answering = asyncio.create_task(person.ask(document))

    async def both_asked() -> bool:
        return len(place.provider.asked) == asked + 2

    await until(both_asked)
    open_ = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND state LIKE 'idle in transaction%' AND query LIKE '%documents%'"
    )
    assert await place.rows(open_) == [(0,)]
    place.provider.gate.set()
    data = await answering
    assert data["documents"]["totalCount"] == 4
    assert data["first"]["mode"] == data["other"]["mode"] == "HYBRID"


async def test_a_text_that_says_nothing_is_near_nothing(place: Place) -> None:
    """A zero vector has no direction: its distance is no number, which is no hit and no error."""
    person = await place.person(place.open())
    await write(person, "4711 0815 42", title="numbers")
    await write(person, "The lamp", title="lamp")
    await say(person, "4711")
    await until(lambda: nothing_left(place))
    assert titles(await search(person, "lamp", mode="VECTOR")) == ["lamp"]
    found = await person.ask(MESSAGES, query="lamp", mode="VECTOR")
    assert found["searchMessages"]["totalCount"] == 0


@pytest.mark.parametrize("function", ["engram_vector_chunks", "engram_vector_messages"])
async def test_an_owner_s_vectors_are_never_read_by_reading_all_vectors(
    admin_engine: AsyncEngine, function: str
) -> None:
    """PostgreSQL would from a twelfth of the table on; `benchmarks search` shows the cost."""
    statement = text("SELECT proconfig FROM pg_proc WHERE proname = :function")
    async with admin_engine.connect() as connection:
        settings = (await connection.execute(statement, {"function": function})).scalar_one()
    assert "enable_seqscan=off" in settings
