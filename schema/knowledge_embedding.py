"""How far embeddings have come, as GraphQL shows it."""

from strawberry import auto

from db.models import knowledge_search
from schema.mirror import mirror
from schema.node import Node


@mirror(
    knowledge_search.EmbeddingJob,
    private={"document_id", "message_id", "claimed_until", "epoch"},
    default_order=("created_at",),
)
class EmbeddingJob(Node):
    model_id: auto
    status: auto
    chunk_count: auto
    embedded_count: auto
    attempts: auto
    run_after: auto
    error: auto
    created_at: auto
    updated_at: auto
