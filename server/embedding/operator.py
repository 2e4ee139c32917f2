"""What an operator does with embedding models, as the owner of the tables."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

TABLES = ("embeddings", "message_embeddings")


class EmbeddingModelError(Exception):
    """It cannot be done; the message says why."""


@dataclass(frozen=True)
class ModelReport:
    """How a model stands."""

    id: str
    dimensions: int
    status: str
    pending: int
    """Documents and messages that wait."""
    failed: int
    indexed: bool


_REPORT = sa.text(
    """
    SELECT m.id, m.dimensions, m.status,
        count(*) FILTER (WHERE j.status = 'pending') AS pending,
        count(*) FILTER (WHERE j.status = 'failed') AS failed,
        EXISTS (
            SELECT FROM pg_index x
            WHERE x.indexrelid = to_regclass(
                    'public.embeddings_hnsw_' || left(md5(m.id), 12)) AND x.indisvalid
        ) AS indexed
    FROM embedding_models m LEFT JOIN embedding_jobs j ON j.model_id = m.id
    GROUP BY m.id ORDER BY m.created_at, m.id
    """
)


async def report(engine: AsyncEngine) -> list[ModelReport]:
    """All models, the oldest first."""
    async with engine.connect() as connection:
        return [ModelReport(*row) for row in await connection.execute(_REPORT)]


async def activate(engine: AsyncEngine, model: str, *, force: bool = False) -> None:
    """Let searches use a model from now on; the one before is retired, in the same transaction.

    Raises EmbeddingModelError for an unknown model, and unless forced while texts wait for it.
    """
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="READ COMMITTED")
        async with connection.begin():
            await _lock(connection)
            found = await _find(connection, model)
            if found.status == "retired":
                raise EmbeddingModelError(
                    f"{model} is retired: set EMBEDDING_MODEL to it, and it is built again."
                )
            if found.pending and not force:
                raise EmbeddingModelError(
                    f"{found.pending} documents and messages are not embedded by {model} yet."
                )
            retire = sa.text("UPDATE embedding_models SET status = 'retired' WHERE id = :id")
            for one in await _models(connection):
                if one.status == "active" and one.id != model:
                    await connection.execute(retire, {"id": one.id})
            chosen = sa.text("UPDATE embedding_models SET status = 'active' WHERE id = :id")
            await connection.execute(chosen, {"id": model})


async def retire(engine: AsyncEngine, model: str) -> None:
    """Embed nothing more by a model that searches do not use. Raises EmbeddingModelError."""
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="READ COMMITTED")
        async with connection.begin():
            await _lock(connection)
            if (await _find(connection, model)).status == "active":
                raise EmbeddingModelError(f"{model} is active: activate another one first.")
            statement = sa.text("UPDATE embedding_models SET status = 'retired' WHERE id = :id")
            await connection.execute(statement, {"id": model})


async def erase(engine: AsyncEngine, model: str) -> None:
    """Remove a retired model with all of its embeddings. Raises EmbeddingModelError."""
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="READ COMMITTED")
        async with connection.begin():
            await _lock(connection)
            if (await _find(connection, model)).status != "retired":
                raise EmbeddingModelError(f"{model} is in use: retire it first.")
            for table in TABLES:
                await connection.execute(
                    sa.text(f"DROP INDEX IF EXISTS public.{index_name(table, model)}")
                )
            statement = sa.text("DELETE FROM embedding_models WHERE id = :id")
            await connection.execute(statement, {"id": model})


async def build_index(engine: AsyncEngine, model: str) -> None:
    """Build the HNSW indexes of a model, beside the traffic; those that are broken anew.

    Raises EmbeddingModelError.
    """
    async with engine.connect() as connection:
        found = await _find(connection, model)
        for table in TABLES:
            name = index_name(table, model)
            await connection.execute(sa.text(f"DROP INDEX CONCURRENTLY IF EXISTS public.{name}"))
            literal = sa.literal(model).compile(
                dialect=engine.dialect, compile_kwargs={"literal_binds": True}
            )
            await connection.exec_driver_sql(
                f"CREATE INDEX CONCURRENTLY {name} ON public.{table} USING hnsw"
                f" ((embedding::halfvec({found.dimensions})) halfvec_cosine_ops)"
                f" WHERE model_id = {literal}"
            )


def index_name(table: str, model: str) -> str:
    """The name of a model's index, which the functions of searches look for."""
    return f"{table}_hnsw_{hashlib.md5(model.encode(), usedforsecurity=False).hexdigest()[:12]}"


async def _lock(connection: AsyncConnection) -> None:
    await connection.execute(
        sa.text("SELECT pg_advisory_xact_lock(hashtextextended('embedding models', 7))")
    )


async def _models(connection: AsyncConnection) -> list[ModelReport]:
    return [ModelReport(*row) for row in await connection.execute(_REPORT)]


async def _find(connection: AsyncConnection, model: str) -> ModelReport:
    for one in await _models(connection):
        if one.id == model:
            return one
    raise EmbeddingModelError(f"There is no embedding model {model}.")
