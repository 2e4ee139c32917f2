"""Pages of hits: none twice, none passed over, whatever is written meanwhile."""

import base64
import json
import os
import random
from typing import Any

from schema.search_fields import MAX_WINDOW, SEEN_BYTES, _cursor
from tests.mutations import done
from tests.people import Person
from tests.search.conftest import Place, until
from tests.search.test_embedding import nothing_left, write
from tests.search.test_searching import SEARCH, search


async def pages(person: Person, size: int, between: Any = None, **given: Any) -> list[str]:
    """The ids of all hits, page by page; something may happen between two pages."""
    found: list[str] = []
    after = None
    while True:
        page = await search(person, "lamp kitchen", first=size, after=after, **given)
        found += [node["document"]["id"] for node in page["nodes"]]
        info = page["pageInfo"]
        assert info["hasPreviousPage"] is (after is not None)
        if not info["hasNextPage"]:
            return found
        after = info["endCursor"]
        if between is not None:
            await between()


async def lamps(place: Place, person: Person, count: int) -> list[str]:
    dice = random.Random(3)
    made = []
    for number in range(count):
        words = dice.choices(["lamp", "kitchen", "door", "garden", "window"], k=12)
        made.append(await write(person, f"lamp kitchen {' '.join(words)}", title=f"{number}"))
    await until(lambda: nothing_left(place))
    return made


async def test_pages_of_any_size_are_the_whole_in_its_order(place: Place) -> None:
    person = await place.person(place.open())
    made = await lamps(place, person, 23)
    for mode in ("TEXT", "VECTOR", "HYBRID"):
        whole = await pages(person, 100, mode=mode)
        assert sorted(whole) == sorted(made)
        for size in (1, 4, 10, 22, 23):
            assert await pages(person, size, mode=mode) == whole


async def test_what_happens_between_pages_repeats_and_hides_nothing(place: Place) -> None:
    person = await place.person(place.open())
    made = await lamps(place, person, 24)
    dice = random.Random(5)
    kept, deleted = set(made), set[str]()

    async def meanwhile() -> None:
        await write(person, "lamp kitchen lamp kitchen lamp kitchen", title="lamp kitchen")
        id = dice.choice(sorted(kept))
        kept.discard(id)
        deleted.add(id)
        await done(person, "deleteDocument", "document { id }", id=id)
        changed = dice.choice(sorted(kept))
        await done(
            person, "updateDocument", "document { id }",
            id=changed, content="kitchen lamp and something else",
        )  # fmt: skip
        await until(lambda: nothing_left(place))

    for mode in ("HYBRID", "TEXT"):
        found = await pages(person, 5, meanwhile, mode=mode)
        assert len(found) == len(set(found))
        assert kept <= set(found)


async def test_the_last_cursor_of_the_largest_search_is_good(place: Place) -> None:
    person = await place.person(place.embeddings(model=None))
    await lamps(place, person, 1)
    page = await search(person, "lamp", first=1)
    signature = json.loads(base64.urlsafe_b64decode(page["pageInfo"]["endCursor"] + "=="))[0]
    # Both windows full, and not one hit in both.
    after = _cursor(signature, os.urandom(SEEN_BYTES * 2 * MAX_WINDOW))
    found = await search(person, "lamp", first=1, after=after)
    assert len(found["nodes"]) == 1, "what the cursor does not know is shown"


async def test_a_cursor_is_of_one_search(place: Place) -> None:
    person = await place.person(place.embeddings(model=None))
    await lamps(place, person, 3)
    page = await search(person, "lamp", first=1)
    after = page["pageInfo"]["endCursor"]
    assert (await search(person, "lamp", first=2, after=after))["pageInfo"]["hasNextPage"] is False
    for other in (
        {"query": "kitchen"},
        {"query": "lamp", "mode": "TEXT"},
        {"query": "lamp", "k": 10},
        {"query": "lamp", "filter": {"title": {"eq": "1"}}},
    ):
        answer = await person.execute(SEARCH, after=after, **other)
        assert answer["errors"][0]["extensions"]["code"] == "BAD_CURSOR"
