"""Searches: what the functions of the database find for the session's owner.

They run as the owner of the tables and compare the owner themselves, so that full-text and vector
indexes serve. Filters, and all that is shown of what was found, are read as usual.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from pgvector.sqlalchemy import HALFVEC
from sqlalchemy import ColumnElement, FromClause
from sqlalchemy.dialects.postgresql import ARRAY, TSQUERY

from db.fusion import fuse
from db.models.conversations import Message
from db.models.knowledge import Chunk, Document
from db.scope import readable
from db.session import Session

DOCUMENTS = Document.__table__
CHUNKS = Chunk.__table__
MESSAGES = Message.__table__

MARKED_CHARS = 50_000
"""How far into a message words are marked."""
OPEN, CLOSE = "\ue000", "\ue001"
"""What stands around a word in a marked text: characters that mean nothing by themselves."""

Narrow = Callable[[FromClause], ColumnElement[bool]]
"""Which documents or messages, by its own parameters."""


@dataclass(frozen=True)
class Understood:
    """A query as PostgreSQL reads it, and the model of the owner's searches."""

    has_words: bool
    """Whether there is a word to look for: not only words to leave out."""
    model: str | None
    dimensions: int | None


@dataclass(frozen=True)
class Legs:
    """How to look: by which of the two, and what each of them counts."""

    text: bool
    model: str | None
    """None looks by words alone."""
    vector: Sequence[float] = ()
    text_weight: float = 1.0
    vector_weight: float = 1.0
    k: float = 60
    window: int = 100
    """How many of the best of each leg are fused."""


@dataclass
class Place:
    """Where something stands in one leg."""

    rank: int
    value: float
    """The score by words; the distance by vectors."""


@dataclass
class Passage:
    """A chunk by which a document was found."""

    chunk_id: UUID
    text_score: float | None = None
    distance: float | None = None


@dataclass
class Hit:
    """A document or a message that was found."""

    id: UUID
    score: float = 0.0
    text: Place | None = None
    vector: Place | None = None
    passages: list[Passage] = field(default_factory=list)
    """Of a document: the best chunks of each leg, those of both first."""
    span: tuple[int, int] | None = None
    """Of a message: the stretch that is nearest to the query."""


_SAID = sa.bindparam("query", type_=sa.Text())
_QUERY = sa.func.websearch_to_tsquery(sa.literal_column("'simple'"), _SAID, type_=TSQUERY)


def embedded_by_current_model(target: FromClause, key: ColumnElement[Any]) -> ColumnElement[bool]:
    """The job of a document by the model that its owner's searches use."""
    current: ColumnElement[str] = sa.select(sa.func.engram_embedding_model()).scalar_subquery()
    return sa.and_(target.c.document_id == key, target.c.model_id == current)


async def understand(session: Session, query: str) -> Understood:
    """What a query asks for, and by which model."""
    statement = sa.text(
        """
        SELECT querytree(websearch_to_tsquery('simple', :query)) AS tree, m.id, m.dimensions
        FROM (SELECT engram_embedding_model() AS id) AS current
        LEFT JOIN embedding_models m ON m.id = current.id
        """
    )
    row = (await session.execute(statement, {"query": query}))[0]
    return Understood(row.tree not in ("", "T"), row.id, row.dimensions)


async def search_documents(
    session: Session,
    query: str,
    legs: Legs,
    narrow: Narrow | None = None,
    values: Mapping[str, object] | None = None,
) -> list[Hit]:
    """Documents by their chunks and titles, the best first; as many as the window has room for."""
    return await _documents(session, _DOCUMENTS, query, legs, narrow, values)


async def search_passages(
    session: Session, query: str, legs: Legs, narrow: Narrow | None = None
) -> list[Hit]:
    """Documents for a question: by what has some of its words, the rare ones above all."""
    return await _documents(session, _PASSAGES, query, legs, narrow, None)


async def _documents(
    session: Session,
    kind: _Kind,
    query: str,
    legs: Legs,
    narrow: Narrow | None,
    values: Mapping[str, object] | None,
) -> list[Hit]:
    statement = _search(kind, legs, narrow)
    hits: dict[UUID, Hit] = {}
    for row in await session.execute(statement, _parameters(query, legs, values)):
        hit = _placed(hits, row)
        if row.chunk_id is not None:
            passage = next((one for one in hit.passages if one.chunk_id == row.chunk_id), None)
            if passage is None:
                passage = Passage(row.chunk_id)
                hit.passages.append(passage)
            if row.leg == TEXT:
                passage.text_score = row.chunk_value
            else:
                passage.distance = row.chunk_value
    for hit in hits.values():
        hit.passages.sort(key=lambda one: one.text_score is None or one.distance is None)
    return _fused(hits, legs)


