"""Embedding models: which there are, how far they have come, and the choice of one."""

from typing import Any

import strawberry

from db.models.knowledge_search import EmbeddingModelStatus
from db.repositories import knowledge_models as repository
from db.repositories.knowledge_models import ModelState
from schema.context import Info
from schema.inputs import OnceInput, check_text
from schema.mirror import enum_type
from schema.mutation import Payload, mutation, payload

MAX_MODELS = 20
_Status: Any = enum_type(EmbeddingModelStatus)


@strawberry.type(
    description=(
        "A model that embeds texts. Two can live side by side while one replaces the other; what"
        " is said of texts is of the caller's."
    )
)
class EmbeddingModel:
    id: strawberry.ID = strawberry.field(description="The provider's name of it; no global id.")
    dimensions: int = strawberry.field(description="How many numbers an embedding has.")
    status: _Status = strawberry.field(description="What the server uses it for.")
    is_current: bool = strawberry.field(description="Whether the caller's searches use it.")
    pending_count: int = strawberry.field(description="How many texts it has still to embed.")
    failed_count: int = strawberry.field(description="How many texts the provider refuses.")


@strawberry.input(description="Which embedding model to use from now on.")
class ActivateEmbeddingModelInput(OnceInput):
    """The input of activateEmbeddingModel."""

    model_id: str = strawberry.field(description="The model's `id`.")


@payload
class EmbeddingModelPayload(Payload):
    """The model that is used."""

    model_id: str | None = strawberry.field(
        default=None, description="The model that the caller's searches use now."
    )


def _shown(state: ModelState) -> EmbeddingModel:
    return EmbeddingModel(
        id=strawberry.ID(state.id),
        dimensions=state.dimensions,
        status=_Status(state.status),
        is_current=state.current,
        pending_count=state.pending,
        failed_count=state.failed,
    )


class EmbeddingModelQuery:
    """Embedding models."""

    @strawberry.field(
        description="The embedding models of this server, the oldest first.",
        metadata={"rows": MAX_MODELS},
    )
    async def embedding_models(self, info: Info) -> list[EmbeddingModel]:
        info.context.require("read")
        return [_shown(state) for state in await repository.model_states(info.context.session)]


class EmbeddingModelMutation:
    """The choice of a model."""

    @mutation(
        description=(
            "Let the caller's own searches use another embedding model, at once and as a whole,"
            " when it has embedded all of the caller's texts. What others' searches use is the"
            " operator's to say."
        )
    )
    async def activate_embedding_model(
        self, info: Info, input: ActivateEmbeddingModelInput
    ) -> EmbeddingModelPayload:
        model_id = check_text(input.model_id, ("model_id",))
        states = await repository.choose_model(info.context.session, model_id)
        return EmbeddingModelPayload(model_id=next(one.id for one in states if one.current))
