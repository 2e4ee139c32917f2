"""Every table, by domain. Importing this package fills `metadata`."""

from db.base import metadata
from db.models import (
    accounts,
    conversations,
    conversations_generations,
    journal,
    knowledge,
    knowledge_search,
    work,
)

__all__ = [
    "accounts",
    "conversations",
    "conversations_generations",
    "journal",
    "knowledge",
    "knowledge_search",
    "metadata",
    "work",
]
