"""Searches of documents and messages: by words, by meaning, or by both."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from uuid import UUID

import strawberry

from db.models import conversations, knowledge
from db.repositories import knowledge_search as repository
from db.repositories.knowledge_search import Hit, Passage
from schema.context import Info
from schema.conversations import Message
from schema.knowledge import Chunk, Document
from schema.meaning import SearchLimit
from schema.mirror import MIRRORS
from schema.pages import PageInfo
from schema.rows import Keys, Row
from schema.search_fields import Asked, Searched, SearchMode, search
from schema.snippets import Snippet, marks, snippet

T = TypeVar("T")


class _Once(Generic[T]):
    """Something that is read once for all hits of a page, when the first of them asks."""

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        self._read = read
        self._lock = asyncio.Lock()
        self._found: list[T] = []

    async def get(self) -> T:
        """What was read."""
        async with self._lock:
            if not self._found:
                self._found.append(await self._read())
        return self._found[0]


@dataclass(frozen=True)
class _Page:
    """What the hits of a page share."""

    keys: Keys
    chunks: Keys
    marked: _Once[dict[UUID, Any]]


async def _row(info: Info, model: type, keys: Keys, id: UUID) -> Row:
    loaders = info.context.loaders
    if loaders.names is None:
        loaders.names = info.context.field_names(info)
    return (await loaders.rows(MIRRORS[model], keys, deleted=False))[id]


@strawberry.type(description="A part of a document that a search has found.")
class SearchPassage:
    passage: strawberry.Private[Passage]
    page: strawberry.Private[_Page]

    @strawberry.field(description="The chunk.")
    async def chunk(self, info: Info) -> Chunk:
        return await _row(info, knowledge.Chunk, self.page.chunks, self.passage.chunk_id)  # type: ignore[return-value]  # a mirrored type's values are rows

    @strawberry.field(description="How well its words fit; null if they were not looked at.")
    def text_score(self) -> float | None:
        return self.passage.text_score

    @strawberry.field(
        description="The cosine of the angle to the query, 1 at most; null if it is not near."
    )
    def similarity(self) -> float | None:
        return _similarity(self.passage.distance)

    @strawberry.field(description="The part of it that shows why it was found.")
    async def snippet(self) -> Snippet:
        start, content, marked = (await self.page.marked.get())[self.passage.chunk_id]
        return snippet(content, marks(content, marked), start)


def _similarity(distance: float | None) -> float | None:
    return None if distance is None else 1 - distance


@strawberry.interface(description="Something that a search has found, and why it stands there.")
class SearchHit:
    hit: strawberry.Private[Hit]
    page: strawberry.Private[_Page]

    @strawberry.field(
        description=(
            "What hits are ordered by: weight / (k + rank), summed over the ways in which it was"
            " found (reciprocal rank fusion). It compares hits of one search alone."
        )
    )
    def score(self) -> float:
        return self.hit.score

    @strawberry.field(description="Its place among what was found by words, from 1; else null.")
    def text_rank(self) -> int | None:
        return None if self.hit.text is None else self.hit.text.rank

    @strawberry.field(description="How well its words fit (PostgreSQL's ts_rank_cd); else null.")
    def text_score(self) -> float | None:
        return None if self.hit.text is None else self.hit.text.value

    @strawberry.field(description="Its place among what was found by meaning, from 1; else null.")
    def vector_rank(self) -> int | None:
        return None if self.hit.vector is None else self.hit.vector.rank

    @strawberry.field(
        description="The cosine of the angle between it and the query, 1 at most; else null."
    )
    def similarity(self) -> float | None:
        return None if self.hit.vector is None else _similarity(self.hit.vector.value)


@strawberry.type(description="A document that a search has found.")
class DocumentHit(SearchHit):
    @strawberry.field(description="The document.")
    async def document(self, info: Info) -> Document:
        return await _row(info, knowledge.Document, self.page.keys, self.hit.id)  # type: ignore[return-value]  # a mirrored type's values are rows

    @strawberry.field(
        description=(
            "The parts of it that were found, at most three by words and three by meaning; those"
            " found both ways come first. Empty if only its title was."
        )
    )
    def passages(self) -> list[SearchPassage]:
        return [SearchPassage(passage=one, page=self.page) for one in self.hit.passages]


@strawberry.type(description="A message that a search has found.")
class MessageHit(SearchHit):
    @strawberry.field(description="The message.")
    async def message(self, info: Info) -> Message:
        return await _row(info, conversations.Message, self.page.keys, self.hit.id)  # type: ignore[return-value]  # a mirrored type's values are rows

    @strawberry.field(description="The part of it that shows why it was found.")
    async def snippet(self) -> Snippet:
        content, marked = (await self.page.marked.get())[self.hit.id]
        return snippet(content, marks(content, marked), near=self.hit.span)


@strawberry.type(description="One document in the hits of a search.")
class DocumentHitEdge:
    cursor: str = strawberry.field(description="Where it stands, for `after`.")
    node: DocumentHit = strawberry.field(description="The hit itself.")


@strawberry.type(description="One message in the hits of a search.")
class MessageHitEdge:
    cursor: str = strawberry.field(description="Where it stands, for `after`.")
    node: MessageHit = strawberry.field(description="The hit itself.")


@strawberry.interface(description="A page of hits, and how they were looked for.")
class SearchConnection:
    page_info: PageInfo = strawberry.field(description="Where this page stands.")
    total_count: int = strawberry.field(
        description="How many hits there are on all pages, which is bounded by `window`."
    )
    mode: SearchMode = strawberry.field(description="How it was looked for in the end.")
    limited_by: SearchLimit | None = strawberry.field(
        description="Why it was by words alone although more was asked for; else null."
    )
    notice: str | None = strawberry.field(description="The same in words, for people.")
    model_id: str | None = strawberry.field(
        description="The embedding model of the search; null if it was by words alone."
    )


@strawberry.type(description="A page of documents that a search has found.")
class DocumentHitConnection(SearchConnection):
    edges: list[DocumentHitEdge] = strawberry.field(description="The hits with their cursors.")
    nodes: list[DocumentHit] = strawberry.field(description="The hits.")


@strawberry.type(description="A page of messages that a search has found.")
class MessageHitConnection(SearchConnection):
    edges: list[MessageHitEdge] = strawberry.field(description="The hits with their cursors.")
    nodes: list[MessageHit] = strawberry.field(description="The hits.")


def _common(found: Searched) -> dict[str, Any]:
    return {
        "page_info": PageInfo(
            has_next_page=found.more,
            has_previous_page=found.continued,
            start_cursor=found.cursors[0] if found.cursors else None,
            end_cursor=found.cursors[-1] if found.cursors else None,
        ),
        "total_count": found.total,
        "mode": found.mode,
        "limited_by": found.limited_by,
        "notice": found.notice,
        "model_id": found.model,
    }


async def _documents(info: Info, asked: Asked) -> DocumentHitConnection:
    found = await asked.search(info, repository.search_documents)
    session = info.context.session
    chunks = [one.chunk_id for hit in found.hits for one in hit.passages]

    async def marked() -> dict[UUID, Any]:
        return dict(await repository.marked_chunks(session, asked.query, chunks))

    page = _Page(Keys(hit.id for hit in found.hits), Keys(chunks), _Once(marked))
    hits = [DocumentHit(hit=hit, page=page) for hit in found.hits]
    edges = [
        DocumentHitEdge(cursor=cursor, node=hit)
        for cursor, hit in zip(found.cursors, hits, strict=True)
    ]
    return DocumentHitConnection(edges=edges, nodes=hits, **_common(found))


async def _messages(info: Info, asked: Asked) -> MessageHitConnection:
    found = await asked.search(info, repository.search_messages)
    session = info.context.session
    ids = [hit.id for hit in found.hits]

    async def marked() -> dict[UUID, Any]:
        return dict(await repository.marked_messages(session, asked.query, ids))

    page = _Page(Keys(ids), Keys(()), _Once(marked))
    hits = [MessageHit(hit=hit, page=page) for hit in found.hits]
    edges = [
        MessageHitEdge(cursor=cursor, node=hit)
        for cursor, hit in zip(found.cursors, hits, strict=True)
    ]
    return MessageHitConnection(edges=edges, nodes=hits, **_common(found))


class SearchQuery:
    search_documents: DocumentHitConnection = search(
        knowledge.Document,
        DocumentHitConnection,
        _documents,
        description="The caller's documents that fit a query best, by their text and their title.",
    )
    search_messages: MessageHitConnection = search(
        conversations.Message,
        MessageHitConnection,
        _messages,
        description="The caller's messages that fit a query best, in all conversations.",
    )
