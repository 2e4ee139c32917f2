"""Running a prepared operation: the same for every transport.

``Runner.plan`` decides whether a request may run at all; ``execute`` and ``subscribe`` run it.
Each operation, and each event of a subscription, has a context of its own: one snapshot, fresh
loaders, a connection held no longer than the work takes.
"""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field
from inspect import isawaitable
from time import perf_counter
from typing import Any, Protocol, Self, TypeGuard, cast, runtime_checkable
from uuid import UUID

import orjson
from graphql import (
    DocumentNode,
    ExecutionResult,
    GraphQLError,
    OperationType,
    create_source_event_stream,
)
from graphql.execution import Executor
from strawberry import Schema
from strawberry.execution import optimized_is_awaitable

from db.lsn import NOWHERE, UNREADABLE, read_lsn
from schema.context import Context
from schema.executor import PlanningExecutor
from server.documents import Documents, Operation
from server.failures import Failure, code_of, failure, present, reveal
from server.guard import too_complex
from server.logs import Events
from server.observability import Measures
from server.reading import Reading
from server.requests import GraphQLRequest, find_nul

__all__ = ["Answer", "ContextFactory", "OperationContext", "Planned", "Runner"]

OPERATIONS = Events("engram.operations", "operation")
MAX_COERCION_ERRORS = 20
# Strawberry's own test, quicker than graphql-core's on plain values.
IS_AWAITABLE = cast(Callable[[Any], TypeGuard[Awaitable[Any]]], optimized_is_awaitable)


