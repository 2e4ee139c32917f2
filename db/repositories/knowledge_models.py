"""Embedding models, as their users see them: which there are, and which one is theirs."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from db.changes import insert, remove
from db.models.knowledge_search import EmbeddingChoice
from db.refusals import Invalid, Violation
from db.scope import readable
from db.session import Session

CHOICES = EmbeddingChoice.__table__
PATH = ("model_id",)


@dataclass(frozen=True)
class ModelState:
    """A model, and how far it has come with the owner's texts."""

    id: str
    dimensions: int
    status: str
    current: bool
    """Whether the owner's searches use it."""
    pending: int
    failed: int


_STATES = sa.text(
    """
    SELECT m.id, m.dimensions, m.status,
        m.id IS NOT DISTINCT FROM engram_embedding_model() AS current,
        count(j.id) FILTER (WHERE j.status = 'pending') AS pending,
        count(j.id) FILTER (WHERE j.status = 'failed') AS failed
    FROM embedding_models m
    LEFT JOIN embedding_jobs AS j ON j.owner_id = :owner_id AND j.model_id = m.id
    GROUP BY m.id ORDER BY m.created_at, m.id
    """
)


_LOCK = sa.text(
    "SELECT pg_advisory_xact_lock(hashtextextended(CAST(CAST(:owner_id AS uuid) AS text), 8))"
)


async def model_states(session: Session) -> list[ModelState]:
    """All models, the oldest first."""
    return [ModelState(*row) for row in await session.execute(_STATES)]


async def choose_model(session: Session, model_id: str) -> list[ModelState]:
    """Let the owner's searches use a model from now on, whatever others use.

    Raises Invalid for one that is not there or retired, or that has not embedded all of the owner's
    texts yet.
    """
    # One after the other, so that an owner has one choice.
    lock = sa.text(
        "SELECT pg_advisory_xact_lock(hashtextextended(CAST(CAST(:owner_id AS uuid) AS text), 8))"
    )
    await session.execute(lock)
    states = {one.id: one for one in await model_states(session)}
    state = states.get(model_id)
    if state is None or state.status == "retired":
        message = "There is no such embedding model, or it is retired."
        raise Invalid([Violation(PATH, "model", message)])
    if state.pending:
        message = f"It has {state.pending} of your documents and messages still to embed."
        raise Invalid([Violation(PATH, "complete", message, str(state.pending))])
    if not state.current:
        before = await session.execute(readable(CHOICES, CHOICES.c.id))
        await remove(session, CHOICES, [row.id for row in before])
        await insert(session, CHOICES, [{"model_id": model_id}])
    return await model_states(session)
