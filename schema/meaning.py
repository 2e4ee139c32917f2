"""The meaning of a query, for searches and for retrieval; and what is said where there is none."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import strawberry

from db.repositories.knowledge_search import Understood
from schema.context import Context, NoEmbedding


@strawberry.enum(description="Why a search was by words alone although more was asked for.")
class SearchLimit(Enum):
    """What kept vectors out."""

    NO_PROVIDER = strawberry.enum_value(
        "no_provider", description="This server has no provider of embeddings."
    )
    NO_MODEL = strawberry.enum_value(
        "no_model", description="There is no embedding model yet, or none is active."
    )
    PROVIDER_FAILED = strawberry.enum_value(
        "provider_failed", description="The provider did not embed the query."
    )


@dataclass(frozen=True)
class Meaning:
    """A query by its meaning; or why there is none, for programs and for people."""

    model: str | None = None
    vector: Sequence[float] = ()
    limited_by: SearchLimit | None = None
    reason: str | None = None

    @property
    def notice(self) -> str | None:
        """What is said of a search that goes on without it."""
        return None if self.reason is None else f"Searched by words alone: {self.reason}"


async def by_meaning(context: Context, understood: Understood, query: str) -> Meaning:
    """The meaning of a query, for which the provider may have to be asked."""
    source = context.services.embeddings
    if understood.model is None or understood.dimensions is None:
        if source is not None and source.available:
            limit, reason = SearchLimit.NO_MODEL, "there is no embedding model."
        else:
            limit, reason = SearchLimit.NO_PROVIDER, "no provider of embeddings is configured."
        return Meaning(limited_by=limit, reason=reason)
    try:
        if source is None:
            raise NoEmbedding("No provider of embeddings is configured.", configured=False)
        vector = await source.query_vector(understood.model, understood.dimensions, query)
    except NoEmbedding as error:
        limit = SearchLimit.PROVIDER_FAILED if error.configured else SearchLimit.NO_PROVIDER
        return Meaning(limited_by=limit, reason=str(error))
    return Meaning(understood.model, vector)


def impossible(meaning: Meaning) -> str:
    """What is said of a search that does not go on without it."""
    return f"A search by meaning is not possible: {meaning.reason}"
