"""One caller's operation on its way: its context, what it cost, and how to stop it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Protocol
from uuid import UUID

from graphql import OperationType

from db.session import Recorder
from schema import LOGIN_MUTATIONS
from schema.context import Actor, Client
from schema.gate import Allowance
from server.execution import Answer, ContextFactory, OperationContext, Planned, Runner
from server.gate import EntryGate

__all__ = ["Caller", "MakeContext", "Operations", "Run"]


@dataclass(slots=True)
class Caller:
    """Who asks, and under which request id."""

    actor: Actor | None
    request_id: str
    client: Client = field(default_factory=Client)
    allowance: Allowance | None = None
    """What is left to them, as of the last operation that was admitted or refused."""


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
    ) -> None:
        """``logins_changed`` is told whose tokens may be worth something else now.

        Without a gate nobody is charged.
        """
        self.runner = runner
        self.logins_changed = logins_changed
        self.make_context = make_context
        self.gate = gate
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
            raise self.gate.over(allowance)

    def run(self, planned: Planned, caller: Caller) -> Run:
        return Run(self, planned, caller)

    def contexts(self, caller: Caller) -> ContextFactory:
        """Contexts for the events of a subscription."""
        return lambda: self.make_context(caller, None)

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
        self.statements: list[dict[str, object]] = []
        recorder = self.record if self.runner.development else None
        self.context = operations.make_context(caller, recorder)

    def record(self, sql: str, *, rows: int | None, milliseconds: float) -> None:
        self.statements.append({"sql": sql, "rows": rows, "milliseconds": round(milliseconds, 2)})

    async def execute(self) -> Answer:
        """The answer; in development with the statements that it cost."""
        answer = await self.runner.execute(self.planned, self.context)
        if self.caller.actor is not None and self.planned.operation.fields & LOGIN_MUTATIONS:
            self.operations.logins_changed(self.caller.actor.owner_id)
        if self.runner.development and answer.executed:
            session = self.context.anonymous_session
            answer.extensions["engram"] = {
                "cost": self.planned.cost,
                "rows": session.rows,
                "milliseconds": round(session.milliseconds, 2),
                "statements": self.statements,
            }
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
