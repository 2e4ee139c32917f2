"""Documents and their chunks, as GraphQL shows them."""

from strawberry import auto

from db.models import knowledge
from schema.mirror import mirror
from schema.node import Node
from schema.pages import Connection
from schema.relations import many, one, root, root_row


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
