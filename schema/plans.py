"""The plans of one operation of a document, kept with it.

Which fields there are depends on the variables of `@skip` and `@include`; there is a plan for each
set of their values. The rest of the variables are values of arguments, and change no plan.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import structlog
from graphql import FieldNode, FragmentDefinitionNode, GraphQLError, OperationDefinitionNode
from graphql.execution.values import VariableValues, get_variable_values

from db.failures import DatabaseUnavailable, StatementCancelled
from schema.context import Context
from schema.mirror import Mirror
from schema.plan import Planner
from schema.plan_arguments import PlainVariables, shaping_variables
from schema.planned import CannotPlan, RowsPlan, Run
from schema.planned_roots import PlannedQuery, Root
from schema.projection import Unplannable

log = structlog.get_logger("engram.plans")

KEPT_PARTS = 128
"""Plans kept for one operation, by its parts and the values of its shaping variables."""

EXPECTED = (CannotPlan, DatabaseUnavailable, GraphQLError, StatementCancelled, Unplannable)
"""What graphql-core meets as well, and says."""

P = TypeVar("P")
_NO_VARIABLES = VariableValues({}, {})


class Plans:
    """Plans a query when it first runs, and runs it."""

    def __init__(
        self,
        planner: Planner,
        operation: OperationDefinitionNode,
        fragments: Mapping[str, FragmentDefinitionNode],
    ) -> None:
        self._planner = planner
        self._operation = operation
        self._fragments = fragments
        self._variables = PlainVariables(planner.schema, operation)
        self._shaping = shaping_variables(operation, fragments)
        self._parts: OrderedDict[Hashable, Any] = OrderedDict()

    def root(self, nodes: list[FieldNode], variables: VariableValues) -> Root | None:
        """The plan of one root field, None when graphql-core has to execute it."""

        def make() -> Root:
            root = self._planner.compiler(self._fragments, variables).root(nodes)
            root.finish()
            return root

        return self._part(("root", *map(id, nodes), *self._shape(variables)), make)

    def rows(
        self, mirror: Mirror, nodes: list[FieldNode], variables: VariableValues
    ) -> RowsPlan | None:
        """The plan of rows that were read otherwise, None when graphql-core has to do it."""

        def make() -> RowsPlan:
            rows = self._planner.compiler(self._fragments, variables).rows(mirror, nodes)
            rows.finish()
            return rows

        return self._part((mirror, *map(id, nodes), *self._shape(variables)), make)

    def _part(self, key: Hashable, make: Callable[[], P]) -> P | None:
        if key not in self._parts:
            try:
                self._parts[key] = make()
            except Exception as error:
                # Not only what is Unplannable: a wrong argument is for graphql-core to tell.
                tell(error)
                self._parts[key] = None
            if len(self._parts) > KEPT_PARTS:
                self._parts.popitem(last=False)
        part: P | None = self._parts.get(key)
        return part

    def _shape(self, variables: VariableValues) -> tuple[object, ...]:
        return tuple(variables.coerced.get(name) for name in self._shaping)

    async def run(self, context: Context, variables: Mapping[str, object]) -> dict[str, Any] | None:
        """The response's `data`; None when graphql-core has to execute the operation.

        Raises:
            DatabaseUnavailable, StatementCancelled: there is no point in trying again.
        """
        values = self._values(variables)
        plan = self._plan(values) if values is not None else None
        if plan is None or values is None:
            return None
        try:
            return await plan.run(Run(context.session, context.loaders, values, plan.single))
        except (DatabaseUnavailable, StatementCancelled):
            raise
        except Exception as error:
            tell(error, context.request_id)
            # Whatever it was, graphql-core says it, at the right path. An aborted transaction would
            # make it say more than that, and plans of parts would say it of their whole part.
            context.plans = None
            await context.renew()
            return None

    def _values(self, variables: Mapping[str, object]) -> VariableValues | None:
        definitions = self._operation.variable_definitions
        if not definitions:
            return _NO_VARIABLES
        plain = self._variables.values(variables)
        if plain is not None:
            return plain
        values = get_variable_values(self._planner.schema, definitions, dict(variables))
        return None if isinstance(values, list) else values

    def _plan(self, values: VariableValues) -> PlannedQuery | None:
        def make() -> PlannedQuery:
            return self._planner.plan(self._operation, self._fragments, values)

        return self._part(("query", *self._shape(values)), make)


def tell(error: Exception, request_id: str | None = None) -> None:
    """Log why a plan failed, unless that is how plans leave a matter to graphql-core.

    The answer is right all the same, so nothing else would show that a plan is wrong.
    """
    if not isinstance(error, EXPECTED):
        log.warning("plan_failed", request_id=request_id, exc_info=error)
