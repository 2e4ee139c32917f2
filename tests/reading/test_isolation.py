"""A row is reachable only by its owner: by the scope, by row-level security, by either alone."""

import base64
import re
from collections import Counter
from typing import Any

import orjson
import pytest
from hypothesis import given

from db import scope
from tests.documents import documents
from tests.reading.conftest import MARKER, Population
from tests.references import Document, reference
from tests.ways import Answer, Way, answer

HEX = re.compile(r"[0-9a-f]{32}")


def told(answered: Answer) -> str:
    """All that the client hears, with the insides of its cursors."""
    text = orjson.dumps([answered.data, answered.errors]).decode()
    for cursor in _cursors(answered.data):
        text += base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    return text


def _cursors(data: Any) -> list[str]:
    if isinstance(data, dict):
        return [one for value in data.values() for one in _cursors(value)]
    if isinstance(data, list):
        return [one for value in data for one in _cursors(value)]
    return [data] if isinstance(data, str) and data.startswith("Wy") else []


def leaked(population: Population, answered: Answer) -> set[str]:
    """The stranger's ids in an answer, and their texts."""
    text = told(answered)
    ids = set(HEX.findall(text.replace("-", "")))
    return (ids & population.stranger_ids) | ({MARKER} if MARKER in text else set())


@pytest.mark.parametrize("way", [Way.CORE, Way.PLANNED], ids=lambda way: way.name.lower())
@given(document=documents(foreign=True))
async def test_no_answer_holds_a_row_of_somebody_else(
    population: Population, tally: Counter[str], way: Way, document: Document
) -> None:
    text, variables = population.world.render(document)
    both = await answer(population.person, text, variables, way)
    with scope.scope_disabled():
        policies_alone = await answer(population.person, text, variables, way)
    scope_alone = await answer(population.unbound, text, variables, way)

    assert not leaked(population, both), text
    # One safeguard less changes nothing: also no count, no order and no error tells of the rows.
    assert told(policies_alone) == told(both), text
    assert told(scope_alone) == told(both), text
    tally["documents"] += 1
    tally["with errors"] += bool(both.errors)
    tally["naming the stranger's rows"] += "foreign" in f"{document.text}{document.variables}"
    tally["rows"] += both.rows


async def test_without_either_safeguard_the_stranger_is_read(population: Population) -> None:
    """The two tests above would notice."""
    text = "query ($id: ID!) { node(id: $id) { id ... on Task { title } } tasks { totalCount } }"
    live = [task["deleted_at"] is None for task in population.world.foreign["tasks"]].index(True)
    variables = {"id": population.world.value(reference("foreign_id", "task", live))}
    for way in Way:
        bound = await answer(population.person, text, variables, way)
        assert bound.data is not None
        assert bound.data["node"] is None
        with scope.scope_disabled():
            unbound = await answer(population.unbound, text, variables, way)
        assert leaked(population, unbound) >= {MARKER}
        assert unbound.data is not None
        assert unbound.data["tasks"]["totalCount"] > bound.data["tasks"]["totalCount"]
