"""The ways in which the server may come to the answer of a query. All must say the same.

PLANNED is what it does: the whole query by its plan, and what cannot be planned by graphql-core,
which leaves root fields and rows to their plans. PARTS skips the first step, as a mutation does.
CORE is graphql-core alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from inspect import isawaitable
from typing import Any
from uuid import uuid4

import orjson
from graphql import (
    FragmentDefinitionNode,
    GraphQLError,
    OperationDefinitionNode,
    parse,
    validate,
)
from graphql.execution.values import VariableValues

from schema import build_schema
from schema.context import Actor, Context
from schema.executor import PlanningExecutor
from schema.plan import Planner
from schema.planned import Run
from schema.planned_roots import PlannedQuery
from schema.plans import Plans
from tests.people import Person


class Way(Enum):
    """How a query is executed."""

    CORE = "graphql-core alone"
    PARTS = "graphql-core with plans for its parts"
    PLANNED = "a plan for the whole"


@dataclass
class Answer:
    """What a query brought, and what it cost."""

    data: dict[str, Any] | None
    errors: list[dict[str, Any]] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)
    rows: int = 0


class WatchedPlans(Plans):
    """Plans that tell how they failed: the server only tries another way."""

    failure: Exception | None = None
    planned = False
    """Whether there was a plan for the whole."""

    def _plan(self, values: VariableValues) -> Any:
        plan = super()._plan(values)
        self.planned = plan is not None
        return None if plan is None else _Watched(plan, self)


class _Watched:
    """A plan whose failure is kept."""

    def __init__(self, plan: PlannedQuery, plans: WatchedPlans) -> None:
        self._inner, self._plans = plan, plans
        self.single = plan.single

    async def run(self, run: Run) -> Any:
        try:
            return await self._inner.run(run)
        except GraphQLError:
            raise  # a wrong argument; graphql-core says so, if it comes to use it at all
        except Exception as error:
            self._plans.failure = error
            raise


@cache
def planner() -> Planner:
    """The planner of the schema."""
    return Planner(build_schema())


async def answer(
    person: Person, text: str, variables: Mapping[str, Any], way: Way = Way.PLANNED
) -> Answer:
    """Execute a valid query as a person."""
    schema = build_schema()._schema
    document = parse(text)
    invalid = validate(schema, document)
    assert not invalid, (invalid[0].message, text)
    (operation,) = (one for one in document.definitions if isinstance(one, OperationDefinitionNode))
    fragments = {
        one.name.value: one
        for one in document.definitions
        if isinstance(one, FragmentDefinitionNode)
    }
    statements: list[str] = []
    context = Context(
        person.services,
        Actor(owner_id=person.owner_id, kind="user", id=uuid4()),
        request_id="test",
        recorder=lambda sql, **_: statements.append(sql),
    )
    errors: list[GraphQLError] = []
    async with context:
        if way is not Way.CORE:
            context.plans = plans = WatchedPlans(planner(), operation, fragments)
        data = None
        if way is Way.PLANNED:
            data = await plans.run(context, variables)
        if data is None:
            executor = PlanningExecutor.build(
                schema, document, context_value=context, raw_variable_values=dict(variables)
            )
            assert isinstance(executor, PlanningExecutor), executor
            outcome: Any = executor.execute_operation()
            result = await outcome if isawaitable(outcome) else outcome
            data, errors = result.data, result.errors or []
            if way is Way.PLANNED and plans.planned and not errors:
                raise AssertionError(f"the plan failed: {text}") from plans.failure
        rows = context.anonymous_session.rows
    # As the client reads it: values of jsonb columns are text until they are written.
    read = orjson.loads(orjson.dumps(data, option=orjson.OPT_UTC_Z))
    return Answer(read, [{**error.formatted} for error in errors], statements, rows)