class OperationSession(Protocol):
    """What running an operation needs to know of its database session."""

    @property
    def statements(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def milliseconds(self) -> float: ...
    @property
    def owner_id(self) -> UUID | None: ...
    async def cancel(self) -> None: ...


class OperationActor(Protocol):
    """Who runs an operation, for the log."""

    @property
    def id(self) -> object: ...


class OperationContext(AbstractAsyncContextManager[Any], Protocol):
    """The context of one operation, or of one event of a subscription."""

    @property
    def request_id(self) -> str: ...
    @property
    def anonymous_session(self) -> OperationSession: ...
    @property
    def actor(self) -> OperationActor | None: ...
    @property
    def problem_codes(self) -> Sequence[str]: ...


ContextFactory = Callable[[], OperationContext]


@runtime_checkable
class Event(Protocol):
    """What a subscription's source yields: a change by its id, read again for each subscriber."""

    async def load(self, context: Any) -> object | None:
        """The root value, or None when the subscriber may not see it, or no longer."""


@dataclass(slots=True)
class Answer:
    """A response: with ``data`` when the operation ran, and without when it was refused."""

    data: object = None
    executed: bool = False
    errors: list[Failure] = field(default_factory=list)
    extensions: dict[str, object] = field(default_factory=dict)
    lsn: str | None = None
    """Where the writes stand that it acknowledges, if there is a replica."""

    @classmethod
    def refusal(cls, *errors: Failure) -> Self:
        return cls(errors=list(errors))

    async def alone(self) -> AsyncGenerator[Answer, None]:
        """This answer as a stream."""
        yield self

    @property
    def body(self) -> dict[str, object]:
        body: dict[str, object] = {}
        if self.errors:
            body["errors"] = self.errors
        if self.executed:
            body["data"] = self.data
        if self.lsn is not None:
            body["extensions"] = {**self.extensions, "lsn": self.lsn}
        elif self.extensions:
            body["extensions"] = self.extensions
        return body

    def encode(self, request_id: str) -> bytes:
        """The response as JSON. Data that JSON cannot hold is a fault of the server."""
        try:
            return orjson.dumps(self.body, default=str_of_uuid, option=orjson.OPT_UTC_Z)
        except TypeError as error:
            masked = reveal([GraphQLError("", original_error=error)], request_id)
            return orjson.dumps({"errors": masked, "data": None})


def str_of_uuid(value: object) -> str:
    """The driver's own UUID class, which orjson does not know."""
    if type(value).__name__ == "UUID":
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


@dataclass(frozen=True, slots=True)
class Planned:
    """A request that may run."""

    document: DocumentNode
    operation: Operation
    variables: Mapping[str, object]
    cost: int
    points: int = 1  # what the caller is charged
    writes_much: bool = False  # more than anybody has reason to who is not logged in
    lsn: int = NOWHERE  # what the caller has seen stands before it

    @property
    def kind(self) -> OperationType:
        return self.operation.kind


class Runner:
    """Runs operations against one schema."""

    def __init__(
        self,
        schema: Schema,
        documents: Documents,
        *,
        development: bool = False,
        measures: Measures | None = None,
        reading: Reading | None = None,
    ) -> None:
        """``reading`` has queries answered by a replica."""
        self.reading = reading
        self.schema = schema
        self.documents = documents
        self.development = development
        self.measures = measures

    def plan(
        self, request: GraphQLRequest, *, may_hold_nul: bool = True, trusted: bool = False
    ) -> Planned | Answer:
        """Decide whether a request may run; an answer says why it may not.

        ``may_hold_nul`` False saves the walk over the variables when the transport has seen
        that the body has no such character. ``trusted`` allows documents of the manifest only.
        """
        planned = self._plan(request, may_hold_nul, trusted)
        if isinstance(planned, Answer):
            self.count(planned.errors)
        return planned

    def count(self, errors: Iterable[Failure]) -> None:
        """Count errors that a client is told."""
        if self.measures is not None:
            for error in errors:
                self.measures.error(code_of(error))

    def _plan(self, request: GraphQLRequest, may_hold_nul: bool, trusted: bool) -> Planned | Answer:
        prepared = self.documents.find(request, trusted=trusted)
        if prepared.errors:
            return Answer.refusal(*prepared.errors)
        operation = prepared.select(request.operation_name)
        if not isinstance(operation, Operation):
            return Answer.refusal(operation)
        bad = find_nul(request.variables) if may_hold_nul else None
        if bad is not None:
            return Answer.refusal(bad)
        limits = self.documents.limits
        written, asked = operation.operands.sizes(request.variables)
        for limit, value, bound in (
            ("objects", written.objects, limits.mutation_objects),
            ("objects", asked.objects, limits.query_objects),
            ("values", written.values, limits.mutation_values),
            ("values", asked.values, limits.query_values),
        ):
            if value > bound:
                return Answer.refusal(present(too_complex(limit, value, bound), ""))
        cost = operation.cost.evaluate(request.variables)
        if cost > limits.cost:
            return Answer.refusal(present(too_complex("cost", cost, limits.cost), ""))
        much = written.objects > limits.query_objects or written.values > limits.query_values
        points = max(1, cost + written.objects)
        lsn = NOWHERE if self.reading is None else seen_by(request)
        return Planned(prepared.document, operation, request.variables, cost, points, much, lsn)

    async def execute(
        self, planned: Planned, context: OperationContext, lsn: int = NOWHERE
    ) -> Answer:
        """Run a query or a mutation in its context, for somebody who saw what is before ``lsn``.

        Raises nothing but cancellation.
        """
        started = perf_counter()
        status = "cancelled"
        measures = self.measures
        if measures is not None:
            measures.running += 1
        try:
            async with context:
                if self.reading is not None and isinstance(context, Context):
                    seen = max(lsn, planned.lsn)
                    answer = await self.reading.run(planned, context, seen, self._execute)
                else:
                    answer = await self._execute(planned, context)
            status = "errors" if answer.errors else "problems" if context.problem_codes else "ok"
        except Exception as error:
            # Opening or closing the context failed; a mutation's own commit is inside of it.
            answer = Answer(None, True, masked(error, context.request_id))
            status = "failed"
        finally:
            if measures is not None:
                measures.running -= 1
            self._tell(planned, context, started, status)
        if answer.errors:
            self.count(answer.errors)
        return answer

    async def _execute(self, planned: Planned, context: OperationContext) -> Answer:
        plans = planned.operation.plans
        if planned.kind is OperationType.QUERY and plans and isinstance(context, Context):
            data = await plans.run(context, planned.variables)
            if data is not None:
                return Answer(data, True)
        if planned.writes_much and context.actor is None:
            return Answer.refusal(failure("Log in first.", "UNAUTHENTICATED"))
        equip(planned, context)
        executor = self._build(planned, context)
        if isinstance(executor, Answer):
            return executor
        return await finish(executor, context.request_id)

    async def subscribe(
        self, planned: Planned, make_context: ContextFactory
    ) -> AsyncGenerator[Answer, None]:
        """Run a subscription: an answer per event.

        One answer that was not executed means that the subscription was refused or broke, and is
        the last. Close the iterator to end the subscription.
        """
        context = make_context()
        started = perf_counter()
        status = "cancelled"
        measures = self.measures
        if measures is not None:
            measures.subscriptions += 1
        try:
            async with context:
                executor = self._build(planned, context)
                if isinstance(executor, Answer):
                    status = "errors"
                    self.count(executor.errors)
                    yield executor
                    return
                stream = await source_of(executor)
                if isinstance(stream, ExecutionResult):
                    status = "errors"
                    refusal = Answer(errors=reveal(stream.errors or (), context.request_id))
                    self.count(refusal.errors)
                    yield refusal
                    return
                async with aclosing(
                    self._answers(executor, stream, planned, make_context)
                ) as answers:
                    async for answer in answers:
                        yield answer
            status = "ok"
        except Exception as error:
            status = "failed"
            broken = Answer(errors=masked(error, context.request_id))
            self.count(broken.errors)
            yield broken
        finally:
            if measures is not None:
                measures.subscriptions -= 1
            self._tell(planned, context, started, status)

    async def _answers(
        self,
        executor: Executor[Any],
        stream: AsyncIterable[object],
        planned: Planned,
        make_context: ContextFactory,
    ) -> AsyncGenerator[Answer, None]:
        try:
            async for event in stream:
                async with make_context() as context:
                    root = await event.load(context) if isinstance(event, Event) else event
                    if root is None:
                        continue
                    per_event = executor.build_per_event_executor(root)
                    per_event.context_value = context
                    equip(planned, context)
                    answer = await finish(per_event, context.request_id, serially=False)
                if self.measures is not None:
                    self.measures.events += 1
                    self.count(answer.errors)
                yield answer
        finally:
            close = getattr(stream, "aclose", None)
            if close is not None:
                await close()

    def _build(self, planned: Planned, context: OperationContext) -> Executor[Any] | Answer:
        try:
            executor = PlanningExecutor.build(
                self.schema._schema,
                planned.document,
                context_value=context,
                raw_variable_values=dict(planned.variables),
                operation_name=planned.operation.name,
                max_coercion_errors=MAX_COERCION_ERRORS,
                is_awaitable=IS_AWAITABLE,
                hide_suggestions=not self.documents.suggestions,
            )
        except RecursionError:
            message = "The variables are nested too deeply."
            return Answer.refusal(failure(message, "BAD_USER_INPUT"))
        if isinstance(executor, list):
            return Answer.refusal(*(present(error, "BAD_USER_INPUT") for error in executor))
        return executor

    def _tell(
        self, planned: Planned, context: OperationContext, started: float, status: str
    ) -> None:
        """Log an operation that has ended, and count it."""
        session = context.anonymous_session
        actor = context.actor
        seconds = perf_counter() - started
        name, kind = planned.operation.name, planned.kind.value
        if self.measures is not None:
            self.measures.operation(name, kind, status, seconds, session.statements, session.rows)
            if context.problem_codes:
                self.measures.problems.update(context.problem_codes)
        OPERATIONS.tell(
            name=name,
            type=kind,
            actor_id=str(actor.id) if actor is not None else None,
            statements=session.statements,
            rows=session.rows,
            database_ms=round(session.milliseconds, 2),
            milliseconds=round(seconds * 1000, 2),
            cost=planned.cost,
            status=status,
            request_id=context.request_id,
        )


def seen_by(request: GraphQLRequest) -> int:
    """What a client has seen, as it says in the extensions of a request."""
    lsn = request.extensions.get("lsn")
    if lsn is None:
        return NOWHERE
    return read_lsn(lsn) if isinstance(lsn, str) else UNREADABLE


def equip(planned: Planned, context: OperationContext) -> None:
    """Give a context the plans of its operation."""
    if isinstance(context, Context):
        context.plans = planned.operation.plans


async def finish(
    executor: Executor[Any], request_id: str, *, serially: bool | None = None
) -> Answer:
    """Execute what has been built, and make the result presentable."""
    try:
        outcome: object = executor.execute_operation(serially)
        result = cast(ExecutionResult, await outcome if isawaitable(outcome) else outcome)
    except Exception as error:
        return Answer(None, True, masked(error, request_id))
    forsaken = getattr(executor.context_value, "forsaken", None)
    if forsaken is not None:
        raise forsaken  # nothing of it is to be told
    return Answer(result.data, True, reveal(result.errors or (), request_id))


async def source_of(executor: Executor[Any]) -> AsyncIterable[object] | ExecutionResult:
    """The source of a subscription, or the errors that kept it from starting."""
    stream: object = create_source_event_stream(executor)
    if isawaitable(stream):
        stream = await stream
    return cast(AsyncIterable[object] | ExecutionResult, stream)


def masked(error: Exception, request_id: str) -> list[Failure]:
    """An exception outside of the execution of a field."""
    located = error if isinstance(error, GraphQLError) else GraphQLError("", original_error=error)
    return reveal([located], request_id)
