"""The number of statements depends on the document, never on the data."""

from collections import Counter
from typing import Any

from hypothesis import given

from tests.documents import documents
from tests.reading.bound import statement_bound
from tests.reading.conftest import Population
from tests.references import Document


def places(answer: Any, path: str = "") -> set[str]:
    """Where an answer has objects: paths of response keys, without the indexes of lists."""
    if isinstance(answer, list):
        return set().union(*(places(item, path) for item in answer))
    if isinstance(answer, dict):
        inner = (places(item, f"{path}.{key}") for key, item in answer.items())
        return {path}.union(*inner)
    return set()


@given(document=documents())
async def test_a_query_costs_at_most_a_statement_per_relation_field(
    population: Population, tally: Counter[str], document: Document
) -> None:
    text, variables = population.world.render(document)
    answer = await population.person.execute(text, **variables)
    assert "data" in answer, answer
    sent = population.person.statements
    bound = statement_bound(text, variables)
    assert len(sent) <= bound, text

    text, variables = population.rich_world.render(document)
    rich_answer = await population.rich.execute(text, **variables)
    rich_sent = population.rich.statements
    assert len(rich_sent) <= bound, text

    failed = "errors" in answer or "errors" in rich_answer
    same = not failed and places(answer["data"]) == places(rich_answer["data"])
    if same:
        assert set(rich_sent) == set(sent), text
    tally["documents"] += 1
    tally["with rows at the same places in ten-fold data"] += same
    tally["with errors"] += failed
    tally["statements"] += len(sent)
    tally["bound"] += bound
