"""From the driver's records to response objects, by code made for one selection.

A selection set over a mirrored type becomes one comprehension that makes all its objects at once,
in the order of the response keys. What it cannot express stays with graphql-core.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, get_args, get_origin

import orjson

from db.base import column_fields
from schema.mirror import Mirror, bare

Record = Sequence[Any]
Objects = list[dict[str, Any]]
Lookup = Mapping[Any, Any]
Project = Callable[[Sequence[Record], Sequence[Sequence[Lookup]]], Objects]


class Unplannable(Exception):
    """A selection that graphql-core has to execute."""


class Projection:
    """The fields of one selection set, as expressions on a record `r`."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._items: list[str] = []
        self._names: dict[str, Any] = {"F": orjson.Fragment}

    def typename(self, response_key: str) -> None:
        """The name of the type."""
        self._items.append(f"{response_key!r}: {self._mirror.name!r}")

    def identifier(self, response_key: str, position: int) -> None:
        """The global id."""
        self._items.append(f"{response_key!r}: f'{self._mirror.key}_{{r[{position}].hex}}'")

    def column(self, response_key: str, name: str, position: int) -> None:
        """A shown column.

        Raises:
            Unplannable: its values need more than an expression.
        """
        self._items.append(f"{response_key!r}: {self._expression(name, f'r[{position}]')}")

    def derived(
        self, response_key: str, function: Callable[..., Any], positions: Sequence[int]
    ) -> None:
        """What a function makes of columns."""
        name = f"d{len(self._names)}"
        self._names[name] = function
        values = ", ".join(f"r[{position}]" for position in positions)
        self._items.append(f"{response_key!r}: {name}({values})")

    def related(
        self, response_key: str, child: int, selection: int, position: int, *, nullable: bool
    ) -> None:
        """What a relation brought for the key in a column. A missing row must not pass for null."""
        lookup = f"c[{child}][{selection}]"
        value = f"{lookup}.get(r[{position}])" if nullable else f"{lookup}[r[{position}]]"
        self._items.append(f"{response_key!r}: {value}")

    def finish(self) -> Project:
        """Compile. Response keys are GraphQL names, positions are ours: nothing else gets in."""
        source = f"lambda rows, c: [{{{', '.join(self._items)}}} for r in rows]"
        project: Project = eval(source, self._names)  # noqa: S307  # made of names and numbers alone
        return project

    def _expression(self, name: str, value: str) -> str:
        column = self._mirror.table.columns[name]
        annotation = bare(column_fields(self._mirror.model)[name].annotation)
        if annotation in (str, bool, int, float, datetime) and not is_big(column.type):
            return value
        if _is_enum(annotation):
            return f"{self._enum(annotation)}[{value}]"
        if get_origin(annotation) is list:
            item = get_args(annotation)[0]
            if _is_enum(item):
                return f"[{self._enum(item)}[x] for x in {value}]"
            return value
        if name in self._mirror.json_columns:
            return (
                f"F({value}) if {value} is not None else None" if column.nullable else f"F({value})"
            )
        raise Unplannable(f"{self._mirror.name}.{name}")

    def _enum(self, enum: type[StrEnum]) -> str:
        names: dict[str | None, str | None] = {member.value: member.name for member in enum}
        names[None] = None
        self._names[enum.__name__] = names
        return enum.__name__


def is_big(type_: Any) -> bool:
    """Whether an integer type goes beyond 32 bits."""
    return type(type_).__name__ in ("BigInteger", "BIGINT")


def _is_enum(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, StrEnum)
