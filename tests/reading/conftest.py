"""The people whose rows the properties of reading are about, stored once per worker."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine

from db.session import SessionOptions
from schema.context import Services
from tests.factories import Factory, Rows, multiplied, store
from tests.people import Person
from tests.references import World

MARKER = "strictly-confidential"
"""Part of every text of the stranger."""

TIMES = 10


@dataclass(repr=False)
class Population:
    """A person, a stranger, and somebody with ten times the person's rows."""

    person: Person
    """Asks with the rights of the application."""
    unbound: Person
    """The same person on connections that row-level security does not bind."""
    rich: Person
    world: World
    """The person's rows, and the stranger's as the foreign ones."""
    rich_world: World
    """For each row of the person, in their order, its first copy."""
    stranger_ids: frozenset[str]
    """The ids of all rows of the stranger, as 32 hex digits."""

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """Hypothesis prints the arguments of a test; all these rows would be no help."""
        printer.text("population")


def hex_ids(rows: Rows) -> frozenset[str]:
    """The ids of rows, as 32 hex digits."""
    return frozenset(row["id"].hex for found in rows.values() for row in found)


def services(engine: AsyncEngine, *, role: str | None = "engram_app") -> Services:
    """What a process shares, without passwords: nobody logs in here.

    A busy machine may hold a statement up; that is not what is looked at.
    """
    options = SessionOptions(role=role, statement_timeout_ms=60_000)
    return Services(engine, cast(Any, None), options=options)


def an_owner(seed: random.Random) -> UUID:
    """An owner's id."""
    return Factory(UUID(int=0), seed.getrandbits(32)).uuid()


@pytest_asyncio.fixture(scope="session")
async def population(engine: AsyncEngine, admin_engine: AsyncEngine) -> Population:
    """The people, with rows in every table."""
    seed = random.Random(2)
    rows = Factory(an_owner(seed), 3).fill()
    foreign = Factory(an_owner(seed), 4, MARKER).fill()
    rich_id = an_owner(seed)
    rich = multiplied(rows, rich_id, TIMES)
    for one in (rows, foreign, rich):
        await store(admin_engine, one)
    owner_id = rows["users"][0]["id"]
    worker_id = rows["workers"][0]["id"]
    bound = services(engine)
    return Population(
        person=Person(owner_id, worker_id, bound),
        unbound=Person(owner_id, worker_id, services(admin_engine, role=None)),
        rich=Person(rich_id, rich["workers"][0]["id"], bound),
        world=World(rows, foreign),
        rich_world=World(
            {name: found[:: 1 if name == "users" else TIMES] for name, found in rich.items()},
            foreign,
        ),
        stranger_ids=hex_ids(foreign),
    )


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Iterator[Counter[str]]:
    """What a property has seen: shown at the end of the run."""
    counted: Counter[str] = Counter()
    yield counted
    for name, count in counted.items():
        record_property(name, count)
