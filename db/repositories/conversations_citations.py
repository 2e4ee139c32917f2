"""Passages that are put before a model, and the citations that remember them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from uuid import UUID

from db.changes import insert
from db.models.conversations_generations import Citation
from db.scope import readable
from db.session import Session

CITATIONS = Citation.__table__


@dataclass(frozen=True)
class Passage:
    """A stretch of a document that may help with an answer."""

    document_id: UUID | None
    chunk_id: UUID | None
    quote: str
    start: int
    """The first character of it in the document, from 0."""
    end: int
    """The character after its last."""
    score: float
    """How well it matched what was asked."""


async def cite(session: Session, message_id: UUID, passages: Sequence[Passage]) -> None:
    """Store the passages of a message that has none, in their order."""
    rows = [
        {**asdict(passage), "message_id": message_id, "position": position}
        for position, passage in enumerate(passages)
    ]
    await insert(session, CITATIONS, rows)


async def passages_of(session: Session, message_id: UUID) -> list[Passage]:
    """The passages of a message, in their order."""
    names = Passage.__dataclass_fields__
    statement = readable(CITATIONS, *(CITATIONS.c[name] for name in names))
    rows = await session.execute(
        statement.where(CITATIONS.c.message_id == message_id).order_by(CITATIONS.c.position)
    )
    return [Passage(**row._mapping) for row in rows]
