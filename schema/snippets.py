"""Snippets: the part of a text where a query's words stand, with their places."""

from dataclasses import dataclass

import strawberry

from db.repositories.knowledge_search import CLOSE, OPEN

SNIPPET_CHARS = 240


@strawberry.type(description="A stretch of a snippet.")
class SnippetFragment:
    text: str = strawberry.field(description="The text. It is plain: nothing in it is markup.")
    marked: bool = strawberry.field(description="Whether it is a word of the query.")


@strawberry.type(
    description=("A part of a text that shows why it was found. Offsets count Unicode code points.")
)
class Snippet:
    text: str = strawberry.field(description="The part, as it stands in the text.")
    start: int = strawberry.field(
        description="Its first character in the whole text: the document's or the message's."
    )
    end: int = strawberry.field(description="The character after its last.")
    fragments: list[SnippetFragment] = strawberry.field(
        description="The part again, cut where words of the query begin and end."
    )


@dataclass(frozen=True)
class Mark:
    """A word of the query, by its place in a text."""

    start: int
    end: int


def marks(content: str, marked: str) -> list[Mark]:
    """The places that are marked in a text; none when the marked text is not the same text."""
    found: list[Mark] = []
    position = 0
    start: int | None = None
    for character in marked:
        if character == OPEN:
            start = position
        elif character == CLOSE:
            if start is not None and position > start:
                found.append(Mark(start, position))
            start = None
        else:
            position += 1
    plain = marked.replace(OPEN, "").replace(CLOSE, "")
    table = str.maketrans({OPEN: " ", CLOSE: " "})
    return found if plain == content.translate(table) else []


def snippet(
    content: str, found: list[Mark], offset: int = 0, near: tuple[int, int] | None = None
) -> Snippet:
    """The part of a text with the most marks; without any, its beginning, or that of `near`.

    `offset` is where the text begins in the whole one.
    """
    start, end = _window(content, found, near)
    inside = [mark for mark in found if start <= mark.start and mark.end <= end]
    fragments: list[SnippetFragment] = []
    position = start
    for mark in inside:
        if mark.start > position:
            fragments.append(SnippetFragment(text=content[position : mark.start], marked=False))
        fragments.append(SnippetFragment(text=content[mark.start : mark.end], marked=True))
        position = mark.end
    if position < end:
        fragments.append(SnippetFragment(text=content[position:end], marked=False))
    return Snippet(
        text=content[start:end], start=offset + start, end=offset + end, fragments=fragments
    )


def _window(content: str, found: list[Mark], near: tuple[int, int] | None) -> tuple[int, int]:
    """Where the snippet begins and ends, at words where there are any."""
    if found:
        best = max(found, key=lambda first: (_covered(found, first), -first.start))
        last = max(mark.end for mark in found if best.start <= mark.start and _fits(best, mark))
        spare = max(0, SNIPPET_CHARS - (last - best.start))
        start = max(0, best.start - spare // 2)
        least, most = best.start, max(last, start + SNIPPET_CHARS)
    else:
        start = near[0] if near is not None and near[0] < len(content) else 0
        least, most = len(content), start + SNIPPET_CHARS
    end = min(len(content), most)
    if 0 < start < least and not content[start - 1].isspace():
        gap = next((n for n in range(start, least) if content[n].isspace()), start)
        start = gap
    if end < len(content) and not content[end].isspace():
        floor = max((mark.end for mark in found if mark.end <= end), default=start)
        end = next((n for n in range(end, floor, -1) if content[n].isspace()), end)
    while start < end and content[start].isspace():
        start += 1
    while end > start and content[end - 1].isspace():
        end -= 1
    return start, end


def _fits(first: Mark, mark: Mark) -> bool:
    return mark.end - first.start <= SNIPPET_CHARS or mark is first


def _covered(found: list[Mark], first: Mark) -> int:
    """How many marks a snippet that begins at one of them holds."""
    return sum(1 for mark in found if mark.start >= first.start and _fits(first, mark))
