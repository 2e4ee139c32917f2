"""Statements made ready for the driver: compiled once, run without SQLAlchemy's machinery.

SQLAlchemy builds and compiles; executing through it costs several times what the driver needs for
the same rows. What a statement compiles to is kept with the statement, so those that live as long
as the process are compiled once; equal ones that are built anew share a compiled form.
"""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, TypeAlias
from uuid import UUID
from weakref import WeakKeyDictionary

from sqlalchemy import BindParameter, Executable, Float, Numeric, Row, Select
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.engine.result import SimpleResultMetaData
from sqlalchemy.types import TypeEngine
from sqlalchemy.util import LRUCache

from db.scope import OWNER, current_owner, effective, scope_is_disabled

SHARED = 500
"""Compiled forms kept for statements that are built anew each time."""

AnyRow: TypeAlias = Row[*tuple[Any, ...]]
Parameters: TypeAlias = Mapping[str, Any]
Process: TypeAlias = Callable[[Any], Any] | None

FEED = "engram_feed_"
"""In the name of functions that count the primary's transactions. A standby answers from what it
has replayed: what is right there may lack what a cursor of the primary's stands behind."""

_DIALECT: Any = PGDialect_asyncpg()  # type: ignore[no-untyped-call]  # an untyped constructor
_SHARED: Any = LRUCache(SHARED)


class Prepared:
    """A statement as text with numbered parameters, and how its records become rows."""

    __slots__ = (
        "_columns",
        "_constants",
        "_metadata",
        "_names",
        "_owner",
        "_processors",
        "of_primary",
        "sql",
    )

    def __init__(self, statement: Executable, shared: Any = None) -> None:
        """`shared` keeps the compiled form for equal statements."""
        element: Any = statement
        compiled, extracted, _, _ = element._compile_w_cache(
            _DIALECT, compiled_cache=shared, column_keys=[]
        )
        processors: Mapping[str, Process] = compiled._bind_processors
        names: Sequence[str] = compiled.positiontup
        self.sql = str(compiled)
        self._constants = _constants(compiled, extracted)
        if compiled.post_compile_params:
            # Lists that stand in the statement. One as a parameter would be a KeyError here.
            expanded = compiled._process_parameters_for_postcompile(dict(self._constants))
            self.sql, names = expanded.statement, expanded.positiontup
            self._constants |= expanded.parameters
            processors = {**processors, **expanded.processors}
        self.of_primary = FEED in self.sql
        self._names = [(name, processors.get(name)) for name in names]
        self._columns = [
            (column.keyname, _processor(column.type)) for column in compiled._result_columns
        ]
        self._metadata: Any = None
        self._processors: Any = None
        # The session's owner goes where OWNER stands, or `:owner_id` in a text; a value that only
        # has the same name is a value.
        self._owner = [
            name
            for name, bind in compiled.binds.items()
            if bind.callable is OWNER.callable or (bind.required and name == OWNER.key)
        ]

    def arguments(self, owner_id: UUID | None, parameters: Parameters) -> list[Any]:
        """The arguments in order. Raises KeyError for a parameter without a value."""
        given = {**self._constants, **parameters}
        for name in self._owner:
            given[name] = owner_id
        return [
            given[name] if process is None else process(given[name])
            for name, process in self._names
        ]

    def rows(self, records: Sequence[Any]) -> Sequence[AnyRow]:
        """Records of the driver as rows: values in Python's types, by name and by position."""
        if not records:
            return []
        if self._metadata is None:
            # Of a textual statement only the records know the columns.
            columns = self._columns or [(name, None) for name in records[0].keys()]  # noqa: SIM118  # a record iterates over its values
            self._metadata = SimpleResultMetaData([name for name, _ in columns])
            processors = [process for _, process in columns]
            self._processors = processors if any(processors) else None
        metadata, processors = self._metadata, self._processors
        index = metadata._key_to_index
        return [Row(metadata, processors, index, tuple(record)) for record in records]


class PreparedSelect:
    """A select that a plan keeps."""

    __slots__ = ("_select", "_texts")

    def __init__(self, select: Select[*tuple[Any, ...]]) -> None:
        self._select = select
        self._texts: dict[bool, Prepared] = {}

    @property
    def prepared(self) -> Prepared:
        """Compiled when first asked for."""
        disabled = scope_is_disabled()
        text = self._texts.get(disabled)
        if text is None:
            text = self._texts[disabled] = Prepared(effective(self._select))
        return text

    def bind(self, owner_id: UUID | None, parameters: Parameters) -> tuple[str, list[Any]]:
        """The SQL, and its arguments in order."""
        text = self.prepared
        return text.sql, text.arguments(owner_id, parameters)


_KEPT: MutableMapping[Executable, Prepared] = WeakKeyDictionary()


def prepare(statement: Executable) -> Prepared:
    """A statement as it runs: the same for the same statement."""
    if scope_is_disabled():
        return Prepared(effective(statement))
    found = _KEPT.get(statement)
    if found is None:
        found = _KEPT[statement] = Prepared(statement, _SHARED)
    return found


def _processor(type_: TypeEngine[Any]) -> Process:
    """What makes Python's value of the driver's; None when they are the same."""
    if isinstance(type_, Float | Numeric):
        return None  # the driver's floats and decimals are Python's
    process: Process = type_._cached_result_processor(_DIALECT, None)
    return process


def _constants(compiled: Any, extracted: Sequence[BindParameter[Any]] | None) -> dict[str, Any]:
    """The values that stand in the statement itself.

    An equal statement may have been compiled before with other values: `extracted` are this one's.
    """
    token = current_owner.set(None)  # the owner is no constant, but would be asked for
    try:
        values: dict[str, Any] = compiled.construct_params(
            extracted_parameters=extracted, escape_names=False, _check=False
        )
    finally:
        current_owner.reset(token)
    given = {name for name, bind in compiled.binds.items() if bind.required}
    return {name: value for name, value in values.items() if name not in given}
