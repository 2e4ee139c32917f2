"""Operations that took long, with their statements and the plan of the slowest.

No value is logged. A plan is asked for afterwards, on a connection that no request waits for, as
the same person under the same rights, in a transaction that can only read. It is the generic plan,
which PostgreSQL makes without the values of parameters; nothing is executed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace
from time import monotonic
from typing import NamedTuple
from uuid import UUID, uuid4

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from db.failures import DatabaseUnavailable, StatementCancelled
from db.session import Session, SessionOptions
from server.execution import OperationContext, Planned
from server.requests import hash_of

__all__ = ["MOST_STATEMENTS", "SlowOperations", "Statement"]

log = structlog.get_logger("engram.slow")

MOST_STATEMENTS = 1_000
"""That are remembered of an operation while it runs."""
SHOWN = 10
"""Statements in a line of the log: the slowest."""
MOST_SQL_CHARS = 4_000
PLAN_TIMEOUT_MS = 2_000
PAUSE_SECONDS = 1.0
"""Between two plans: when everything is slow, to ask for more would not help."""
READS = re.compile(r"\s*(?:SELECT|WITH)\b", re.IGNORECASE)
WRITES = re.compile(r"\b(?:INSERT|UPDATE|DELETE|MERGE|INTO)\b", re.IGNORECASE)
PARAMETER = re.compile(r"\$(\d+)")


class Statement(NamedTuple):
    """A statement that ran; without rows, if it failed."""

    sql: str
    rows: int | None
    milliseconds: float


class SlowOperations:
    """Logs what takes longer than a threshold. `close` it at the end."""

    def __init__(self, engine: AsyncEngine, options: SessionOptions, threshold_ms: float) -> None:
        self.threshold_ms = threshold_ms
        self._engine = engine
        self._options = replace(options, statement_timeout_ms=PLAN_TIMEOUT_MS)
        self._telling: set[asyncio.Task[None]] = set()
        self._asked_at = -PAUSE_SECONDS

    def tell(
        self,
        planned: Planned,
        context: OperationContext,
        milliseconds: float,
        statements: Sequence[Statement],
    ) -> None:
        """Log an operation, soon."""
        session = context.anonymous_session
        shown = sorted(statements, key=lambda one: one.milliseconds, reverse=True)[:SHOWN]
        source = planned.document.loc
        facts: dict[str, object] = {
            "name": planned.operation.name,
            "type": planned.kind.value,
            "document": hash_of(source.source.body) if source is not None else None,
            "milliseconds": round(milliseconds, 2),
            "database_ms": round(session.milliseconds, 2),
            "statements": session.statements,
            "rows": session.rows,
            "cost": planned.cost,
            "request_id": context.request_id,
            "slowest": [
                {
                    "sql": shortened(one.sql),
                    "rows": one.rows,
                    "milliseconds": round(one.milliseconds, 2),
                }
                for one in shown
            ],
        }
        slowest = next((one.sql for one in shown if is_read(one.sql)), None)
        if slowest is None or self._telling or monotonic() - self._asked_at < PAUSE_SECONDS:
            log.warning("slow_operation", **facts)
            return
        self._asked_at = monotonic()
        task = asyncio.create_task(self._tell(facts, slowest, session.owner_id))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def close(self) -> None:
        """Wait for what is still to be logged; plans take seconds at most."""
        if self._telling:
            await asyncio.wait(self._telling)

    async def _tell(self, facts: dict[str, object], sql: str, owner_id: UUID | None) -> None:
        try:
            plan = await explain(Session(self._engine, owner_id, self._options), sql)
        except (SQLAlchemyError, DatabaseUnavailable, StatementCancelled) as error:
            log.warning("slow_operation", **facts, no_plan=type(error).__name__)
        else:
            log.warning("slow_operation", **facts, plan=plan)


def is_read(sql: str) -> bool:
    """Whether a statement changes nothing, for certain."""
    return READS.match(sql) is not None and WRITES.search(sql) is None


async def explain(session: Session, sql: str) -> str:
    """The generic plan of a statement that only reads. Closes the session.

    EXPLAIN (GENERIC_PLAN) would do with less, but the driver binds what it finds, and PostgreSQL
    then plans for those values.
    """
    name = f"engram_{uuid4().hex}"
    count = max((int(number) for number in PARAMETER.findall(sql)), default=0)
    arguments = f"({','.join(['NULL'] * count)})" if count else ""
    async with session:
        generic = "SELECT set_config('plan_cache_mode', 'force_generic_plan', true)"
        await session.execute(text(generic))
        await session.execute(text(f"PREPARE {name} AS {sql}".replace(":", "\\:")))
        lines = await session.execute(text(f"EXPLAIN EXECUTE {name}{arguments}"))
        # A pooler may hand the connection to somebody else.
        await session.execute(text(f"DEALLOCATE {name}"))
    return "\n".join(line for (line,) in lines)


def shortened(sql: str) -> str:
    """A statement on one line, not longer than a log takes."""
    line = " ".join(sql.split())
    return line if len(line) <= MOST_SQL_CHARS else f"{line[:MOST_SQL_CHARS]}…"
