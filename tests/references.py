"""Names for rows in documents that are written before the rows are known.

A generated document says `"«id|task|17»"` for the id of the 17th task. A `World` puts in the real
value, so that one document can be asked of several owners.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from schema import ids
from schema.mirror import OrderTerm, by_key
from schema.pages import encode_cursor
from schema.scalars import serialize_datetime
from tests.factories import MOMENTS, Row, Rows

_IN_TEXT = re.compile(r'"(«[^»]*»)"')


def reference(*parts: object) -> str:
    """The text that stands for a value of a world."""
    return f"«{'|'.join(map(str, parts))}»"


@dataclass
class Document:
    """A query, its values still references."""

    text: str
    variables: dict[str, Any] = field(default_factory=dict)


def signature(order: Sequence[OrderTerm]) -> str:
    """An order as text: `-created_at,-id`."""
    return ",".join(f"{'-' if term.descending else ''}{term.column}" for term in order)


def order_of(text: str) -> tuple[OrderTerm, ...]:
    """The order that `signature` wrote."""
    return tuple(
        OrderTerm(name.removeprefix("-"), name.startswith("-")) for name in text.split(",")
    )


@dataclass
class World:
    """An owner's rows by table, and those of somebody else."""

    rows: Rows
    foreign: Rows = field(default_factory=dict)

    def render(self, document: Document) -> tuple[str, dict[str, Any]]:
        """The document's text and variables, references replaced."""
        text = _IN_TEXT.sub(lambda found: json.dumps(self.value(found[1])), document.text)
        return text, self.value(document.variables)

    def value(self, given: Any) -> Any:
        """The value with its references replaced."""
        if isinstance(given, dict):
            return {key: self.value(item) for key, item in given.items()}
        if isinstance(given, list):
            return [self.value(item) for item in given]
        if isinstance(given, str) and given.startswith("«"):
            return self._resolve(*given[1:-1].split("|"))
        return given

    def _resolve(self, kind: str, *parts: str) -> Any:
        match kind, *parts:
            case "id", key, number:
                return ids.encode(key, self._row(self.rows, key, number)["id"])
            case "foreign_id", key, number:
                return ids.encode(key, self._row(self.foreign, key, number)["id"])
            case "missing_id", key, number:
                return ids.encode(key, UUID(int=int(number) + (0x70008 << 60)))
            case "cursor", key, number, order:
                return _cursor(self._row(self.rows, key, number), order)
            case "foreign_cursor", key, number, order:
                return _cursor(self._row(self.foreign, key, number), order)
            case "value", key, number, column:
                return plain(self._some(key, number, column))
            case "part", key, number, column, start, length:
                return plain(self._some(key, number, column))[int(start) : int(start) + int(length)]
        raise ValueError(f"no reference is called {kind}")

    def _some(self, key: str, number: str, column: str) -> Any:
        """A value that some row has in a column; one out of the air where all are null."""
        table = by_key()[key].table
        values = [row[column] for row in self.rows[table.name] if row[column] is not None]
        made_up = {str: "a", int: 1, datetime: MOMENTS[0]}
        return values[int(number) % len(values)] if values else made_up[_python_type(table, column)]

    def _row(self, rows: Rows, key: str, number: str) -> Row:
        found = rows[by_key()[key].table.name]
        return found[int(number) % len(found)]


def _python_type(table: sa.Table, column: str) -> type:
    return table.c[column].type.python_type


def _cursor(row: Row, order: str) -> str:
    terms = order_of(order)
    return encode_cursor(terms, [row[term.column] for term in terms])


def plain(value: Any) -> Any:
    """A column's value as a client writes it."""
    if isinstance(value, datetime):
        return serialize_datetime(value)
    return value if isinstance(value, str | int | float | bool | list | dict | None) else str(value)
