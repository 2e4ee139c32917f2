"""Nobody reads, links to, moves or infers the rows of somebody else, whatever ids they send.

Each mutation that takes an id is attacked by twins, who have the same rows: one names rows of the
victim, the other rows that do not exist. They must be told the same by the same statements, of the
victim's rows nothing may change, and of the attackers' rows none may name one of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

from db import scope
from db.notifications import Listener
from db.session import SessionOptions
from schema.context import Services
from server.passwords import Argon2Passwords
from tests.edge.inputs import Place
from tests.references import Document, reference
from tests.trust.attempts import (
    ATTACKED,
    IdArgument,
    Kinds,
    asking,
    attempts,
    document,
    id_arguments,
    id_places,
    probe,
)
from tests.trust.twins import HEX, MARKER, Twins, known_keys, make_twins, rows_of
from tests.watching import subscribe

LOOKED_UP = ("NOT_FOUND", '"rule": "reference"')
"""Signs that an id was good, and that there was no such row."""
FEWER = 10
"""There are dozens of mutations: each gets this part of a property's examples."""


@pytest_asyncio.fixture
async def twins(services: Services, admin_engine: AsyncEngine) -> AsyncIterator[Twins]:
    """Twins and a victim, who is as before when the test ends."""
    twins = await make_twins(services, admin_engine)
    before = await rows_of(admin_engine, twins.victim)
    yield twins
    assert twins.looked_up
    assert await rows_of(admin_engine, twins.victim) == before
    for attacker in (twins.knowing, twins.guessing):
        rows = await rows_of(admin_engine, attacker.owner_id)
        for table, lines in rows.items():
            named = {one for line in lines for one in HEX.findall(line.replace("-", ""))}
            assert not named & twins.foreign_ids, table


async def kinds_of(twins: Twins, mutation: str) -> Kinds:
    """Of which type the ids are that a mutation takes: a bad one is told what it should be."""
    known: dict[Place, str] = {}
    wanted = id_places(mutation)
    while len(known) < len(wanted):
        given = probe(mutation, known)
        _, values = twins.guessed.render(Document("", {"input": given}))
        answer = await twins.guessing.execute(document(mutation), **values)
        payload = (answer.get("data") or {}).get(mutation) or {"problems": []}
        learned = {
            tuple(part for part in problem["path"][1:] if not part.isdigit()): problem["bound"]
            for problem in payload["problems"]
            if problem.get("rule") == "id"
        }
        if not learned.keys() - known.keys():
            break
        known |= learned
    anything = frozenset(known_keys(twins.world.foreign))
    return {place: frozenset({known[place]}) if place in known else anything for place in wanted}


@pytest.mark.parametrize("mutation", ATTACKED)
@settings(max_examples=max(1, settings().max_examples // FEWER))
@given(data=st.data())
async def test_a_strangers_rows_are_as_rows_that_do_not_exist(
    twins: Twins, mutation: str, data: st.DataObject
) -> None:
    if not twins.kinds:
        twins.kinds = await kinds_of(twins, mutation)
    attempt = data.draw(attempts(mutation, twins.kinds))
    knowing, guessing = await twins.tell(document(mutation), {"input": attempt.input})
    assert knowing == guessing
    assert MARKER not in knowing[0]
    twins.looked_up += any(sign in knowing[0] for sign in LOOKED_UP)


async def test_every_mutation_that_takes_an_id_is_attacked() -> None:
    assert len(ATTACKED) > 30
    assert all(id_places(mutation) for mutation in ATTACKED)


async def test_without_the_safeguards_the_twins_are_told_different_things(
    engine: AsyncEngine, admin_engine: AsyncEngine, passwords: Argon2Passwords
) -> None:
    """The test above would notice."""
    unbound = Services(admin_engine, passwords, options=SessionOptions(role=None))
    twins = await make_twins(unbound, admin_engine)
    before = await rows_of(admin_engine, twins.victim)
    given = {"id": reference("foreign_id", "project", 0), "name": "mine"}
    with scope.scope_disabled():
        knowing, guessing = await twins.tell(document("updateProject"), {"input": given})
    assert knowing != guessing
    assert await rows_of(admin_engine, twins.victim) != before


@pytest.mark.parametrize("argument", id_arguments(subscriptions=False), ids=str)
async def test_reading_by_a_strangers_id_is_reading_what_does_not_exist(
    twins: Twins, argument: IdArgument
) -> None:
    for key in known_keys(twins.world.foreign):
        knowing, guessing = await twins.tell(*asking(argument, key))
        assert knowing == guessing
        assert MARKER not in knowing[0]
        assert "INTERNAL" not in knowing[0]
    twins.looked_up += 1


@pytest.mark.parametrize("argument", id_arguments(subscriptions=True), ids=str)
async def test_nobody_listens_to_a_strangers_rows(
    twins: Twins, listener: Listener, argument: IdArgument
) -> None:
    for key in known_keys(twins.world.foreign):
        document, references = asking(argument, key)
        told = []
        for person, world in ((twins.knowing, twins.world), (twins.guessing, twins.guessed)):
            _, variables = world.render(Document("", references))
            first = await anext(subscribe(person, listener, document, **variables))
            told.append(twins.alike({"data": first.data, "errors": first.errors}))
        assert told[0] == told[1]
        assert '"errors": [' in told[0]
    twins.looked_up += 1
