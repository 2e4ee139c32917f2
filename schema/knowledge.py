"""Documents and their chunks, as GraphQL shows them."""

from strawberry import auto

from db.models import knowledge, knowledge_search
from db.repositories.knowledge_search import embedded_by_current_model
from schema.knowledge_embedding import EmbeddingJob
from schema.mirror import mirror
from schema.node import Node
from schema.pages import Connection
from schema.relations import first, many, one, root, root_row


@mirror(
    knowledge.Document,
    private={"content_sha256", "search"},
    order_by=("updated_at",),
    default_order=("-updated_at",),
)
class Document(Node):
    title: auto
    kind: auto
    content: auto
    source_uri: auto
    mime_type: auto
    author: auto
    metadata: auto
    status: auto
    revision: auto
    version: auto
    created_at: auto
    updated_at: auto
    deleted_at: auto
    chunks: Connection["Chunk"] = many(knowledge.Chunk.document_id)
    embedding: "EmbeddingJob" = first(
        knowledge_search.EmbeddingJob,
        key="id",
        match=embedded_by_current_model,
        description=(
            "How far its embedding has come, by the model that the caller's searches use; null"
            " while there is none."
        ),
    )


@mirror(knowledge.Chunk, private={"content_sha256", "search"}, default_order=("position",))
class Chunk(Node):
    revision: auto
    position: auto
    start: auto
    end: auto
    token_count: auto
    content: auto
    created_at: auto
    deleted_at: auto
    document: Document = one(knowledge.Chunk.document_id)


class KnowledgeQuery:
    document: Document = root_row(knowledge.Document, description="The document with this id.")
    documents: Connection[Document] = root(
        knowledge.Document, description="The caller's documents, last changed first."
    )
