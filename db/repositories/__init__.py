"""Writes and special reads of each domain, on a session; they know nothing of GraphQL."""
