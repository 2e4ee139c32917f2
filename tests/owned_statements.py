"""Reads the SQL that the application sends while tests run: each table in it names its owner."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import schema.context
import server.demo
import server.identity
import server.startup
from db import scope
from db.models import metadata
from db.session import Session

OWNED = [name for name, table in metadata.tables.items() if not table.info["shared"]]
TABLES = "|".join(sorted(OWNED, key=len, reverse=True))
# A table whose rows are read or changed, and the name it goes by.
SOURCE = re.compile(rf"(?:\b(?:FROM|JOIN|UPDATE)|,)\s+({TABLES})(?:\s+AS\s+(\w+))?(?![\w.(])")
INSERT = re.compile(rf"\bINSERT INTO ({TABLES}) \(([^)]*)\)")

WITH_SESSIONS = (schema.context, server.demo, server.identity, server.startup)
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

    @contextmanager
    def _measured(self, *arguments: Any) -> Iterator[Any]:
        with super()._measured(*arguments) as measured:
            yield measured
        if scope.scope_is_disabled() or measured.sql in sent or measured.sql in ALLOWED:
            return
        sent[measured.sql] = unowned(measured.sql)


def unowned(sql: str) -> list[str]:
    """The tables in a statement whose owner it does not name."""
    read = [table for table, alias in SOURCE.findall(sql) if not named(table, alias or table, sql)]
    stored = INSERT.findall(sql)
    return read + [table for table, names in stored if owner(table) not in names.split(", ")]


def named(table: str, alias: str, sql: str) -> bool:
    """Whether the owner of a table's rows is compared with something."""
    column = re.escape(f"{alias}.{owner(table)}")
    return re.search(rf"\b{column} = |= {column}\b", sql) is not None


def owner(table: str) -> str:
    """The column of a row's owner."""
    return "id" if table == "users" else "owner_id"
