"""Two attackers with the same rows, and their victim.

One sends the ids of the victim's rows, the other ids that are like them and belong to nothing.
Whatever differs between what they are told is something that one of them has learned.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from db.models import metadata
from schema.context import Services
from schema.mirror import by_key
from tests.factories import Factory, Rows, store
from tests.people import Person
from tests.references import Document, World

MARKER = "strictly-confidential"
"""Part of every text of the victim."""
SEED = 11
HEX = re.compile(r"[0-9a-f]{32}")
NAMED = re.compile(r"\b([a-z_]+_)?([0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\b")
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(?:Z|\+00:00)")
OWNED = [table for table in metadata.sorted_tables if "owner_id" in table.c]


def unlike(id: UUID) -> UUID:
    """An id that is like another, of the same time, and belongs to nothing."""
    return UUID(int=id.int ^ 1)


class _Nothing(dict[str, Any]):
    """A row of which there is only the id."""


@dataclass(repr=False)
class Twins:
    """The attackers and the victim."""

    knowing: Person
    guessing: Person
    world: World
    """The rows of either attacker, who have the same, and the victim's as the foreign ones."""
    guessed: World
    """The same, with ids of nothing for those of the victim."""
    victim: UUID
    kinds: Mapping[tuple[str, ...], frozenset[str]] = field(default_factory=dict)
    """What is known of the mutation they try: the types of the ids that it takes."""
    looked_up: int = 0
    """How often a row was looked for and not found."""

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """Hypothesis prints the arguments of a test; all these rows would be no help."""
        printer.text("twins")

    @property
    def foreign_ids(self) -> set[str]:
        """The ids of all rows of the victim, as 32 hex digits."""
        return {row["id"].hex for rows in self.world.foreign.values() for row in rows}

    async def tell(self, document: str, variables: dict[str, Any]) -> tuple[Any, Any]:
        """What each is told, and which statements that took; new ids and times are alike."""
        told = []
        for person, world in ((self.knowing, self.world), (self.guessing, self.guessed)):
            whole, values = world.render(Document(document, variables))
            answer = await person.execute(whole, **values)
            told.append((self.alike(answer), list(person.statements)))
        return told[0], told[1]

    def alike(self, answer: dict[str, Any]) -> str:
        """An answer without what no two answers share."""
        known = {row["id"].hex for rows in self.world.rows.values() for row in rows}
        sent = {unlike(UUID(hex=one)).hex: one for one in self.foreign_ids}
        fresh: dict[str, str] = {}

        def name(found: re.Match[str]) -> str:
            plain = found[2].replace("-", "")
            if plain in sent:
                plain = sent[plain]
            elif plain not in known and plain not in self.foreign_ids:
                plain = fresh.setdefault(plain, f"new {len(fresh)}")
            return f"{found[1] or ''}{plain}"

        return MOMENT.sub("a moment", NAMED.sub(name, json.dumps(answer)))


async def make_twins(services: Services, admin: AsyncEngine) -> Twins:
    """New twins and a new victim, each with rows in every table."""
    victim = Factory(_owner(), SEED + 1, MARKER).fill()
    people, rows = [], {}
    for _ in range(2):
        rows = Factory(_owner(), SEED).fill()
        await store(admin, rows)
        worker = next(one for one in rows["workers"] if one["kind"] == "human")
        people.append(Person(rows["users"][0]["id"], worker["id"], services))
    await store(admin, victim)
    nothing: Rows = {
        name: [{**row, "id": unlike(row["id"])} for row in found] for name, found in victim.items()
    }
    return Twins(
        knowing=people[0],
        guessing=people[1],
        world=World(rows, victim),
        guessed=World(rows, nothing),
        victim=victim["users"][0]["id"],
    )


def _owner() -> UUID:
    return Factory(UUID(int=0), random.getrandbits(32)).uuid()


async def rows_of(admin: AsyncEngine, owner: UUID) -> dict[str, list[str]]:
    """All that the database holds of a person, as text."""
    found = {}
    async with admin.connect() as connection:
        for table in OWNED:
            sql = f"SELECT t::text FROM {table.name} t WHERE owner_id = :owner ORDER BY 1"
            found[table.name] = list(
                (await connection.execute(text(sql), {"owner": owner})).scalars()
            )
        sql = "SELECT t::text FROM users t WHERE id = :owner"
        found["users"] = list((await connection.execute(text(sql), {"owner": owner})).scalars())
    return found


def known_keys(rows: Rows) -> list[str]:
    """The types of which there are rows to name."""
    return sorted(key for key, mirror in by_key().items() if rows.get(mirror.table.name))
