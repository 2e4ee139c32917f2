"""An owner with twenty thousand rows in every table, beside as many of others."""

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from db.models import metadata
from tests.factories import Factory, Row, sorted_tables, store

SEEDS = 40
COPIES = 499
SIZE = SEEDS * (COPIES + 1)


def factories(*owners: UUID) -> list[Factory]:
    """The owners' first rows: the same in every process."""
    made = [Factory(owner_id, number) for number, owner_id in enumerate(owners)]
    for factory in made:
        factory.fill(dict.fromkeys(metadata.tables, SEEDS) | {"users": 1})
    return made


async def fill(admin: AsyncEngine, made: list[Factory]) -> None:
    """Store the rows of each owner, and copies of them that differ in keys and times."""
    for factory in made:
        await store(admin, factory.rows)
    async with admin.connect() as connection:
        # The copies name rows that there are: checking that again would take most of the time.
        await connection.execute(sa.text("SET session_replication_role = replica"))
        for factory in made:
            for table in sorted_tables():
                if table.name not in ("users", "task_dependencies", "embedding_jobs"):
                    await _copy(connection, table, factory.owner_id)
            await _depend(connection, factory.owner_id, factory.rows["tasks"])
        # What was swept of others, whoever they are.
        await connection.execute(
            sa.text(
                "INSERT INTO swept_events (owner_id, xid, event_id)"
                " SELECT uuidv7(), '1', uuidv7() FROM generate_series(1, :size)"
            ),
            {"size": SIZE},
        )
        await connection.execute(sa.text("RESET session_replication_role"))
        await connection.execute(sa.text("ANALYZE"))


async def _copy(connection: AsyncConnection, table: sa.Table, owner_id: UUID) -> None:
    unique = {
        column.name
        for constraint in table.constraints
        if isinstance(constraint, sa.UniqueConstraint)
        for column in constraint.columns
    }
    columns = [column for column in table.c if column.computed is None and column.name != "xid"]
    copies = sa.func.generate_series(1, COPIES).table_valued("n", name="copies").render_derived()
    n = copies.c.n
    values = [_copied(table, column, n, unique=column.name in unique) for column in columns]
    rows = sa.select(*values).select_from(table.join(copies, sa.true()))
    names = [column.name for column in columns]
    await connection.execute(
        table.insert().from_select(names, rows.where(table.c.owner_id == owner_id))
    )


def _copied(
    table: sa.Table, column: sa.Column[Any], n: sa.ColumnElement[Any], *, unique: bool
) -> sa.ColumnElement[Any]:
    """A column of the n-th copy of a row."""
    if column.name in ("id", "assistant_message_id"):
        return sa.func.uuidv7()
    if column.name in ("active_leaf_id", "deletion_id"):
        return sa.null() if column.name == "active_leaf_id" else column
    if isinstance(column.type, sa.DateTime):
        return column + n * sa.text("interval '7 minutes 3 seconds'")
    if table.name == "workers" and column.name == "kind":
        return sa.literal("agent")
    if table.name == "account_exports" and column.name == "status":
        return sa.literal("complete")
    if column.name == "name":
        return column + sa.cast(n, sa.Text)
    if unique and isinstance(column.type, sa.Integer):
        return column + n * 1_000
    if unique and isinstance(column.type, sa.LargeBinary):
        return sa.func.sha256(sa.cast(sa.cast(sa.func.random(), sa.Text), sa.LargeBinary))
    if unique and isinstance(column.type, sa.String):
        number = sa.func.row_number().over(order_by=[table.c.id, n])
        return sa.literal("Q") + sa.cast(number, sa.Text)
    return column


async def _depend(connection: AsyncConnection, owner_id: UUID, tasks: list[Row]) -> None:
    """Let every tenth task, and those given, wait for the one before it."""
    await connection.execute(
        sa.text(
            """
            INSERT INTO task_dependencies (owner_id, task_id, depends_on_id)
            SELECT owner_id, id, before FROM (
                SELECT owner_id, id, lag(id) OVER by_number AS before,
                    row_number() OVER by_number AS place
                FROM tasks WHERE owner_id = :owner_id WINDOW by_number AS (ORDER BY number, id)
            ) AS chained WHERE place > 1 AND (place % 10 = 0 OR id = ANY(:parents))
            ON CONFLICT DO NOTHING"""
        ),
        {"owner_id": owner_id, "parents": [task["id"] for task in tasks]},
    )
