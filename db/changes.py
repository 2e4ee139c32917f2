"""Every write goes through here, and writes its audit event in the same statement.

Rows travel as one jsonb parameter, so a statement's text depends on the columns it names and
never on how many rows there are. PostgreSQL computes what was and what became.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Column, ColumnElement, DefaultClause, Row, Table
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql import ClauseElement
from sqlalchemy.types import TypeEngine

from db.announcements import Operation
from db.constraints import violated
from db.recording import (
    audited_names,
    author_parameters,
    is_bookkeeping,
    pairs,
    raised,
    recorded,
    recorded_update,
    shown,
)
from db.refusals import Missing, Refused, Stale, invalid
from db.scope import OWNER, predicate, readable
from db.session import Session

Record: TypeAlias = Row[*tuple[Any, ...]]
IDS = sa.bindparam("ids", type_=ARRAY(sa.Uuid()))
ROWS = sa.cast(sa.bindparam("rows", type_=sa.Text()), JSONB)


async def insert(
    session: Session, table: Table, rows: Sequence[Mapping[str, object]]
) -> list[Record]:
    """Store rows of the session's owner; what a row leaves out gets the column's default.

    Returns them in the order given. Raises IntegrityError.
    """
    if not rows:
        return []
    given = [{"n": n, **row} for n, row in enumerate(rows)]
    stored = list(await session.execute(_insertion(table), _parameters(session, "create", given)))
    announce(session, table, stored, "insert")
    return stored


async def insert_one(
    session: Session,
    table: Table,
    values: Mapping[str, object],
    *,
    id: UUID | None = None,
    id_field: str = "id",
) -> Record:
    """`insert` of one row. Raises Invalid, naming `id_field`, when another row has its id."""
    row = values if id is None else {**values, "id": id}
    try:
        return (await insert(session, table, [row]))[0]
    except IntegrityError as error:
        if id is None or violated(error) != table.primary_key.name:
            raise
        name = str(table.info["entity"]).replace("_", " ")
        raise invalid(id_field, "unique", f"Another {name} has this id.") from None


async def update(
    session: Session,
    table: Table,
    ids: UUID | Sequence[UUID],
    values: Mapping[str, object],
    *,
    expected_version: int | None = None,
    where: ColumnElement[bool] | None = None,
    action: str = "update",
) -> list[Record]:
    """Give live rows new values, which may be SQL expressions; raises their version.

    Returns the rows that were changed, in the order of `ids`: those that exist, are at the
    expected version and satisfy `where`.
    """
    wanted = [ids] if isinstance(ids, UUID) else list(dict.fromkeys(ids))
    if not wanted:
        return []
    parameters = _parameters(session, action) | {"ids": wanted}
    if expected_version is not None:
        parameters["expected_version"] = expected_version
    if where is None and not any(isinstance(value, ClauseElement) for value in values.values()):
        statement = _update(table, tuple(sorted(values)), expected_version is not None)
        parameters |= {f"new_{name}": value for name, value in values.items()}
    else:
        statement = _update_to(table, values, expected_version is not None, where)
    rows = await session.execute(statement, parameters)
    if not is_bookkeeping(table, values):
        announce(session, table, rows, "delete" if action == "delete" else "update")
    found = {row.id: row for row in rows}
    return [found[identifier] for identifier in wanted if identifier in found]


async def update_one(
    session: Session,
    table: Table,
    identifier: UUID,
    values: Mapping[str, object],
    *,
    expected_version: int | None = None,
    action: str = "update",
) -> Record:
    """`update` of one row. Raises Missing, and Stale when it is at another version."""
    rows = await update(
        session, table, identifier, values, expected_version=expected_version, action=action
    )
    if not rows:
        raise (await _reasons(session, table, [identifier]))[identifier]
    return rows[0]


async def update_each(
    session: Session,
    table: Table,
    changes: Sequence[tuple[UUID, int | None, Mapping[str, object]]],
) -> list[Record | Refused]:
    """Give each row its own values, in one statement. A change is an id, a version or None, values.

    Returns for every change the row as it became, or Missing or Stale, in the order given.
    """
    if not changes:
        return []
    if len({identifier for identifier, _, _ in changes}) < len(changes):
        raise ValueError("one change per row")
    names = {name for _, _, values in changes for name in values}
    given = [
        {"n": n, "id": identifier, "expected_version": version, "named": list(values), **values}
        for n, (identifier, version, values) in enumerate(changes)
    ]
    statement = _update_each(table, tuple(sorted(names)))
    rows = await session.execute(statement, _parameters(session, "update", given))
    announce(session, table, rows, "update")
    done: dict[UUID, Record | Refused] = {row.id: row for row in rows}
    left = [identifier for identifier, _, _ in changes if identifier not in done]
    if left:
        done |= await _reasons(session, table, left)
    return [done[identifier] for identifier, _, _ in changes]


async def remove(session: Session, table: Table, ids: Sequence[UUID]) -> int:
    """Delete rows for good and return how many there were."""
    if not ids:
        return 0
    statement = _removal(table)
    rows = await session.execute(statement, _parameters(session, "delete") | {"ids": list(ids)})
    announce(session, table, rows, "delete")
    return len(rows)


async def _reasons(
    session: Session, table: Table, ids: Sequence[UUID]
) -> dict[UUID, Missing | Stale]:
    """Why rows were not changed: they are not there, or at another version."""
    entity = table.info["entity"]
    statement = readable(table, *shown(table)).where(table.c.id == sa.any_(IDS))
    current = {row.id: row for row in await session.execute(statement, {"ids": list(ids)})}
    return {
        identifier: Stale(entity, current[identifier]._asdict())
        if identifier in current
        else Missing(entity)
        for identifier in ids
    }


def announce(session: Session, table: Table, rows: Sequence[Record], operation: Operation) -> None:
    """Tell subscribers of the rows' scopes, if the table has any."""
    scope = table.info["notify"]
    if scope is None:
        return
    by_scope: dict[UUID, list[UUID]] = {}
    for row in rows:
        by_scope.setdefault(row._mapping[scope], []).append(row.id)
    for scope_id, ids in by_scope.items():
        session.notify(table.info["entity"], scope_id, ids, operation)


