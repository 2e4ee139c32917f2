"""What the standby answers is what the primary answers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest_asyncio
from graphql import GraphQLField, get_named_type, is_leaf_type, is_list_type, is_required_argument
from graphql.type import get_nullable_type
from hypothesis import given, settings
from sqlalchemy import text

from db import tokens
from db.embedded import DATABASE, EmbeddedServer
from db.engine import create_engine
from schema import build_schema
from schema.mirror import by_key
from tests.documents import documents
from tests.edge.whole import Someone
from tests.factories import Factory, store
from tests.reading.conftest import an_owner
from tests.references import Document, World, reference
from tests.replica.conftest import MakeReader, Reader
from tests.replica.standby import Standby

SILENT = {"replyModels", "rateLimit"}
"""Root fields that ask no database."""


@dataclass(repr=False)
class Populated:
    """A person with rows in every table, at a server with a replica and at one without."""

    reader: Reader
    someone: Someone
    alone: Someone
    world: World


@pytest_asyncio.fixture(scope="package")
async def populated(
    reader: Reader, make_reader: MakeReader, primary: EmbeddedServer, standby: Standby
) -> AsyncIterator[Populated]:
    """Rows that both servers have."""
    rows = Factory(an_owner(random.Random(8)), 9).fill()
    owner_id = rows["users"][0]["id"]
    minted = tokens.mint(owner_id)
    admin = create_engine(primary.admin_url(DATABASE), pooled=False)
    await store(admin, rows)
    async with admin.connect() as connection:
        await connection.execute(
            text(
                "INSERT INTO login_sessions (owner_id, token_hash, expires_at, last_seen_at)"
                " VALUES (:owner_id, :hash, now() + interval '1 day', now())"
            ),
            {"owner_id": owner_id, "hash": minted.hash},
        )
    await admin.dispose()
    standby.catch_up()
    await reader.until("ok")
    async with make_reader(database_replica_url=None) as plain:
        someone = Someone(reader.served, minted.token)
        await reader.until_read(someone)
        yield Populated(reader, someone, plain.as_(someone), World(rows))


@settings(max_examples=80)
@given(document=documents(faulty=True))
async def test_any_query_is_answered_alike(
    populated: Populated, tally: Counter[str], document: Document
) -> None:
    query, variables = populated.world.render(document)
    before = await populated.reader.counts()
    one = await populated.someone.execute(query, **variables)
    other = await populated.alone.execute(query, **variables)
    after = await populated.reader.counts()
    assert one.get("data") == other.get("data"), query
    assert told(one) == told(other), query
    moved = {name: after[name] - before.get(name, 0) for name in after}
    assert moved.get("failed", 0) == moved.get("written", 0) == 0, query
    tally["by the replica"] += moved.get("replica", 0)
    tally["by the primary"] += moved.get("primary", 0)


def told(answer: dict[str, Any]) -> list[str]:
    """The errors of an answer, but for what is of one request, in some order."""
    errors = answer.get("errors", ())
    return sorted(f"{one['message']} {one.get('path')}" for one in errors)


async def test_every_root_field_but_the_feed_is_answered_by_the_replica(
    populated: Populated,
) -> None:
    query = build_schema()._schema.query_type
    assert query is not None
    found: dict[str, str] = {}
    for name, field in query.fields.items():
        text = written(populated.world, name, field)
        for _ in range(2):  # that it is not for the replica is learned
            before = await populated.reader.counts()
            assert "errors" not in await populated.someone.execute(text), text
            after = await populated.reader.counts()
        moved = [where for where in after if after[where] != before.get(where, 0)]
        assert len(moved) <= 1
        found[name] = moved[0] if moved else ""
    expected = dict.fromkeys(query.fields, "replica")
    assert found == expected | dict.fromkeys(SILENT, "") | {"changes": "primary"}


def written(world: World, name: str, field: GraphQLField) -> str:
    """A document that asks for a root field."""
    type_ = get_named_type(field.type)
    keys = {mirror.name: key for key, mirror in by_key().items()}

    def value(type_name: str) -> str:
        if type_name != "ID":
            return {"String": '"a"', "Int": "2"}[type_name]
        return f'"{world.value(reference("id", keys.get(type_.name, "task"), 0))}"'

    given = [
        f"{argument}: " + (f"[{found}]" if is_list_type(get_nullable_type(one.type)) else found)
        for argument, one in field.args.items()
        if is_required_argument(one)
        for found in [value(get_named_type(one.type).name)]
    ]
    arguments = f"({', '.join(given)})" if given else ""
    inner = "" if is_leaf_type(type_) else "{ __typename }"
    if type_.name.endswith("Connection"):
        inner = "{ edges { node { __typename } } }"
    return f"{{ {name}{arguments} {inner} }}"
