"""Tasks below tasks: reading a tree, and keeping it one.

A task's parent is in its project, so whoever changes what is above or below holds the lock of the
project. It is an advisory lock: claims and edits of the project's tasks go on meanwhile.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, array

from db.changes import IDS, Record
from db.models.work import Task
from db.scope import readable
from db.session import Session

TASKS = Task.__table__

MAX_DEPTH = 50
"""Levels below the root that one read of a tree goes down."""
MAX_NODES = 1_000
"""Tasks that one read of a tree gives."""


async def lock_projects(session: Session, ids: Iterable[UUID]) -> None:
    """Be the only one to change the trees of these projects until the transaction ends."""
    await lock_keys(session, ids)


async def lock_keys(session: Session, ids: Iterable[UUID]) -> None:
    """Take the advisory locks of rows, always in one order."""
    # The last 64 bits of a UUIDv7 are random. Two rows with the same only wait for each other.
    keys = sorted({int.from_bytes(id.bytes[8:], signed=True) for id in ids})
    if keys:
        await session.execute(_LOCKS, {"keys": keys})


_KEYS = sa.func.unnest(sa.bindparam("keys", type_=ARRAY(sa.BigInteger()))).column_valued("key")
_LOCKS = sa.select(sa.func.pg_advisory_xact_lock(_KEYS))


def tree(columns: Sequence[str]) -> sa.Select[*tuple[Any, ...]]:
    """The live tasks from `root` down to `max_depth` levels below it, in the order of the tree.

    A task comes before its subtasks, siblings in the order of their numbers. Of more than
    `MAX_NODES` tasks the upper levels come, so that the parent of each is there.
    """
    return _tree(tuple(columns))


@lru_cache
def _tree(columns: tuple[str, ...]) -> sa.Select[*tuple[Any, ...]]:
    depth = sa.literal_column("0", sa.Integer()).label("depth")
    top = readable(TASKS, TASKS.c.id, depth, array([TASKS.c.number]).label("place"))
    above = top.where(TASKS.c.id == sa.bindparam("root", type_=sa.Uuid())).cte("nodes", True)
    below = TASKS.alias("below")
    place = above.c.place.op("||")(below.c.number)
    nodes = above.union_all(
        readable(below, below.c.id, above.c.depth + 1, place)
        .join(above, below.c.parent_id == above.c.id)
        .where(above.c.depth < sa.bindparam("max_depth", type_=sa.Integer()))
    )
    ordered = sa.select(nodes.c.id, nodes.c.place).order_by(nodes.c.depth, nodes.c.place)
    kept = ordered.limit(MAX_NODES).subquery("kept")
    return (
        readable(TASKS, *(TASKS.c[name] for name in columns))
        .join(kept, kept.c.id == TASKS.c.id)
        .order_by(kept.c.place)
    )


async def ancestry(session: Session, ids: Iterable[UUID]) -> dict[UUID, Record]:
    """These tasks and all above them that are alive, by id: `id`, `parent_id`, `project_id`."""
    wanted = list(dict.fromkeys(ids))
    if not wanted:
        return {}
    return {row.id: row for row in await session.execute(_ANCESTRY, {"ids": wanted})}


def _ancestry() -> sa.Select[*tuple[Any, ...]]:
    columns = (TASKS.c.id, TASKS.c.parent_id, TASKS.c.project_id)
    start = readable(TASKS, *columns).where(TASKS.c.id == sa.any_(IDS)).cte("line", True)
    above = TASKS.alias("above")
    line = start.union(
        readable(above, above.c.id, above.c.parent_id, above.c.project_id).join(
            start, above.c.id == start.c.parent_id
        )
    )
    return sa.select(*line.c)


_ANCESTRY = _ancestry()


def on_cycles(parents: Mapping[UUID, UUID | None]) -> set[UUID]:
    """The tasks that are above themselves, when these are the parents of tasks."""
    found: set[UUID] = set()
    walked: set[UUID] = set()
    for start in parents:
        path: dict[UUID, None] = {}
        at: UUID | None = start
        while at is not None and at not in walked and at not in path:
            path[at] = None
            at = parents.get(at)
        if at is not None and at in path:
            steps = list(path)
            found.update(steps[steps.index(at) :])
        walked.update(path)
    return found
