"""One caller's operation on its way: its context, what it cost, and how to stop it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from inspect import isawaitable
from time import perf_counter
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from graphql import OperationType

from db.lsn import NOWHERE
from db.session import Recorder
from schema import LOGIN_MUTATIONS
from schema.context import Actor, Client
from schema.gate import Allowance
from server.execution import Answer, ContextFactory, OperationContext, Planned, Runner
from server.failures import code_of
from server.gate import EntryGate
from server.slow import MOST_STATEMENTS, SlowOperations, Statement

if TYPE_CHECKING:  # of an optional extra
    from server.spans import Trace, Traces

__all__ = ["Caller", "MakeContext", "Operations", "Run"]


@dataclass(slots=True)
class Caller:
    """Who asks, and under which request id."""

    actor: Actor | None
    request_id: str
    client: Client = field(default_factory=Client)
    traceparent: str | None = None
    """The caller's own trace, https://www.w3.org/TR/trace-context/; any text."""
    allowance: Allowance | None = None
    """What is left to them, as of the last operation that was admitted or refused."""
    lsn: int = NOWHERE
    """What they have seen stands before it, as far as they say."""


class MakeContext(Protocol):
    """Makes the context of one operation, in which nothing has been opened yet."""

    def __call__(self, caller: Caller, recorder: Recorder | None) -> OperationContext: ...


class Operations:
    """Runs what callers ask for; shared by all transports."""

    def __init__(
        self,
        runner: Runner,
        make_context: MakeContext,
        logins_changed: Callable[[UUID], None] = lambda owner_id: None,
        gate: EntryGate | None = None,
        *,
        slow: SlowOperations | None = None,
        traces: Traces | None = None,
    ) -> None:
        """``logins_changed`` is told whose tokens may be worth something else now.

        Without a gate nobody is charged.
        """
        self.runner = runner
        self.logins_changed = logins_changed
        self.make_context = make_context
        self.gate = gate
        self.slow = slow
        self.traces = traces
        self.unattended: set[asyncio.Task[Answer]] = set()

    async def admit(self, planned: Planned | Answer, caller: Caller) -> None:
        """Charge a caller for what is about to run, or was refused. Raises OverLimit."""
        if self.gate is None:
            return
        points = planned.points if isinstance(planned, Planned) else 1
        allowance = self.gate.charge(caller.actor, caller.client, points)
        if isawaitable(allowance):
            allowance = await allowance
        caller.allowance = allowance
        if allowance is not None and allowance.refused:
            over = self.gate.over(allowance)
            self.runner.count([over.failure])
            raise over

    def run(self, planned: Planned, caller: Caller) -> Run:
        return Run(self, planned, caller)

    async def subscribe(self, planned: Planned, caller: Caller) -> AsyncGenerator[Answer, None]:
        """The answers to a subscription; see `Runner.subscribe`. Close the iterator to end it."""
        trace = None if self.traces is None else begin(self.traces, planned, caller)
        recorder = None if trace is None else trace.statement
        contexts: ContextFactory = lambda: self.make_context(caller, recorder)  # noqa: E731
        error = None
        try:
            async with aclosing(self.runner.subscribe(planned, contexts)) as answers:
                async for answer in answers:
                    if not answer.executed and answer.errors:
                        error = code_of(answer.errors[0])
                    yield answer
        finally:
            if trace is not None:
                trace.end(error)

    async def drain(self, seconds: float) -> None:
        """Wait for the mutations whose callers have gone."""
        if self.unattended:
            await asyncio.wait(self.unattended, timeout=seconds)


class Run:
    """A query or a mutation of one caller."""

    def __init__(self, operations: Operations, planned: Planned, caller: Caller) -> None:
        self.operations = operations
        self.runner = operations.runner
        self.planned = planned
        self.caller = caller
        self.statements: list[tuple[str, int | None, float]] = []  # plain, as each request has some
        self.trace: Trace | None = None
        watched = self.runner.development or operations.slow or operations.traces
        self.context = operations.make_context(caller, self.record if watched else None)

    def record(self, sql: str, *, rows: int | None, milliseconds: float) -> None:
        """Remember a statement that ran."""
        if len(self.statements) < MOST_STATEMENTS:
            self.statements.append((sql, rows, milliseconds))
        if self.trace is not None:
            self.trace.statement(sql, rows=rows, milliseconds=milliseconds)

    async def execute(self) -> Answer:
        """The answer; in development with the statements that it cost."""
        answer = await self._execute()
        if self.caller.actor is not None and self.planned.operation.fields & LOGIN_MUTATIONS:
            self.operations.logins_changed(self.caller.actor.owner_id)
        if self.runner.development and answer.executed:
            session = self.context.anonymous_session
            answer.extensions["engram"] = {
                "cost": self.planned.cost,
                "rows": session.rows,
                "milliseconds": round(session.milliseconds, 2),
                "statements": [
                    {"sql": sql, "rows": rows, "milliseconds": round(milliseconds, 2)}
                    for sql, rows, milliseconds in self.statements
                ],
            }
        return answer

    async def _execute(self) -> Answer:
        """The answer, traced, and logged if it took long."""
        slow, traces = self.operations.slow, self.operations.traces
        started = perf_counter()
        if traces is not None:
            self.trace = begin(traces, self.planned, self.caller)
        error: str | None = "cancelled"
        try:
            answer = await self.runner.execute(self.planned, self.context, self.caller.lsn)
            error = code_of(answer.errors[0]) if answer.errors else None
        finally:
            if self.trace is not None:
                self.trace.end(error)
            if slow is not None:
                milliseconds = (perf_counter() - started) * 1000
                if milliseconds >= slow.threshold_ms:
                    ran = [Statement(*one) for one in self.statements]
                    slow.tell(self.planned, self.context, milliseconds, ran)
        return answer

    async def finish(self) -> Answer:
        """The answer. When its caller is cancelled, a query stops and a mutation goes on."""
        task = asyncio.create_task(self.execute())
        if self.planned.kind is OperationType.MUTATION:
            self.operations.unattended.add(task)
            task.add_done_callback(self.operations.unattended.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if self.planned.kind is not OperationType.MUTATION:
                await self.cancel()
                task.cancel()
                await asyncio.wait({task})
            raise

    async def answers(self) -> AsyncGenerator[Answer, None]:
        """The one answer, as a stream."""
        yield await self.finish()

    async def cancel(self) -> None:
        """Stop the statement that is running, and refuse further ones."""
        await self.context.anonymous_session.cancel()


def begin(traces: Traces, planned: Planned, caller: Caller) -> Trace:
    """The trace of a caller's operation."""
    return traces.begin(planned, caller.request_id, caller.traceparent)
