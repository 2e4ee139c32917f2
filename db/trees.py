"""Deleting and restoring whole trees, as set operations.

A delete marks a row and all it owns with one deletion id; what was deleted before keeps its own.
A restore brings back exactly the rows with that id. Ownership is read from the foreign keys: those
that cascade, between tables whose rows can be marked.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy import CTE, ColumnElement, ForeignKeyConstraint, Table

from db.announcements import Operation
from db.changes import Record, update_one
from db.recording import author_parameters, raised, recorded_update, shown
from db.refusals import Missing, Stale, invalid
from db.scope import owner_column, predicate, readable
from db.session import Session

MARKS = ("deleted_at", "deletion_id")
ROOT = sa.bindparam("root", type_=sa.Uuid())
DELETION = sa.bindparam("deletion_id", type_=sa.Uuid())


async def delete_tree(
    session: Session, table: Table, identifier: UUID, expected_version: int | None = None
) -> Record:
    """Mark a row and all it owns as deleted; returns the row. Raises Missing and Stale.

    The root is locked first: a writer of children that locks it as well comes before or after.
    """
    deletion_id = uuid4()
    marks = {"deleted_at": sa.func.now(), "deletion_id": deletion_id}
    root = await update_one(
        session, table, identifier, marks, expected_version=expected_version, action="delete"
    )
    statements = _deletion(table)
    if statements is not None:
        parameters = {"root": identifier, "deletion_id": deletion_id}
        rows = await session.execute(statements, author_parameters(session, "delete") | parameters)
        _announce(session, rows, "delete")
    return root


async def restore_tree(
    session: Session, table: Table, identifier: UUID, expected_version: int | None = None
) -> Record:
    """Bring back what one delete took, by its root; a live row is returned as it is.

    Raises Missing, Stale, and Invalid when the row belongs to one that is still deleted.
    """
    entity = table.info["entity"]
    rows = await session.execute(
        readable(table, *shown(table), deleted=None)
        .where(table.c.id == ROOT)
        .with_for_update(key_share=True),
        {"root": identifier},
    )
    if not rows:
        raise Missing(entity)
    root = rows[0]
    if expected_version is not None and root.version != expected_version:
        raise Stale(entity, root._asdict())
    if root.deletion_id is None:
        return root
    await _require_live_owners(session, table, root)
    parameters = {"root": identifier, "deletion_id": root.deletion_id}
    restored = await session.execute(
        _restoration(table), author_parameters(session, "restore") | parameters
    )
    _announce(session, restored, "restore")
    current = readable(table, *shown(table)).where(table.c.id == ROOT)
    return (await session.execute(current, {"root": identifier}))[0]


async def hold(
    session: Session, table: Table, identifier: UUID, path: tuple[str, ...] = ("id",)
) -> Record:
    """A live row that nobody can delete before the transaction ends, for what will belong to it.

    Raises Missing with the path of the input that named it.
    """
    rows = await session.execute(_held(table), {"root": identifier})
    if not rows:
        raise Missing(table.info["entity"], path)
    return rows[0]


def owned_by(table: Table) -> Iterator[tuple[Table, str]]:
    """The tables whose rows belong to rows of this one, each with the key that says so."""
    for other in table.metadata.sorted_tables:
        if "deleted_at" in other.c:
            for owner, column in owners_of(other):
                if owner is table:
                    yield other, column


def owners_of(table: Table) -> Iterator[tuple[Table, str]]:
    """The tables whose rows this one's belong to, each with the key that says so."""
    for key in sorted(table.foreign_key_constraints, key=lambda one: str(one.name)):
        if _owns(key):
            yield key.referred_table, key.column_keys[-1]


def _owns(key: ForeignKeyConstraint) -> bool:
    return key.ondelete == "CASCADE" and "deleted_at" in key.referred_table.c


def members(table: Table) -> list[Table]:
    """The tables of a tree with its root's table first, owners before what they own."""
    found = [table]
    for one in found:
        found += [other for other, _ in owned_by(one) if other not in found]
    return found


def _announce(session: Session, rows: Sequence[Record], operation: Operation) -> None:
    by_scope: dict[tuple[str, UUID], list[UUID]] = {}
    for entity, identifier, scope_id in rows:
        by_scope.setdefault((entity, scope_id), []).append(identifier)
    for (entity, scope_id), ids in by_scope.items():
        session.notify(entity, scope_id, ids, operation)