async def search_messages(
    session: Session,
    query: str,
    legs: Legs,
    narrow: Narrow | None = None,
    values: Mapping[str, object] | None = None,
) -> list[Hit]:
    """Messages, the best first; as many as the window has room for."""
    statement = _search(_MESSAGES, legs, narrow)
    hits: dict[UUID, Hit] = {}
    for row in await session.execute(statement, _parameters(query, legs, values)):
        hit = _placed(hits, row)
        if row.leg == VECTOR:
            hit.span = (row.start, row.end)
    return _fused(hits, legs)


async def marked_chunks(
    session: Session, query: str, ids: Sequence[UUID]
) -> dict[UUID, tuple[int, str, str]]:
    """Of chunks: where they begin, their text, and the text with the words of a query marked."""
    rows = await session.execute(_marked_chunks(), {"query": query, "ids": list(ids)})
    return {row.id: (row.start, row.content, row.marked) for row in rows}


async def marked_messages(
    session: Session, query: str, ids: Sequence[UUID]
) -> dict[UUID, tuple[str, str]]:
    """Of messages: the beginning of their text, and the same with the words of a query marked."""
    rows = await session.execute(_marked_messages(), {"query": query, "ids": list(ids)})
    return {row.id: (row.content, row.marked) for row in rows}


async def live_documents(session: Session, ids: Collection[UUID]) -> set[UUID]:
    """Those of some documents that there are."""
    statement = readable(DOCUMENTS, DOCUMENTS.c.id).where(DOCUMENTS.c.id == sa.any_(_IDS))
    return {row.id for row in await session.execute(statement, {"ids": list(ids)})}


async def held_documents(session: Session, ids: Collection[UUID]) -> set[UUID]:
    """Those of some documents that keep their chunks until the transaction ends.

    Not among them are those that somebody is changing now, or has just deleted.
    """
    statement = readable(DOCUMENTS, DOCUMENTS.c.id).where(DOCUMENTS.c.id == sa.any_(_IDS))
    held = statement.with_for_update(read=True, skip_locked=True)
    return {row.id for row in await session.execute(held, {"ids": list(ids)})}


async def chunk_places(session: Session, ids: Sequence[UUID]) -> dict[UUID, Any]:
    """Of chunks: their text, and where it begins and ends in the document."""
    if not ids:
        return {}
    columns = CHUNKS.c
    statement = readable(CHUNKS, columns.id, columns.content, columns.start, columns.end)
    rows = await session.execute(statement.where(columns.id == sa.any_(_IDS)), {"ids": list(ids)})
    return {row.id: row for row in rows}


# Building statements.

TEXT, VECTOR = "text", "vector"


@dataclass(frozen=True)
class _Kind:
    """What is searched: its table, and what the functions of its legs return."""

    table: sa.Table
    text: str
    vector: str
    columns: tuple[tuple[str, sa.types.TypeEngine[Any]], ...]
    """Beyond the id, the rank and the value; a leg without one has null."""
    in_text: tuple[str, ...]
    in_vector: tuple[str, ...]
    understood: bool = True
    """Whether the function of words is given a tsquery, or the text of the query."""


_DOCUMENTS = _Kind(
    DOCUMENTS,
    "engram_text_chunks",
    "engram_vector_chunks",
    (("chunk_id", sa.Uuid()), ("chunk_value", sa.Double())),
    ("chunk_id", "chunk_value"),
    ("chunk_id", "chunk_value"),
)
_PASSAGES = replace(_DOCUMENTS, text="engram_any_word_chunks", understood=False)
_MESSAGES = _Kind(
    MESSAGES,
    "engram_text_messages",
    "engram_vector_messages",
    (("start", sa.Integer()), ("end", sa.Integer())),
    (),
    ("start", "end"),
)
_SIZE = sa.bindparam("size", type_=sa.Integer())
_VECTOR = sa.cast(sa.bindparam("vector", type_=sa.Text()), HALFVEC())
_MODEL = sa.bindparam("model", type_=sa.Text())


def _search(kind: _Kind, legs: Legs, narrow: Narrow | None) -> sa.Executable:
    if narrow is None:
        return _everywhere(kind, legs.text, legs.model is not None)
    subquery = readable(kind.table, kind.table.c.id).where(narrow(kind.table)).scalar_subquery()
    # Worked out once for both legs, under the policies that bind whoever asks.
    allowed = sa.select(sa.func.array(subquery, type_=ARRAY(sa.Uuid())).label("ids")).cte("allowed")
    return _legs(kind, legs.text, legs.model is not None, sa.select(allowed.c.ids))


