"""Every table, by domain. Importing this package fills `metadata`."""

from db.base import metadata
from db.models import accounts, conversations, journal, knowledge, knowledge_search, work

__all__ = [
    "accounts",
    "conversations",
    "journal",
    "knowledge",
    "knowledge_search",
    "metadata",
    "work",
]
