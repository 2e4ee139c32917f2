"""Literals of a document that nothing behind it could hold.

GraphQL's syntax lets through what PostgreSQL cannot store (the character U+0000), what JSON cannot
say (numbers beyond a double) and what Python refuses to read (integers of thousands of digits).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import isinf

from graphql import (
    DocumentNode,
    FloatValueNode,
    GraphQLError,
    IntValueNode,
    Node,
    StringValueNode,
)

__all__ = ["bad_literals"]

# Most documents have nothing like these, and are not walked.
SUSPICIOUS = re.compile(r"\\u|\0|\d{19}|\d[eE]\+?\d{3}")
MAX_INT = 2**64 - 1
MIN_INT = -(2**63)
MAX_DIGITS = 20


def bad_literals(text: str, document: DocumentNode) -> list[GraphQLError]:
    """An error for every such literal of a parsed document."""
    if SUSPICIOUS.search(text) is None:
        return []
    return [
        GraphQLError(message, node, extensions={"code": "BAD_USER_INPUT"})
        for node in nodes_of(document)
        if (message := complaint(node)) is not None
    ]


def complaint(node: Node) -> str | None:
    if isinstance(node, StringValueNode):
        return "Text must not hold the character U+0000." if "\0" in node.value else None
    if isinstance(node, IntValueNode):
        digits = node.value.lstrip("-")
        if len(digits) > MAX_DIGITS or not MIN_INT <= int(node.value) <= MAX_INT:
            return "An integer must fit 64 bits."
    elif isinstance(node, FloatValueNode) and isinf(float(node.value)):
        return "A number must fit a double."
    return None


def nodes_of(root: Node) -> Iterator[Node]:
    """All nodes of a document, however deep."""
    todo: list[Node] = [root]
    while todo:
        node = todo.pop()
        yield node
        for key in node.keys:
            value = getattr(node, key, None)
            if isinstance(value, Node):
                todo.append(value)
            elif isinstance(value, (list, tuple)):
                todo.extend(item for item in value if isinstance(item, Node))