@lru_cache
def _everywhere(kind: _Kind, text: bool, vector: bool) -> sa.Executable:
    return _legs(kind, text, vector, sa.select(sa.cast(sa.null(), ARRAY(sa.Uuid()))))


def _legs(
    kind: _Kind, text: bool, vector: bool, allowed: sa.Select[*tuple[Any, ...]]
) -> sa.Executable:
    ids = allowed.scalar_subquery()
    parts = []
    if text:
        query = _QUERY if kind.understood else _SAID
        found = getattr(sa.func, kind.text)(query, ids, _SIZE)
        parts.append(_leg(TEXT, kind, found, kind.in_text))
    if vector:
        found = getattr(sa.func, kind.vector)(_MODEL, _VECTOR, ids, _SIZE)
        parts.append(_leg(VECTOR, kind, found, kind.in_vector))
    return parts[0] if len(parts) == 1 else sa.union_all(*parts)


def _leg(name: str, kind: _Kind, found: Any, given: tuple[str, ...]) -> sa.Select[*tuple[Any, ...]]:
    types = dict(kind.columns)
    returned = [
        sa.column("id", sa.Uuid()),
        sa.column("rank", sa.Integer()),
        sa.column("value", sa.Double()),
        *(sa.column(column, types[column]) for column in given),
    ]
    source = found.table_valued(*returned).render_derived(name=name)
    others: list[ColumnElement[Any]] = [
        source.c[column] if column in given else sa.cast(sa.null(), kind_).label(column)
        for column, kind_ in kind.columns
    ]
    leg: ColumnElement[str] = sa.literal_column(f"'{name}'", sa.Text()).label("leg")
    return sa.select(leg, source.c.id, source.c.rank, source.c.value, *others)


def _parameters(query: str, legs: Legs, values: Mapping[str, object] | None) -> dict[str, object]:
    parameters = {**(values or {}), "size": legs.window}
    if legs.text:
        parameters["query"] = query
    if legs.model is not None:
        vector = f"[{','.join(map(repr, legs.vector))}]"
        parameters |= {"model": legs.model, "vector": vector}
    return parameters


def _placed(hits: dict[UUID, Hit], row: Any) -> Hit:
    hit: Hit = hits.setdefault(row.id, Hit(row.id))
    place = Place(row.rank, row.value)
    if row.leg == TEXT:
        hit.text = place
    else:
        hit.vector = place
    return hit


def _fused(hits: Mapping[UUID, Hit], legs: Legs) -> list[Hit]:
    by_text = {hit.id: hit.text.rank for hit in hits.values() if hit.text is not None}
    by_vector = {hit.id: hit.vector.rank for hit in hits.values() if hit.vector is not None}
    scores = fuse([(legs.text_weight, by_text), (legs.vector_weight, by_vector)], legs.k)
    for id, score in scores.items():
        hits[id].score = score
    return sorted((hits[id] for id in scores), key=_order)


def _order(hit: Hit) -> tuple[float, float, UUID]:
    """The best first; of two with one score the one with the words, as they were asked for."""
    return -hit.score, math.inf if hit.text is None else hit.text.rank, hit.id


_OPTIONS = f"HighlightAll=true, StartSel={OPEN}, StopSel={CLOSE}"


def _marked(content: ColumnElement[str]) -> ColumnElement[str]:
    """A text with the words of the query between marks, each of which is one character."""
    plain: ColumnElement[str] = sa.func.translate(
        content, sa.literal(OPEN + CLOSE, sa.Text()), sa.literal("  ", sa.Text())
    )
    marked: ColumnElement[str] = sa.func.ts_headline(
        sa.literal_column("'simple'"), plain, _QUERY, sa.literal(_OPTIONS, sa.Text())
    )
    return marked


_IDS = sa.bindparam("ids", type_=ARRAY(sa.Uuid()))


@lru_cache
def _marked_chunks() -> sa.Select[*tuple[Any, ...]]:
    columns = CHUNKS.c
    marked = _marked(columns.content).label("marked")
    return readable(CHUNKS, columns.id, columns.start, columns.content, marked).where(
        columns.id == sa.any_(_IDS)
    )


@lru_cache
def _marked_messages() -> sa.Select[*tuple[Any, ...]]:
    content: ColumnElement[str] = sa.func.left(MESSAGES.c.content, MARKED_CHARS)
    marked = _marked(content).label("marked")
    return readable(MESSAGES, MESSAGES.c.id, content.label("content"), marked).where(
        MESSAGES.c.id == sa.any_(_IDS)
    )
