"""Selects made ready for the driver: compiled once, run without SQLAlchemy's machinery.

Building, compiling and fetching through the expression language costs several times what the
driver needs for the same rows. A plan that is used again keeps its statement in this form.
"""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Select
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from db.scope import OWNER, effective, scope_is_disabled

_DIALECT: Any = PGDialect_asyncpg()  # type: ignore[no-untyped-call]  # an untyped constructor


class PreparedSelect:
    """A select of the owner's rows, as text with numbered parameters."""

    __slots__ = ("_select", "_texts")

    def __init__(self, select: Select[*tuple[Any, ...]]) -> None:
        self._select = select
        self._texts: dict[bool, _Text] = {}

    def bind(self, owner_id: UUID | None, parameters: Mapping[str, Any]) -> tuple[str, list[Any]]:
        """The SQL, and its arguments in order."""
        disabled = scope_is_disabled()
        text = self._texts.get(disabled)
        if text is None:
            text = self._texts[disabled] = _Text(self._select)
        return text.sql, text.arguments(owner_id, parameters)


class _Text:
    """A compiled select."""

    __slots__ = ("_constants", "_names", "sql")

    def __init__(self, select: Select[*tuple[Any, ...]]) -> None:
        statement: Any = effective(select)
        compiled = statement.compile(dialect=_DIALECT)
        processors: Mapping[str, Callable[[Any], Any]] = compiled._bind_processors
        self.sql = str(compiled)
        self._names = [(name, processors.get(name)) for name in compiled.positiontup]
        self._constants: dict[str, Any] = {
            name: bind.value for name, bind in compiled.binds.items() if not bind.required
        }

    def arguments(self, owner_id: UUID | None, parameters: Mapping[str, Any]) -> list[Any]:
        given = {**self._constants, **parameters, OWNER.key: owner_id}
        return [
            given[name] if process is None else process(given[name])
            for name, process in self._names
        ]