async def _require_live_owners(session: Session, table: Table, row: Record) -> None:
    for owner, column in owners_of(table):
        identifier = row._mapping[column]
        if identifier is None:
            continue
        try:
            await hold(session, owner, identifier)
        except Missing:
            name = owner.info["entity"].replace("_", " ")
            message = f"Its {name} is deleted: restore that one first."
            raise invalid("id", "live_owner", message) from None


@lru_cache
def _held(table: Table) -> sa.Select[*tuple[Any, ...]]:
    return readable(table, *shown(table)).where(table.c.id == ROOT).with_for_update(read=True)


@lru_cache
def _deletion(table: Table) -> sa.Select[*tuple[Any, ...]] | None:
    """Mark everything below a root; None where there is nothing below."""
    found: dict[Table, CTE] = {}
    marks: dict[str, ColumnElement[Any]] = {
        "deleted_at": sa.func.now(),
        "deletion_id": DELETION,
    }
    updates = []
    for member in members(table):
        edges = [(owner, key) for owner, key in owners_of(member) if owner in members(table)]
        if not edges:
            continue
        direct = _named_by_all(member, table)
        if direct is not None:
            is_below = member.c[direct] == ROOT
            found[member] = _live(member).where(is_below).cte(f"{member.name}_below")
        else:
            found[member] = below = _walk(table, member, edges, found)
            # As an array, as a join of rows that the planner believes to be few is a square of
            # them when they are many.
            is_below = member.c.id == sa.any_(
                sa.func.array(sa.select(below.c.id).scalar_subquery())
            )
        updates.append((member, _marking(member, marks).where(is_below)))
    return _together(updates)


def _named_by_all(member: Table, root: Table) -> str | None:
    """The key by which all rows of a tree name its root themselves, if there is one."""
    keys = [key.column_keys for key in member.foreign_key_constraints if _owns(key)]
    names = {
        key.column_keys[-1]
        for key in member.foreign_key_constraints
        if _owns(key) and key.referred_table is root and member is not root
    }
    return next((name for name in names if all(name in columns for columns in keys)), None)


def _walk(
    root: Table, member: Table, edges: Sequence[tuple[Table, str]], found: Mapping[Table, CTE]
) -> CTE:
    """The rows of one table below the root, level by level where the table owns itself."""
    parts = [
        _live(member).where(
            member.c[key] == ROOT
            if owner is root
            else member.c[key].in_(sa.select(found[owner].c.id))
        )
        for owner, key in edges
        if owner is not member or member is root
    ]
    start = sa.union(*parts) if len(parts) > 1 else parts[0]
    below = start.cte(f"{member.name}_below", recursive=True)
    for owner, key in edges:
        if owner is member:
            below = below.union(_live(member).join(below, member.c[key] == below.c.id))
    return below


@lru_cache
def _restoration(table: Table) -> sa.Select[*tuple[Any, ...]]:
    marks = {"deleted_at": sa.null(), "deletion_id": sa.null()}
    updates = [
        (member, _marking(member, marks, deleted=True).where(member.c.deletion_id == DELETION))
        for member in members(table)
    ]
    together = _together(updates)
    assert together is not None
    return together


def _live(table: Table) -> sa.Select[*tuple[Any, ...]]:
    return sa.select(table.c.id).where(predicate(table))


def _marking(
    table: Table, marks: Mapping[str, ColumnElement[Any]], *, deleted: bool = False
) -> sa.Update:
    values = {**marks, **raised(table)}
    return sa.update(table).values(values).where(predicate(table, deleted=deleted))


def _together(
    updates: list[tuple[Table, sa.Update]],
) -> sa.Select[*tuple[Any, ...]] | None:
    """All updates with their events as one statement; it returns what subscribers hear about."""
    heard: list[sa.Select[*tuple[Any, ...]]] = []
    ctes: list[CTE] = []
    for table, update in updates:
        scope = table.info["notify"]
        names = [owner_column(table).name, "id", *([scope] if scope else [])]
        returning = [table.c[one] for one in names]
        recorded = recorded_update(
            table, update, MARKS, returning=returning, name=f"{table.name}_marked"
        )
        marked = recorded.cte(f"{table.name}_written")
        ctes.append(marked)
        if scope:
            entity: ColumnElement[str] = sa.literal_column(f"'{table.info['entity']}'")
            heard.append(sa.select(entity.label("entity"), marked.c.id, marked.c[scope]))
    if not ctes:
        return None
    nothing = sa.select(sa.null(), sa.null(), sa.null()).where(sa.false())
    return sa.select(*sa.union_all(*(heard or [nothing])).subquery().c).add_cte(*ctes)
