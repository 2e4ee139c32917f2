"""Cutting texts into pieces short enough to embed, at the ends of sections and sentences.

A piece is told by its place: `text[start:end]` is the piece, to the character.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from semantic_text_splitter import MarkdownSplitter, TextSplitter

LONGEST_CHARS = 1_000
"""The longest piece: some 250 tokens of English, or of Chinese 1,000. A model that takes fewer
refuses it, and its job says so."""
WINDOW_CHARS = 8_000
"""What the splitter sees at once: the time it takes for a text without spaces grows with the square
of its length (94 s for 3 MB)."""
BYTES_PER_TOKEN = 4
INLINE_CHARS = 20_000
"""Longer texts are cut beside the event loop; the splitter lets other threads run."""

_ENDS = ("\n\n", "\n", ". ", " ")


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a text, from its first character to the one after its last."""

    start: int
    end: int
    token_count: int


async def split(text: str) -> list[Span]:
    """The pieces of a text in their order; together they hold all but white space of it."""
    if len(text) <= INLINE_CHARS:
        return spans(text)
    return await asyncio.to_thread(spans, text)


def spans(text: str) -> list[Span]:
    """`split`, for whoever may take the time."""
    splitter = _splitter(markdown=_is_markdown(text))
    found = []
    for offset, window in _windows(text):
        for start, piece in splitter.chunk_indices(window):
            first = offset + start
            found.append(Span(first, first + len(piece), tokens(piece)))
    return found


def tokens(text: str) -> int:
    """About how many tokens a text has: one for four bytes of UTF-8, whatever the model.

    That is what English has on average; in other languages it errs to either side.
    """
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


@cache
def _splitter(*, markdown: bool) -> MarkdownSplitter | TextSplitter:
    kind = MarkdownSplitter if markdown else TextSplitter
    return kind(LONGEST_CHARS)


def _is_markdown(text: str) -> bool:
    """Whether there is a heading or a fence, by which a section is kept together."""
    return text.startswith(("# ", "## ", "```")) or "\n# " in text or "\n## " in text


def _windows(text: str) -> Iterator[tuple[int, str]]:
    """Stretches that the splitter can take, with where they begin; cut where a reader pauses."""
    start = 0
    while len(text) - start > WINDOW_CHARS:
        end = start + WINDOW_CHARS
        for mark in _ENDS:
            found = text.rfind(mark, start + WINDOW_CHARS // 2, end)
            if found >= 0:
                end = found + len(mark)
                break
        yield start, text[start:end]
        start = end
    yield start, text[start:]
