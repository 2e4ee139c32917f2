"""Who may do what: asked before a mutation's arguments are converted, which takes longer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import strawberry
from graphql import GraphQLResolveInfo
from strawberry.schema.schema_converter import GraphQLCoreConverter

from db.refusals import Denied, Refused, Unauthenticated
from schema.context import Context
from schema.mirror import Scope
from schema.problems import problems

ACCESS = "engram.access"
"""Where the metadata of a mutation's field has its `Access`."""


@dataclass(frozen=True)
class Access:
    """What a mutation asks of its caller: a scope, or nothing."""

    scope: Scope | None
    payload: Callable[..., Any]

    def refuse(self, context: Context, given: Mapping[str, Any]) -> Any:
        """The payload that says why this caller may not; None when they may."""
        try:
            self._authorize(context)
        except Refused as refused:
            return self.payload(
                problems=problems(refused), client_mutation_id=given.get("clientMutationId")
            )
        return None

    def _authorize(self, context: Context) -> None:
        if self.scope is None:
            return
        if context.actor is None:
            raise Unauthenticated("Log in first.")
        if not context.actor.may(self.scope):
            raise Denied(f"This key does not have the scope {self.scope}.")


def authorize_first(schema: strawberry.Schema) -> None:
    """Have every mutation of a schema ask its `Access` first."""
    mutations = schema._schema.mutation_type
    for field in mutations.fields.values() if mutations else ():
        access = field.extensions[GraphQLCoreConverter.DEFINITION_BACKREF].metadata[ACCESS]
        assert field.resolve is not None
        field.resolve = _authorized(access, field.resolve)


def _authorized(access: Access, resolve: Callable[..., Any]) -> Callable[..., Any]:
    def first(source: Any, info: GraphQLResolveInfo[Context], **given: Any) -> Any:
        refused = access.refuse(info.context, given["input"])
        return resolve(source, info, **given) if refused is None else refused

    return first