# Building statements.


def _parameters(
    session: Session, action: str, rows: Sequence[Mapping[str, object]] | None = None
) -> dict[str, object]:
    parameters = author_parameters(session, action)
    if rows is not None:
        parameters["rows"] = json.dumps(
            rows, default=_plain, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
    return parameters


def _plain(value: object) -> object:
    """What JSON lacks, as PostgreSQL reads it."""
    if isinstance(value, bytes):
        return f"\\x{value.hex()}"
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


@lru_cache
def _insertion(table: Table) -> sa.Select[*tuple[Any, ...]]:
    columns = [column for column in shown(table) if column.name != "owner_id"]
    source = _record_set(columns, n=sa.Integer())
    # Ids are made before the insert, so that the rows can be put back in order after it.
    given = sa.select(source.c.n, *(_or_default(source, column) for column in columns)).cte("given")
    owner = [OWNER.label("owner_id")] if "owner_id" in table.c else []
    names = [*(one.name for one in owner), *(column.name for column in columns)]
    rows = sa.select(*owner, *(given.c[column.name] for column in columns)).order_by(given.c.n)
    stored = sa.insert(table).from_select(names, rows).returning(*shown(table)).cte("stored")
    whole = sa.func.jsonb_build_object(*pairs(audited_names(table), "stored"))
    selected = recorded(table, stored, shown(table), before=sa.null(), after=whole)
    return selected.join_from(stored, given, stored.c.id == given.c.id).order_by(given.c.n)


@lru_cache
def _update(table: Table, names: tuple[str, ...], versioned: bool) -> sa.Select[*tuple[Any, ...]]:
    values = {name: sa.bindparam(f"new_{name}", type_=table.c[name].type) for name in names}
    return _update_to(table, values, versioned, None)


def _update_to(
    table: Table,
    values: Mapping[str, object],
    versioned: bool,
    where: ColumnElement[bool] | None,
) -> sa.Select[*tuple[Any, ...]]:
    statement = _touched(table, values).where(predicate(table), table.c.id == sa.any_(IDS))
    if versioned:
        statement = statement.where(table.c.version == sa.bindparam("expected_version"))
    if where is not None:
        statement = statement.where(where)
    return recorded_update(table, statement, values)


@lru_cache
def _update_each(table: Table, names: tuple[str, ...]) -> sa.Select[*tuple[Any, ...]]:
    source = _record_set(
        [table.c[name] for name in names],
        id=sa.Uuid(),
        expected_version=sa.Integer(),
        named=JSONB(),
    )
    given = sa.select(*source.c).cte("given")
    # Locked in one order, so that two bulk updates wait for each other instead of deadlocking.
    locked = (
        sa.select(table.c.id)
        .where(predicate(table), table.c.id.in_(sa.select(given.c.id)))
        .order_by(table.c.id)
        .with_for_update()
        .cte("locked")
    )
    values = {
        name: sa.case(
            (given.c.named.has_key(sa.literal_column(f"'{name}'")), given.c[name]),
            else_=table.c[name],
        )
        for name in names
    }
    statement = _touched(table, values).where(
        predicate(table),
        table.c.id == given.c.id,
        table.c.id.in_(sa.select(locked.c.id)),
    )
    if "version" in table.c:
        expected = given.c.expected_version
        statement = statement.where(sa.or_(expected.is_(None), table.c.version == expected))
    return recorded_update(table, statement, names)


@lru_cache
def _removal(table: Table) -> sa.Select[*tuple[Any, ...]]:
    removed = (
        sa.delete(table)
        .where(predicate(table, deleted=None), table.c.id == sa.any_(IDS))
        .returning(*shown(table))
        .cte("removed")
    )
    whole = sa.func.jsonb_build_object(*pairs(audited_names(table), "removed"))
    return recorded(table, removed, shown(table), before=whole, after=sa.null())


def _touched(table: Table, values: Mapping[str, object]) -> sa.Update:
    extra = {} if is_bookkeeping(table, values) else raised(table)
    return sa.update(table).values({**values, **extra})


def _record_set(columns: Sequence[Column[Any]], **others: TypeEngine[Any]) -> sa.TableValuedAlias:
    """The parameter's rows as a table of these columns and others by name and type."""
    typed = [sa.column(name, kind) for name, kind in others.items()]
    typed += [sa.column(column.name, column.type) for column in columns]
    return (
        sa.func.jsonb_to_recordset(ROWS)
        .table_valued(*typed)
        .render_derived(name="record", with_types=True)
    )


def _or_default(source: sa.TableValuedAlias, column: Column[Any]) -> ColumnElement[Any]:
    value = source.c[column.name]
    default = column.server_default
    if not isinstance(default, DefaultClause):
        return value
    return sa.func.coalesce(value, default.arg).label(column.name)
