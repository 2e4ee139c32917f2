"""Calls of tools, put together from their pieces.

The pieces of one call have the same index. But some providers give all calls the index 0, or none:
there a piece with another id and a name begins another call. (An id without a name does not: there
are providers that make up a new id for each piece.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from server.replies.provider import ProviderError, ToolCall

MAX_CALLS = 100
MAX_TOOL_CHARS = 40_000
"""Of the arguments of one call: as JSON they must fit into a message's part."""


@dataclass
class Call:
    """A call as far as it is known."""

    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    chars: int = 0


class Calls:
    """The calls of one reply."""

    def __init__(self) -> None:
        self._at: dict[int, list[Call]] = {}
        self._count = 0

    def __iter__(self) -> Iterator[Call]:
        """By index, and of one index as they began."""
        for _, calls in sorted(self._at.items()):
            yield from calls

    def take(self, piece: ToolCall) -> None:
        """Add a piece to its call. Raises ProviderError when it becomes too much."""
        call = self._of(piece)
        # Some providers repeat the id and the name with each piece.
        call.id = call.id or piece.id
        call.name = call.name or piece.name
        call.arguments.append(piece.arguments)
        call.chars += len(piece.arguments)
        if self._count > MAX_CALLS or call.chars > MAX_TOOL_CHARS:
            raise ProviderError("too_long", "The model calls too many tools, or too long.")

    def _of(self, piece: ToolCall) -> Call:
        calls = self._at.setdefault(piece.index, [])
        if piece.id:
            for known in calls:
                if known.id == piece.id:
                    return known
        if not calls or (piece.id and piece.name and calls[-1].id):
            calls.append(Call())
            self._count += 1
        return calls[-1]
