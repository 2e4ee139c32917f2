"""Rows as the resolvers see them: read-only values that know their siblings.

A level is all the rows that one statement brought for one relation field. A row knows its level,
so the first resolver that asks for a relation can ask for the whole level at once. That is what
makes the number of statements depend on the document alone: nothing waits for ticks of a loop.
"""

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from schema.scalars import JsonText

if TYPE_CHECKING:
    from schema.mirror import Mirror


class Keys:
    """A set of distinct key values, handed to a loader as one key (identity is its cache key)."""

    __slots__ = ("values",)

    def __init__(self, values: Iterable[Any]) -> None:
        self.values: tuple[Any, ...] = tuple(dict.fromkeys(v for v in values if v is not None))


class Level:
    """The rows of one statement, in order."""

    __slots__ = ("_keys", "mirror", "rows")

    def __init__(self, mirror: "Mirror", values: Iterable[dict[str, Any]]) -> None:
        self.mirror = mirror
        self.rows = [Row(self, index, value) for index, value in enumerate(values)]
        for name in mirror.json_columns:
            self._pass_through(name)
        self._keys: dict[str, Keys] = {}

    def records(self, columns: Sequence[str]) -> list[list[Any]]:
        """The rows as a plan reads them. Raises KeyError for a column that was not read."""
        return [[_as_read(row.values[name]) for name in columns] for row in self.rows]

    def _pass_through(self, name: str) -> None:
        """JSON goes into the response as text: as it came, or, from a write, as written anew.

        jsonb numbers have no bounds; orjson's have, so it must not be what writes them.
        """
        for row in self.rows:
            value = row.values.get(name)
            if value is not None:
                text = value if isinstance(value, str) else _json(value)
                row.values[name] = JsonText(text)

    def keys(self, column: str) -> Keys:
        """The distinct non-null values of one column: the same object for every row that asks."""
        keys = self._keys.get(column)
        if keys is None:
            keys = self._keys[column] = Keys(row.values[column] for row in self.rows)
        return keys


class Row:
    """One row; its columns are its attributes."""

    __slots__ = ("index", "level", "values")

    def __init__(self, level: Level, index: int, values: dict[str, Any]) -> None:
        self.level = level
        self.index = index
        self.values = values

    def __getattr__(self, name: str) -> Any:
        try:
            return self.values[name]
        except KeyError:
            raise AttributeError(name) from None

    def __repr__(self) -> str:
        return f"<{self.level.mirror.name} {self.values.get('id')}>"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _as_read(value: object) -> object:
    """A value as the driver gives it to a plan, which marks JSON by itself."""
    return str(value) if isinstance(value, JsonText) else value
