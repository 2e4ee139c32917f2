"""What a model is to read: the branch of a message, as far back as a budget reaches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from db.models.conversations import Message, MessagePart, MessageRole
from db.scope import predicate, readable
from db.session import Session

MESSAGES = Message.__table__
PARTS = MessagePart.__table__

MAX_MESSAGES = 1_000
"""How many messages a model is sent at most."""


@dataclass(frozen=True)
class Said:
    """A message of the branch."""

    id: UUID
    role: str
    content: str
    parts: Sequence[Mapping[str, Any]]
    """Its parts in their order: type, text, data and tool_call_id."""


async def branch_of(session: Session, leaf_id: UUID, most_chars: int) -> list[Said]:
    """The messages up to a leaf, the first one first.

    Those of the system all, the newest of the others until together they have `most_chars`, and in
    any case the leaf.
    """
    rows = await session.execute(_BRANCH, {"leaf_id": leaf_id, "most_chars": most_chars})
    kept = sorted(rows[:MAX_MESSAGES], key=lambda row: row.depth)
    parts = await _parts_of(session, [row.id for row in kept])
    return [Said(row.id, row.role, row.content, parts.get(row.id, ())) for row in kept]


async def _parts_of(session: Session, ids: Sequence[UUID]) -> dict[UUID, list[Mapping[str, Any]]]:
    names = ("message_id", "type", "text", "data", "tool_call_id")
    statement = readable(PARTS, *(PARTS.c[name] for name in names))
    rows = await session.execute(
        statement.where(PARTS.c.message_id.in_(ids)).order_by(PARTS.c.message_id, PARTS.c.position)
    )
    found: dict[UUID, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row.message_id, []).append(row._asdict())
    return found


def _branch_statement() -> sa.Select[*tuple[Any, ...]]:
    leaf, above = MESSAGES.alias("leaf"), MESSAGES.alias("above")

    def shown(message: sa.FromClause) -> list[sa.ColumnElement[Any]]:
        length = sa.func.char_length(message.c.content).label("length")
        return [message.c.id, message.c.parent_id, message.c.depth, message.c.role, length]

    walk = (
        readable(leaf, *shown(leaf))
        .where(leaf.c.id == sa.bindparam("leaf_id", type_=sa.Uuid()))
        .cte("walk", recursive=True)
    )
    walk = walk.union_all(
        readable(above, *shown(above)).select_from(walk.join(above, above.c.id == walk.c.parent_id))
    )
    is_system = walk.c.role == MessageRole.SYSTEM.value
    counted = sa.select(
        walk.c.id,
        walk.c.depth,
        is_system.label("is_system"),
        sa.func.sum(sa.case((is_system, 0), else_=walk.c.length))
        .over(order_by=walk.c.depth.desc())
        .label("so_far"),
        sa.func.max(walk.c.depth).over().label("deepest"),
    ).subquery("counted")
    within = counted.c.so_far <= sa.bindparam("most_chars", type_=sa.Integer())
    is_leaf = counted.c.depth == counted.c.deepest
    return (
        sa.select(MESSAGES.c.id, MESSAGES.c.role, MESSAGES.c.content, MESSAGES.c.depth)
        .select_from(counted.join(MESSAGES, MESSAGES.c.id == counted.c.id))
        .where(predicate(MESSAGES), sa.or_(counted.c.is_system, is_leaf, within))
        .order_by(counted.c.is_system.desc(), MESSAGES.c.depth.desc())
        .limit(MAX_MESSAGES)
    )


_BRANCH = _branch_statement()
