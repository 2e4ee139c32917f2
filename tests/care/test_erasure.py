"""An account is erased whole, with a receipt that is true, or not at all."""

from __future__ import annotations

import asyncio
from typing import Any

import sqlalchemy as sa

from db.models import metadata
from db.scope import is_owned
from tests.care.conftest import Place
from tests.care.exporting import ask_for, exporter, owner_of
from tests.edge.whole import Someone, sign_up

ERASE = """mutation { deleteAccount(input: {password: "correct horse battery staple"}) {
    deletedId erased { table rows } problems { code }
} }"""
PROJECT = """mutation($key: String!) { createProject(input: {key: $key, name: "p"}) {
    project { id } problems { code }
} }"""


async def everything(place: Place, someone: Someone) -> dict[str, int]:
    """How many rows of somebody each table has, where there are any."""
    found = {}
    async with place.admin.connect() as connection:
        for table in filter(is_owned, metadata.sorted_tables):
            owner = "owner_id" if "owner_id" in table.c else "id"
            count = sa.text(f"SELECT count(*) FROM {table.name} WHERE {owner} = :id")
            found[table.name] = await connection.scalar(count, {"id": owner_of(someone)})
    return {name: rows for name, rows in found.items() if rows}


def receipt(answer: dict[str, Any]) -> dict[str, int]:
    return {line["table"]: line["rows"] for line in answer["deleteAccount"]["erased"]}


async def test_the_receipt_counts_what_there_was(place: Place) -> None:
    anna, bert = await sign_up(place.served), await sign_up(place.served)
    await anna.ask(PROJECT, key="A")
    await ask_for(anna)
    await exporter(place.engine, part_bytes=1).run()
    counted, untouched = await everything(place, anna), await everything(place, bert)
    assert counted["projects"] == 1
    assert counted["account_export_parts"] > 1
    assert receipt(await anna.ask(ERASE)) == counted
    assert await everything(place, anna) == {}
    assert await everything(place, bert) == untouched


async def test_while_others_write_to_it(place: Place) -> None:
    """Projects are made through the deletion: what was acknowledged before is in the receipt."""
    anna = await sign_up(place.served)
    made = 0

    async def write(number: int) -> None:
        nonlocal made
        for count in range(1_000):
            data = (await anna.execute(PROJECT, key=f"K{number}X{count}")).get("data")
            if not data or data["createProject"]["problems"]:
                return
            made += 1

    writers = [asyncio.create_task(write(number)) for number in range(4)]
    while made < 20:  # noqa: ASYNC110  # the writers wait for answers
        await asyncio.sleep(0.01)
    counted = receipt(await anna.ask(ERASE))
    await asyncio.gather(*writers)
    assert counted["projects"] == made
    assert await everything(place, anna) == {}


async def test_when_something_would_be_left_nothing_is_erased(place: Place) -> None:
    """A trigger by hand keeps projects from being deleted, and PostgreSQL does not mind."""
    anna = await sign_up(place.served)
    await anna.ask(PROJECT, key="A")
    async with place.admin.connect() as connection:
        for statement in (
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
            "CREATE TRIGGER keep BEFORE DELETE ON projects FOR EACH ROW EXECUTE FUNCTION keep()",
        ):
            await connection.execute(sa.text(statement))
    before = await everything(place, anna)
    answer = await anna.execute(ERASE)
    assert answer["errors"][0]["extensions"]["code"] == "INTERNAL_SERVER_ERROR"
    assert await everything(place, anna) == before
