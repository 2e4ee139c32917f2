"""The plans of one operation of a document, kept with it.

Which fields there are depends on the variables of `@skip` and `@include`; there is a plan for each
set of their values. The rest of the variables are values of arguments, and change no plan.
"""

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any

from graphql import FragmentDefinitionNode, OperationDefinitionNode
from graphql.execution.values import VariableValues, get_variable_values

from db.session import DatabaseUnavailable, StatementCancelled
from schema.context import Context
from schema.plan import Planner, shaping_variables
from schema.planned import PlannedQuery, Run

KEPT_PLANS = 16
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
        self._shaping = shaping_variables(operation, fragments)
        self._plans: OrderedDict[Hashable, PlannedQuery | None] = OrderedDict()

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
            return await plan.run(Run(context.session, context.loaders, values))
        except (DatabaseUnavailable, StatementCancelled):
            raise
        except Exception:
            # Whatever it was, graphql-core says it, at the right path; an aborted transaction
            # would make it say more than that.
            await context.renew()
            return None

    def _values(self, variables: Mapping[str, object]) -> VariableValues | None:
        definitions = self._operation.variable_definitions
        if not definitions:
            return _NO_VARIABLES
        values = get_variable_values(self._planner.schema, definitions, dict(variables))
        return None if isinstance(values, list) else values

    def _plan(self, values: VariableValues) -> PlannedQuery | None:
        key = tuple(values.coerced.get(name) for name in self._shaping)
        if key in self._plans:
            self._plans.move_to_end(key)
            return self._plans[key]
        try:
            plan = self._planner.plan(self._operation, self._fragments, values)
        except Exception:
            # Not only what is Unplannable: an argument that is wrong is for graphql-core to tell.
            plan = None
        self._plans[key] = plan
        if len(self._plans) > KEPT_PLANS:
            self._plans.popitem(last=False)
        return plan
