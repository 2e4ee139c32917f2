"""Recording a write: the audit event that is stored by the same statement.

PostgreSQL computes what was and what became, so an event can neither be forgotten nor be wrong.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import CTE, Column, ColumnElement, Table
from sqlalchemy.dialects.postgresql import JSONB

from db.models.journal import AuditEvent
from db.scope import owner_column
from db.session import Session

EVENTS = AuditEvent.__table__


def author_parameters(session: Session, action: str) -> dict[str, object]:
    """The facts of an audit event. Raises RuntimeError for a session without an author."""
    author = session.author
    if author is None:
        raise RuntimeError("A change needs an author.")
    session.announcements.recorded = True
    return {
        "action": action,
        "actor_kind": author.kind,
        "actor_id": author.id,
        "request_id": author.request_id,
    }


def shown(table: Table) -> list[Column[Any]]:
    """The columns a write returns: all that are not computed for the index's sake."""
    return [column for column in table.c if column.computed is None]


def is_bookkeeping(table: Table, names: Mapping[str, object] | Sequence[str]) -> bool:
    """Whether writing these columns is no change worth a version or an event."""
    return bool(names) and all(table.c[name].info.get("bookkeeping") for name in names)


def raised(table: Table) -> dict[str, ColumnElement[Any]]:
    """The values every change sets."""
    if "version" not in table.c:
        return {}
    return {"version": table.c.version + 1, "updated_at": sa.func.now()}


def recorded_update(
    table: Table,
    statement: sa.Update,
    names: Mapping[str, object] | Sequence[str],
    *,
    returning: Sequence[Column[Any]] | None = None,
    name: str = "changed",
) -> sa.Select[*tuple[Any, ...]]:
    """A select of the rows an update changed, which also stores their audit events."""
    wanted = returning or shown(table)
    if is_bookkeeping(table, names) or not table.info["audited"]:
        changed = statement.returning(*wanted).cte(name)
        return sa.select(*(changed.c[column.name] for column in wanted))
    columns = [one for one in [*names, *raised(table)] if _audited(table.c[one])]
    before = sa.func.jsonb_build_object(*pairs(columns, "old")).label("before_")
    after = sa.func.jsonb_build_object(*pairs(columns, "new")).label("after_")
    changed = statement.returning(*wanted, before, after).cte(name)
    return recorded(
        table,
        changed,
        wanted,
        before=_difference(changed.c.before_, changed.c.after_),
        after=_difference(changed.c.after_, changed.c.before_),
    )


def recorded(
    table: Table,
    rows: CTE,
    wanted: Sequence[Column[Any]],
    *,
    before: ColumnElement[Any],
    after: ColumnElement[Any],
) -> sa.Select[*tuple[Any, ...]]:
    """Select the rows of a write, and store an event for each unless the table has none."""
    selected = sa.select(*(rows.c[column.name] for column in wanted))
    if not table.info["audited"]:
        return selected
    event = {
        "owner_id": rows.c[owner_column(table).name],
        "actor_kind": sa.bindparam("actor_kind", type_=sa.Text()),
        "actor_id": sa.bindparam("actor_id", type_=sa.Uuid()),
        "action": sa.bindparam("action", type_=sa.Text()),
        "entity_type": sa.literal_column(f"'{table.info['entity']}'"),
        "entity_id": rows.c.id,
        "before": before,
        "after": after,
        "request_id": sa.bindparam("request_id", type_=sa.Text()),
    }
    values = sa.select(*(value.label(f"{name}_") for name, value in event.items()))
    stored = sa.insert(EVENTS).from_select(list(event), values.select_from(rows))
    return selected.add_cte(stored.cte(f"{rows.name}_events"))


def _audited(column: Column[Any]) -> bool:
    # Ids are on the event itself.
    return column.name not in {"id", "owner_id"} and column.info.get("audited", True) is True


def audited_names(table: Table) -> list[str]:
    """The columns whose values enter events."""
    return [column.name for column in table.c if _audited(column)]


def pairs(names: Sequence[str], row: str) -> list[ColumnElement[Any]]:
    """Key, value, key, value: literal names, as they are the same in every run of a statement."""
    return [sa.literal_column(text) for name in names for text in (f"'{name}'", f'{row}."{name}"')]


def _difference(ours: ColumnElement[Any], theirs: ColumnElement[Any]) -> ColumnElement[Any]:
    """The entries of one jsonb object that are not the same in the other."""
    entry = sa.func.jsonb_each(ours).table_valued(
        sa.column("key", sa.Text()), sa.column("value", JSONB())
    )
    return (
        sa.select(sa.func.jsonb_object_agg(entry.c.key, entry.c.value))
        .where(entry.c.value.is_distinct_from(theirs.op("->")(entry.c.key)))
        .scalar_subquery()
    )
