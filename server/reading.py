"""Where a query is answered: by the replica if it has what the caller may expect, or the primary.

All of a query is answered by one of them, from one snapshot. When the replica fails one of its
statements, whatever the reason, all of it runs again on the primary, which says what there is to
say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from graphql import OperationType

from db.failures import OF_PRIMARY, ReplicaFailed
from db.lsn import NOWHERE, show_lsn
from db.replica import Replica
from schema.context import Context

if TYPE_CHECKING:
    from server.execution import Answer, Planned

__all__ = ["Reading"]

PRIMARY_FOR_GOOD = (OF_PRIMARY, "25006", "55000")
"""What a standby says to what it can never do: it is read-only, or in recovery."""
Execute = Callable[["Planned", Context], Awaitable["Answer"]]


class Reading:
    """Chooses, and remembers who wrote where."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.counts: Counter[str] = Counter()
        """Queries that read: those of the `replica`, and of the primary by the reason why."""

    async def run(self, planned: Planned, context: Context, lsn: int, execute: Execute) -> Answer:
        """Run an operation whose caller has seen what stands before `lsn`."""
        if planned.kind is OperationType.MUTATION:
            return await self._write(planned, context, execute)
        if planned.kind is not OperationType.QUERY or context.actor is None:
            return await execute(planned, context)
        session, replica = context.session, self.replica
        owner_id = context.actor.owner_id
        reason: str | None = planned.operation.placement.reason
        reason = reason or replica.why_not(owner_id, lsn)
        if reason is None:
            needed = replica.needed(owner_id, lsn)
            session.read_from(replica.engine, needed)
            replica.reading.add(session)
            try:
                answer = await execute(planned, context)
            except ReplicaFailed:
                answer = None
            finally:
                replica.reading.discard(session)
            if answer is not None and session.forsaken is None:
                self._count(context, "replica")
                return answer
            reason = await self._come_back(planned, context)
        answer = await execute(planned, context)
        self._count(context, reason)
        return answer

    async def _come_back(self, planned: Planned, context: Context) -> str:
        """Leave the replica, and be told why."""
        session = context.session
        failure = session.forsaken
        assert failure is not None
        if failure.state in PRIMARY_FOR_GOOD:
            planned.operation.placement.reason = "primary"
        else:
            self.replica.failed(failure)
        await context.renew()
        session.read_from(context.services.engine)
        return planned.operation.placement.reason or "failed"

    async def _write(self, planned: Planned, context: Context, execute: Execute) -> Answer:
        session = context.anonymous_session
        session.locates = True
        owners = {session.owner_id}
        try:
            answer = await execute(planned, context)
        finally:
            owners.add(session.owner_id)
            for owner_id in owners - {None}:
                assert owner_id is not None
                if session.lsn > NOWHERE:
                    self.replica.wrote(owner_id, session.lsn)
                else:
                    self.replica.changed(owner_id)
        if session.lsn > NOWHERE:
            answer.lsn = show_lsn(session.lsn)
        return answer

    def _count(self, context: Context, reason: str) -> None:
        if context.anonymous_session.statements:
            self.counts[reason] += 1
