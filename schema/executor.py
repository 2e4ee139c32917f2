"""graphql-core's executor, which leaves what is planned to its plan.

Two places lead from graphql-core into a plan: a root field that starts at mirrored rows, and a row
that a hand-written resolver, a mutation or a subscription returned. Around them everything runs as
usual. When a plan cannot answer, graphql-core does, from the same loaders.
"""

from collections.abc import Awaitable
from inspect import isawaitable
from typing import Any

from graphql import GraphQLObjectType, GraphQLResolveInfo
from graphql.execution import Executor
from graphql.execution.collect_fields import FieldDetailsList
from graphql.pyutils import AwaitableOrValue, Path

from db.failures import DatabaseUnavailable, SessionClosed, StatementCancelled
from schema.planned import RowsPlan, Run
from schema.planned_roots import Root
from schema.plans import Plans, tell
from schema.rows import Row


class PlanningExecutor(Executor[Any]):
    """Executes one operation; plans are taken from its context, where there are any."""

    @property
    def _plans(self) -> Plans | None:
        plans: Plans | None = getattr(self.context_value, "plans", None)
        return plans

    @property
    def _run(self) -> Run:
        context = self.context_value
        return Run(context.session, context.loaders, self.variable_values)

    def execute_field(
        self,
        parent_type: GraphQLObjectType,
        source: Any,
        field_details_list: FieldDetailsList,
        path: Path,
        position_context: Any,
    ) -> Any:
        """A field: by its plan when it is a planned root field."""
        plans = self._plans if parent_type is self.schema.query_type else None
        nodes = [details.node for details in field_details_list]
        root = plans.root(nodes, self.variable_values) if plans is not None else None
        if root is None:
            return super().execute_field(
                parent_type, source, field_details_list, path, position_context
            )
        return self._planned(root, parent_type, source, field_details_list, path, position_context)

    async def _planned(self, root: Root, *field: Any) -> Any:
        try:
            return await root.load(self._run)
        except SessionClosed:
            raise  # nobody waits for it: another root field's error has made the answer null
        except Exception as error:
            tell(error, self.context_value.request_id)
            completed = super().execute_field(*field)
            return await completed if isawaitable(completed) else completed

    def complete_object_value(
        self,
        return_type: GraphQLObjectType,
        field_details_list: FieldDetailsList,
        info: GraphQLResolveInfo[Any],
        path: Path,
        result: Any,
        position_context: Any,
    ) -> AwaitableOrValue[dict[str, Any]]:
        """An object: by a plan when it is a row, with all rows of its level at once."""
        field = (return_type, field_details_list, info, path, result, position_context)
        plans = self._plans if isinstance(result, Row) else None
        if plans is None or result.level.mirror.name != return_type.name:
            return super().complete_object_value(*field)
        nodes = [details.node for details in field_details_list]
        rows = plans.rows(result.level.mirror, nodes, self.variable_values)
        if rows is None:
            return super().complete_object_value(*field)
        return self._planned_row(rows, result, *field)

    async def _planned_row(self, rows: RowsPlan, row: Row, *field: Any) -> dict[str, Any]:
        try:
            objects = await self._objects(rows, row)
        except (DatabaseUnavailable, SessionClosed, StatementCancelled):
            raise
        except Exception as error:
            tell(error, self.context_value.request_id)
            completed = super().complete_object_value(*field)
            data: dict[str, Any] = await completed if isawaitable(completed) else completed
            return data
        return objects[row.index]

    def _objects(self, rows: RowsPlan, row: Row) -> Awaitable[list[dict[str, Any]]]:
        return self.context_value.loaders.projected(rows, row.level, self._run)  # type: ignore[no-any-return]  # the context is the application's
