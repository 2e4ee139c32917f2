"""Embeddings: texts are cut and embedded in the background, queries as they are asked."""

from server.embedding.service import EmbeddingOptions, Embeddings

__all__ = ["EmbeddingOptions", "Embeddings"]
