"""The GraphQL schema: assembled from the domains."""

from functools import cache

import strawberry
from strawberry.schema.config import StrawberryConfig
from strawberry.types.field import StrawberryField
from strawberry.utils.str_converters import to_camel_case

from schema.access import authorize_first
from schema.accounts import AccountsQuery
from schema.accounts_exports import ExportsMutation, ExportsQuery
from schema.accounts_keys import AccessMutation
from schema.accounts_writes import AccountsMutation
from schema.assembly import finish
from schema.changes import ChangesQuery, ChangesSubscription
from schema.conversations import ConversationsQuery, ConversationsSubscription
from schema.conversations_generations import GenerationsQuery, GenerationsSubscription
from schema.conversations_generations_writes import GenerationsMutation
from schema.conversations_writes import ConversationsMutation
from schema.journal import JournalQuery
from schema.knowledge import KnowledgeQuery
from schema.knowledge_models import EmbeddingModelMutation, EmbeddingModelQuery
from schema.knowledge_search import SearchQuery
from schema.knowledge_writes import KnowledgeMutation
from schema.limits import LimitsQuery
from schema.node import NodeQuery
from schema.problems import PROBLEM_TYPES
from schema.scalars import SCALARS
from schema.work import WorkQuery
from schema.work_changes import WorkSubscription
from schema.work_claims import ClaimMutation
from schema.work_tasks import TaskMutation
from schema.work_writes import WorkMutation

_QUERIES: tuple[type, ...] = (
    NodeQuery,
    AccountsQuery,
    ExportsQuery,
    ConversationsQuery,
    GenerationsQuery,
    KnowledgeQuery,
    SearchQuery,
    EmbeddingModelQuery,
    WorkQuery,
    JournalQuery,
    ChangesQuery,
    LimitsQuery,
)
_MUTATIONS: tuple[type, ...] = (
    AccountsMutation,
    AccessMutation,
    ExportsMutation,
    ConversationsMutation,
    GenerationsMutation,
    KnowledgeMutation,
    EmbeddingModelMutation,
    WorkMutation,
    TaskMutation,
    ClaimMutation,
)
_SUBSCRIPTIONS: tuple[type, ...] = (
    ConversationsSubscription,
    GenerationsSubscription,
    WorkSubscription,
    ChangesSubscription,
)


LOGIN_MUTATIONS = frozenset(
    to_camel_case(name)
    for part in (AccountsMutation, AccessMutation)
    for name, member in vars(part).items()
    if isinstance(member, StrawberryField)
)
"""The mutations after which a bearer token may be worth something else."""


@cache
def build_schema() -> strawberry.Schema:
    """The schema; built once, as its types are finished in place."""
    types = finish((*_QUERIES, *_MUTATIONS, *_SUBSCRIPTIONS))
    schema = strawberry.Schema(
        query=_root("Query", _QUERIES, "What can be read."),
        mutation=_root("Mutation", _MUTATIONS, "What can be done.") if _MUTATIONS else None,
        subscription=(
            _root("Subscription", _SUBSCRIPTIONS, "What can be watched.")
            if _SUBSCRIPTIONS
            else None
        ),
        types=[*types, *PROBLEM_TYPES],
        config=StrawberryConfig(scalar_map=SCALARS),
    )
    authorize_first(schema)
    return schema


def _root(name: str, parts: tuple[type, ...], description: str) -> type:
    return strawberry.type(type(name, parts, {}), name=name, description=description)
