"""The root fields of a plan, and the query they make up."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol
from uuid import UUID

from graphql.execution.values import VariableValues

from db.prepared import PreparedSelect
from schema.loaders import rows_select
from schema.mirror import Mirror
from schema.node import MAX_NODES, decode_any
from schema.planned import CannotPlan, RowsPlan, Run
from schema.planned_pages import PagesChild


class Root(Protocol):
    """A root field."""

    @property
    def single(self) -> bool:
        """Whether one statement brings it all."""
        ...

    def finish(self) -> None:
        """Called once, when the plan is complete."""
        ...

    async def load(self, run: Run) -> Any:
        """Its value in the response."""
        ...


class RootPage:
    """A root connection."""

    def __init__(self, page: PagesChild, selection: int) -> None:
        self._page = page
        self._selection = selection

    @property
    def single(self) -> bool:
        return self._page.single

    def finish(self) -> None:
        self._page.finish()

    async def load(self, run: Run) -> Any:
        return (await self._page.load(run, (None,)))[self._selection][None]


class RootRow:
    """A root field that is one row."""

    def __init__(
        self,
        identify: Callable[[Run], UUID],
        rows: RowsPlan,
        selection: int,
        *,
        nullable: bool,
    ) -> None:
        self._identify = identify
        self._nullable = nullable
        self._rows = rows
        self._selection = selection
        self._statement: PreparedSelect | None = None

    @property
    def single(self) -> bool:
        return not self._rows.reads_more

    def finish(self) -> None:
        self._rows.position("id")
        self._rows.finish()
        self._statement = PreparedSelect(rows_select(self._rows.mirror, self._rows.columns, False))

    async def load(self, run: Run) -> Any:
        assert self._statement is not None
        run.loaders.permit(self._rows.mirror)
        keys = [self._identify(run)]
        records = await run.session.fetch(self._statement, {"keys": keys}, alone=run.alone)
        if not records and not self._nullable:
            raise CannotPlan
        objects = (await self._rows.emit(run, records))[self._selection]
        return objects[0] if objects else None


class RootNodes:
    """`node` and `nodes`: rows of any type, a statement for each type that the ids name."""

    def __init__(
        self,
        ids: Callable[[VariableValues], Sequence[str]],
        make: Callable[[Mirror], tuple[RowsPlan, int]],
        named: Sequence[Mirror],
        *,
        several: bool,
    ) -> None:
        """`named` are the types that the selection tells from others."""
        self._ids = ids
        self._make = make
        self._named = named
        self._several = several
        self._plans: dict[Mirror, tuple[RowsPlan, int, int]] = {}

    @property
    def single(self) -> bool:
        return False  # a statement for each type, and only the ids tell of how many

    def finish(self) -> None:
        """Plan what may be unplannable; of all other types only what every row has is selected."""
        for mirror in self._named:
            self._plan(mirror)

    def _plan(self, mirror: Mirror) -> tuple[RowsPlan, int, int]:
        plan = self._plans.get(mirror)
        if plan is None:
            rows, selection = self._make(mirror)
            position = rows.position("id")
            rows.finish()
            plan = self._plans[mirror] = (rows, selection, position)
        return plan

    async def load(self, run: Run) -> Any:
        wanted = [decode_any(text) for text in self._ids(run.variables)]
        if len(wanted) > MAX_NODES:
            raise CannotPlan
        by_mirror: dict[Mirror, list[UUID]] = {}
        for mirror, value in wanted:
            by_mirror.setdefault(mirror, []).append(value)
        found: dict[tuple[Mirror, UUID], Any] = {}
        for mirror, values in by_mirror.items():
            run.loaders.permit(mirror)
            rows, selection, position = self._plan(mirror)
            statement = PreparedSelect(rows_select(mirror, rows.columns, False))
            records = await run.session.fetch(statement, {"keys": list(dict.fromkeys(values))})
            objects = (await rows.emit(run, records))[selection]
            for record, one in zip(records, objects, strict=True):
                found[mirror, record[position]] = one
        answers = [found.get(one) for one in wanted]
        return answers if self._several else answers[0]


class PlannedQuery:
    """A whole query."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.constants: dict[str, str] = {}
        self.roots: list[tuple[str, Root]] = []
        self.single = False
        """Whether one statement brings it all, which is a snapshot without a transaction."""
        self.even = False
        """Whether its statements are planned once for all arguments."""

    def finish(self) -> None:
        """Called once, when the plan is complete."""
        for _, root in self.roots:
            root.finish()
        self.single = len(self.roots) == 1 and self.roots[0][1].single

    async def run(self, run: Run) -> dict[str, Any]:
        """The response's `data`. Whatever it raises, graphql-core has to say what was wrong."""
        data: dict[str, Any] = {}
        run.session.plans_once = self.even
        for key, root in self.roots:
            data[key] = await root.load(run)
        if self.constants:
            data |= self.constants
            return {key: data[key] for key in self.keys}
        return data
