"""Branches of a conversation: the messages from a leaf up to its root, read as a connection.

A branch is walked upwards, parent by parent, for a whole level of conversations in one statement.
It ends at the root, or below a deleted message, so its depths have no holes: how far a page reaches
is known before the walk, and the last page of a long conversation costs what a short one does.
"""

from collections.abc import Callable
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    FromClause,
    Integer,
    bindparam,
    cast,
    func,
    select,
)

from db import scope
from db.models.conversations import Message
from schema.pages import PageShape
from schema.relation_fields import PageField, Relation, RowArgument

Start = Callable[[FromClause, ColumnElement[Any]], ColumnElement[bool]]

_LIMIT = cast(bindparam("limit", type_=Integer), BigInteger)
"""The rows that a page reads: one more than it shows."""


def branch(*, key: str, start: Start, description: str, argument: RowArgument | None = None) -> Any:
    """The messages from a leaf up to its root; `start` says which message is the leaf of a key."""
    return PageField(_Branch(key, start, argument), description)


class _Branch(Relation):
    even = False  # how far a walk goes is in its arguments

    def __init__(self, key: str, start: Start, argument: RowArgument | None) -> None:
        super().__init__(
            Message,
            key=key,
            match=lambda target, value: _on_branch(target, start, value, None),
            default_order=("depth",),
            argument=argument,
        )
        self._start = start

    def matching(
        self, target: FromClause, key: ColumnElement[Any], shape: PageShape, *, page: bool
    ) -> ColumnElement[bool]:
        return _on_branch(target, self._start, key, shape if page else None)


def _on_branch(
    target: FromClause, start: Start, key: ColumnElement[Any], page: PageShape | None
) -> ColumnElement[bool]:
    messages = Message.__table__
    leaf, above = messages.alias(), messages.alias()
    floor = _floor(page, leaf.c.depth) if page else None
    if floor is None:
        floor = cast(0, BigInteger)
    walk = (
        scope.readable(leaf, leaf.c.id, leaf.c.parent_id, leaf.c.depth, floor.label("floor"))
        .where(start(leaf, key))
        .correlate_except(leaf)
        .cte(recursive=True, nesting=True)
    )
    parents = walk.join(above, above.c.id == walk.c.parent_id)
    walk = walk.union_all(
        scope.readable(above, above.c.id, above.c.parent_id, above.c.depth, walk.c.floor)
        .select_from(parents)
        .where(walk.c.depth > walk.c.floor)
    )
    found = select(walk.c.id)
    lowest = select(func.min(walk.c.depth)).scalar_subquery()
    ceiling = _ceiling(page, lowest) if page else None
    return target.c.id.in_(found if ceiling is None else found.where(walk.c.depth <= ceiling))


def _by_depth(page: PageShape) -> bool:
    return page.order[0].column == "depth"


def _depth_of(page: PageShape, *, upper: bool) -> ColumnElement[Any] | None:
    """The depth in the cursor that bounds a page from above or from below, if it has one."""
    ends = [("b0", page.before), ("a0", page.after)]
    name, given = ends[0] if upper != page.order[0].descending else ends[1]
    return cast(bindparam(name, type_=Integer), BigInteger) if given else None


def _floor(page: PageShape, leaf_depth: ColumnElement[Any]) -> ColumnElement[Any] | None:
    """The least depth that a page's rows can have; None when it is that of the root."""
    if not _by_depth(page):
        return None
    lower, upper = _depth_of(page, upper=False), _depth_of(page, upper=True)
    falling = page.order[0].descending != page.backward
    if not falling or page.clause is not None:
        return lower
    highest = leaf_depth if upper is None else func.least(leaf_depth, upper)
    reached = highest - _LIMIT
    return reached if lower is None else func.greatest(lower, reached)


def _ceiling(page: PageShape, lowest: ColumnElement[Any]) -> ColumnElement[Any] | None:
    """The greatest depth that a page's rows can have, when `lowest` is the least one reached."""
    if not _by_depth(page):
        return None
    upper = _depth_of(page, upper=True)
    falling = page.order[0].descending != page.backward
    if falling or page.clause is not None:
        return upper
    reached = lowest + _LIMIT
    return reached if upper is None else func.least(upper, reached)
