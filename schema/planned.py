"""Running a plan: a statement per level, rows straight from the driver, objects by comprehension.

A plan is made once and run many times at once: running changes nothing in it. A level is handed
over whole to an aiodataloader, as everywhere (see `schema.loaders`).
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

from graphql.execution.values import VariableValues

from db.prepared import PreparedSelect
from db.session import Session
from schema.loaders import (
    Loaders,
    rows_select,
)
from schema.mirror import Mirror
from schema.projection import Lookup, Objects, Project, Projection, Record
from schema.rows import Keys

T = TypeVar("T")


class CannotPlan(Exception):
    """A plan met what only graphql-core can answer; the operation is executed again by it."""


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a plan."""

    session: Session
    loaders: Loaders
    variables: VariableValues
    alone: bool = False
    """Whether the plan has one statement, and the operation nothing else."""


class PlannedArguments(Generic[T]):
    """The arguments of a relation field: worked out once when no variable is in them."""

    def __init__(
        self,
        identity: str,
        values: Callable[[VariableValues], dict[str, Any]],
        resolve: Callable[[dict[str, Any]], T],
        fixed: dict[str, Any] | None,
    ) -> None:
        self.identity = identity
        self._values = values
        self._resolve = resolve
        self._fixed = None if fixed is None else resolve(fixed)

    def resolve(self, variables: VariableValues) -> T:
        """What the arguments ask for. Raises what the field's resolver raises."""
        if self._fixed is not None:
            return self._fixed
        return self._resolve(self._values(variables))


class Child(Protocol):
    """A relation field below rows."""

    position: int
    rows: "RowsPlan"

    async def load(self, run: Run, keys: Sequence[UUID]) -> Sequence[Lookup]:
        """For each selection, what there is for each key."""
        ...

    def finish(self) -> None:
        """Called once, when the plan is complete."""
        ...


class RowsPlan:
    """The rows of one level: which columns to read, and what each selection makes of them."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
        self._columns: dict[str, int] = {}
        self._projections: list[Projection] = []
        self._children: dict[Hashable, Any] = {}
        self._projects: list[Project] = []

    @property
    def columns(self) -> tuple[str, ...]:
        """What to read, in the order of the records."""
        return tuple(self._columns)

    @property
    def reads_more(self) -> bool:
        """Whether there are levels below this one."""
        return bool(self._children)

    def position(self, name: str) -> int:
        """Where a column stands in the records; reading it from now on."""
        return self._columns.setdefault(name, len(self._columns))

    def projection(self) -> tuple[int, Projection]:
        """A new selection of these rows."""
        self._projections.append(Projection(self.mirror))
        return len(self._projections) - 1, self._projections[-1]

    def child(self, key: Hashable, make: Callable[[], Any]) -> tuple[Any, int]:
        """The child plan of a relation with certain arguments, shared by all selections."""
        if key not in self._children:
            self._children[key] = make()
        return self._children[key], list(self._children).index(key)

    def finish(self) -> None:
        """Compile, when all selections are known."""
        self._projects = [projection.finish() for projection in self._projections]
        for child in self._children.values():
            child.finish()

    async def emit(self, run: Run, records: Sequence[Record]) -> list[Objects]:
        """The objects of each selection, in the order of the records."""
        found = []
        for child in self._children.values():
            position = child.position
            keys = dict.fromkeys([record[position] for record in records])
            keys.pop(None, None)
            found.append(await run.loaders.planned(child, Keys(keys), run))
        return [project(records, found) for project in self._projects]


class OneChild:
    """A relation to one row."""

    def __init__(self, rows: RowsPlan) -> None:
        self.rows = rows
        self.position = -1
        self._id = rows.position("id")
        self._statement: PreparedSelect | None = None

    def finish(self) -> None:
        self.rows.finish()
        self._statement = PreparedSelect(rows_select(self.rows.mirror, self.rows.columns, None))

    async def load(self, run: Run, keys: Sequence[UUID]) -> Sequence[Lookup]:
        assert self._statement is not None
        records = await run.session.fetch(self._statement, {"keys": keys}) if keys else ()
        ids = [record[self._id] for record in records]
        return [
            dict(zip(ids, objects, strict=True)) for objects in await self.rows.emit(run, records)
        ]
