"""Reads the SQL that the application sends while tests run: each statement is of one owner.

Every table in it names its owner, as one and the same parameter; what it stores belongs to that
parameter too, or to rows of the statement itself. Distributed by owner, each would be of one shard.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

import schema.context
import server.demo
import server.downloads
import server.embedding.embedder
import server.embedding.service
import server.exporter
import server.identity
import server.lapses
import server.replies.store
import server.slow
import server.startup
import server.sweeper
from db import scope
from db.connection import OpenTransaction
from db.models import metadata
from db.session import Session

OWNED = [name for name, table in metadata.tables.items() if not table.info["shared"]]
TABLES = "|".join(sorted(OWNED, key=len, reverse=True))
# A table whose rows are read or changed, and the name it goes by.
SOURCE = re.compile(rf"(?:\b(?:FROM|JOIN|UPDATE)|,)\s+({TABLES})(?:\s+AS\s+(\w+))?(?![\w.(])")
INSERT = re.compile(rf"\bINSERT INTO ({TABLES}) \(([^)]*)\)\s+(?:SELECT|VALUES \()\s*")
PARAMETER = re.compile(r"(\$\d+)(?:::\w+)?")
PART = re.compile(
    r"(?:\bWITH(?: RECURSIVE)?|,)\s+(\w+)(?:\([^)]*\))? AS\s+(?:NOT )?(?:MATERIALIZED )?\("
)
"""A part of a statement that others of its parts read."""

WITH_SESSIONS = (
    schema.context,
    server.demo,
    server.downloads,
    server.embedding.embedder,
    server.embedding.service,
    server.exporter,
    server.identity,
    server.lapses,
    server.replies.store,
    server.slow,
    server.startup,
    server.sweeper,
)
"""The modules that make sessions."""

ALLOWED = {"SELECT EXISTS (SELECT FROM users)"}
"""Asked at the first start, as the owner of the tables: whether anybody ever signed up."""

sent: dict[str, list[str]] = {}
"""The statements that were sent, with the tables whose owner they do not name."""


@contextmanager
def statements_read() -> Iterator[None]:
    """Read every statement of the application's own sessions."""
    with pytest.MonkeyPatch.context() as patched:
        for module in WITH_SESSIONS:
            patched.setattr(module, "Session", ReadSession)
        yield
    wrong = {sql: tables for sql, tables in sent.items() if tables}
    assert not wrong, f"Statements that do not name the owner of a table: {wrong}"


class ReadSession(Session):
    """A session whose statements are read."""

    async def _run(
        self, opened: OpenTransaction, sql: str, arguments: Sequence[object]
    ) -> Sequence[Any]:
        records = await super()._run(opened, sql, arguments)
        if not (scope.scope_is_disabled() or sql in sent or sql in ALLOWED):
            sent[sql] = unowned(sql)
        return records


def unowned(sql: str) -> list[str]:
    """The tables in a statement whose owner it does not name, or names as another one."""
    found = [(table, compared(table, alias or table, sql)) for table, alias in SOURCE.findall(sql)]
    stored = [(table, given(table, names, sql[end:], sql)) for table, names, end in insertions(sql)]
    owners = {one for _, one in [*found, *stored] if one and one.startswith("$")}
    if len(owners) > 1:
        return sorted({table for table, _ in [*found, *stored]})
    return [table for table, one in [*found, *stored] if one is None]


def compared(table: str, alias: str, sql: str) -> str | None:
    """The parameter that the owner of a table's rows is compared with."""
    column = re.escape(f"{alias}.{owner(table)}")
    match = re.search(rf"\b{column} = (\$\d+)|(\$\d+)(?:::\w+)? = {column}\b", sql)
    return match and (match[1] or match[2])


def insertions(sql: str) -> Iterator[tuple[str, str, int]]:
    """The tables that rows are stored in, with the columns, and where the values begin."""
    for match in INSERT.finditer(sql):
        yield match[1], match[2], match.end()


def given(table: str, names: str, values: str, sql: str) -> str | None:
    """The owner of rows that are stored: a parameter, or a column of a part of the statement."""
    columns = names.split(", ")
    if owner(table) not in columns:
        return None
    value = _split(values)[columns.index(owner(table))].partition(" AS ")[0].strip()
    if match := PARAMETER.fullmatch(value):
        return match[1]
    part = value.partition(".")[0]
    return value if part in PART.findall(sql) else None


def _split(values: str) -> list[str]:
    """What stands between the commas of a list, up to its end."""
    parts, depth = [""], 0
    for letter in values:
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            break
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def owner(table: str) -> str:
    """The column of a row's owner."""
    return "id" if table == "users" else "owner_id"
