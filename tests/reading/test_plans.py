"""Plans: what they cannot do, and that they say the same as graphql-core."""

from collections import Counter

import pytest
from hypothesis import given

from tests.documents import documents
from tests.reading.conftest import Population
from tests.reading.oracle import is_live
from tests.references import Document, reference
from tests.ways import Answer, Way, answer


async def test_what_cannot_be_planned_is_known_before_anything_is_read(
    population: Population,
) -> None:
    session = population.world.value(reference("id", "login_session", 0))
    text = "query ($id: ID!) { projects { totalCount } node(id: $id) { ...Login } }"
    text += " fragment Login on Node { ... on LoginSession { current } }"
    answered = await answer(population.person, text, {"id": session}, Way.PLANNED)
    assert answered.data is not None
    assert answered.data["node"] == {"current": False}
    assert len(answered.statements) == 2


@given(document=documents(faulty=True))
async def test_all_ways_lead_to_the_same_answer(
    population: Population, tally: Counter[str], document: Document
) -> None:
    text, variables = population.world.render(document)
    core, parts, planned = [await answer(population.person, text, variables, way) for way in Way]
    assert parts.data == core.data, text
    assert planned.data == core.data, text
    assert told(parts) == told(core), text
    assert told(planned) == told(core), text
    tally["documents"] += 1
    tally["with errors"] += bool(core.errors)
    tally["answers longer than 1,000 characters"] += len(str(core.data)) > 1_000


def told(answered: Answer) -> list[str]:
    """The errors of an answer, in some order."""
    return sorted(map(str, answered.errors))


async def test_an_edge_of_which_nothing_is_included_is_an_empty_object(
    population: Population,
) -> None:
    text = "{ workers(first: 2) { edges { cursor @include(if: false) } } }"
    answered = await answer(population.person, text, {}, Way.PLANNED)
    assert answered.data == {"workers": {"edges": [{}, {}]}}


@pytest.mark.parametrize("way", Way, ids=lambda way: way.name.lower())
async def test_json_of_rows_that_a_resolver_read_is_planned_too(
    population: Population, way: Way
) -> None:
    tasks = population.world.rows["tasks"]
    number = next(i for i, task in enumerate(tasks) if is_live(task) and task["result"] is not None)
    variables = {"id": population.world.value(reference("id", "task", number))}
    text = "query ($id: ID!) { taskTree(id: $id, maxDepth: 0) { result } }"
    answered = await answer(population.person, text, variables, way)
    assert answered.data == {"taskTree": [{"result": tasks[number]["result"]}]}
