"""Exports as people use them: asked for over the API, downloaded, read, and stored again."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncEngine

from db import exports, tokens
from db.models import metadata
from db.session import SessionOptions
from server.exporter import PART_BYTES, Exporter
from tests.edge.whole import Someone

KEEP = timedelta(days=7)
FIELDS = "id status attempts rows bytes path takenAt expiresAt"
EXPORT = f"""mutation($input: ExportAccountInput! = {{}}) {{
    exportAccount(input: $input) {{ accountExport {{ {FIELDS} }} problems {{ code message }} }}
}}"""
SHOW = f"query($id: ID!) {{ accountExport(id: $id) {{ {FIELDS} }} }}"


def exporter(engine: AsyncEngine, part_bytes: int = PART_BYTES) -> Exporter:
    """What a process has to write exports."""
    return Exporter(engine, SessionOptions(), keep=KEEP, part_bytes=part_bytes)


def owner_of(someone: Someone) -> UUID:
    """The id of a person."""
    parsed = tokens.parse(someone.token)
    assert parsed is not None
    return parsed.owner_id


async def ask_for(someone: Someone) -> dict[str, Any]:
    """A new export."""
    export: dict[str, Any] = (await someone.ask(EXPORT))["exportAccount"]["accountExport"]
    return export


async def show(someone: Someone, identifier: str) -> dict[str, Any]:
    """An export as it is."""
    export: dict[str, Any] = (await someone.ask(SHOW, id=identifier))["accountExport"]
    return export


async def get(someone: Someone, path: str, **headers: str) -> httpx.Response:
    """Download."""
    named = {"authorization": f"Bearer {someone.token}", "accept-encoding": "identity", **headers}
    return await someone.served.client.get(path, headers=named)


@dataclass
class Contents:
    """What is in a file."""

    head: dict[str, Any]
    end: dict[str, int]
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))


def read(file: bytes) -> Contents:
    """The lines of a file, which must be whole: the first and the last say so."""
    first, *middle, last = [json.loads(line) for line in gzip.decompress(file).splitlines()]
    contents = Contents(first["export"], last["end"]["rows"])
    for line in middle:
        assert line.keys() == {"table", "row"}
        contents.rows[line["table"]].append(line["row"])
    assert {name: len(contents.rows[name]) for name in contents.end} == contents.end
    return contents


async def stored(admin: AsyncEngine, owner_id: UUID) -> dict[str, list[dict[str, Any]]]:
    """What of the database must be in the file of an owner: as PostgreSQL has it, by table."""
    found = {}
    async with admin.connect() as connection:
        for table in exports.tables():
            owner = "owner_id" if "owner_id" in table.c else "id"
            names = ", ".join(f'"{column.name}"' for column in exports.columns(table))
            keys = ", ".join(column.name for column in exports.key(table))
            rows = await connection.execute(
                sa.text(
                    f"SELECT row_to_json(r)::text FROM (SELECT {names} FROM {table.name}"
                    f" WHERE {owner} = :id ORDER BY {keys}) r"
                ),
                {"id": owner_id},
            )
            found[table.name] = [json.loads(row) for row in rows.scalars()]
    return found


# What is not exported and has no default: whoever stores an account again makes it anew.
REMADE = {
    "users": {"password_hash": "none"},
    "login_sessions": {"token_hash": "\\x" + "00" * 32},
    "api_keys": {"key_hash": "\\x" + "00" * 32, "key_salt": "\\x" + "00" * 32},
}


async def store_again(admin: AsyncEngine, contents: Contents) -> None:
    """Store what is in a file, table by table in its order, as docs/exports.md says."""
    async with admin.connect() as connection:
        await connection.execution_options(isolation_level="READ COMMITTED")
        async with connection.begin():
            await connection.execute(sa.text("SET CONSTRAINTS ALL DEFERRED"))
            for name in contents.end:
                # distinct secrets, as no two rows may have the same
                rows = [
                    {**_distinct(name, number), **row}
                    for number, row in enumerate(contents.rows[name])
                ]
                columns = [one.name for one in metadata.tables[name].c if one.computed is None]
                listed = ", ".join(f'"{column}"' for column in columns)
                await connection.execute(
                    sa.text(
                        f"INSERT INTO {name} ({listed}) SELECT {listed}"
                        f" FROM jsonb_populate_recordset(NULL::{name}, :rows)"
                    ).bindparams(sa.bindparam("rows", rows, type_=JSONB)),
                )


def _distinct(table: str, number: int) -> dict[str, str]:
    return {
        name: value if value == "none" else f"\\x{number:064x}"
        for name, value in REMADE.get(table, {}).items()
    }
