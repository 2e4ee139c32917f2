"""The number of statements depends on the document, never on the data."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given

from tests.documents import documents
from tests.reading.bound import names_all_statements, statement_bound
from tests.reading.conftest import Population
from tests.references import Document
from tests.ways import Way, answer


def places(answer: Any, path: str = "") -> set[str]:
    """Where an answer has objects: paths of response keys, without the indexes of lists."""
    if isinstance(answer, list):
        return set().union(*(places(item, path) for item in answer))
    if isinstance(answer, dict):
        inner = (places(item, f"{path}.{key}") for key, item in answer.items())
        return {path}.union(*inner)
    return set()


@pytest.mark.parametrize("way", Way, ids=lambda way: way.name.lower())
@given(document=documents())
async def test_a_query_costs_at_most_a_statement_per_relation_field(
    population: Population, tally: Counter[str], way: Way, document: Document
) -> None:
    text, variables = population.world.render(document)
    answered = await answer(population.person, text, variables, way)
    bound = statement_bound(text, variables)
    # A plan that meets a wrong argument half-way leaves the whole query to graphql-core.
    assert len(answered.statements) <= bound * (2 if answered.errors else 1), text

    text, variables = population.rich_world.render(document)
    rich = await answer(population.rich, text, variables, way)
    assert len(rich.statements) <= bound * (2 if rich.errors else 1), text

    failed = bool(answered.errors or rich.errors)
    same = not failed and places(answered.data) == places(rich.data)
    # What the feed has, and so what follows from it, differs between two populations.
    same = same and names_all_statements(text, variables)
    if same:
        # Fields that ask the same question at the same moment share a statement: what is asked
        # is the same, how often may differ below the bound.
        assert set(rich.statements) == set(answered.statements), text
    tally["documents"] += 1
    tally["with rows at the same places in ten-fold data"] += same
    tally["with errors"] += failed
    tally["statements"] += len(answered.statements)
    tally["bound"] += bound
    tally["most statements"] = max(tally["most statements"], len(answered.statements))
