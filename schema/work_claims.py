"""What workers do: claim tasks, keep them, and give them back."""

from copy import copy
from datetime import timedelta
from typing import Any

import strawberry
from strawberry import auto
from strawberry.types.unset import UNSET

from db.models import work
from db.refusals import invalid
from db.repositories import work_claims as repository
from db.repositories.work_claims import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS
from schema.context import Info
from schema.inputs import OnceInput, all_of, check_text, checked, reference, update_input
from schema.mutation import mutation, shown
from schema.work_tasks import TaskPayload, TasksPayload, task_payload

MAX_CLAIMS = 100
DEFAULT_LEASE_SECONDS = 60
MAX_LEASE_SECONDS = 86_400
MAX_PAUSE_SECONDS = 30 * 86_400
MAX_REASON_CHARS = 2_000

_LEASE = (
    "How long the tasks are kept for the worker without a sign of life, between 1 and"
    f" {MAX_LEASE_SECONDS} seconds."
)


@update_input(work.Worker)
class ClaimTasksInput(OnceInput):
    """Who wants tasks, and which."""

    worker_id: strawberry.ID = strawberry.field(description="The worker who is to do them.")
    project_id: strawberry.ID | None = strawberry.field(
        default=UNSET, description="Only tasks of this project; else of all."
    )
    limit: int = strawberry.field(
        default=1, description=f"How many tasks, between 1 and {MAX_CLAIMS}."
    )
    lease_seconds: int = strawberry.field(default=DEFAULT_LEASE_SECONDS, description=_LEASE)
    capabilities: auto


@strawberry.input(description="A task and the claim under which it is being done.")
class ClaimedTaskInput(OnceInput):
    """What every write of a worker says."""

    id: strawberry.ID = strawberry.field(description="The id of the task.")
    claim_epoch: int = strawberry.field(
        description="The task's `claimEpoch` as claimTasks gave it; refused once it is another."
    )


@strawberry.input(description="A claimed task to keep for longer.")
class HeartbeatTaskInput(ClaimedTaskInput):
    """The input of heartbeatTask."""

    lease_seconds: int = strawberry.field(default=DEFAULT_LEASE_SECONDS, description=_LEASE)


@update_input(work.Task)
class CompleteTaskInput(ClaimedTaskInput):
    """A claimed task that is done."""

    result: auto


@update_input(work.Task)
class FailTaskInput(ClaimedTaskInput):
    """A claimed task that could not be done."""

    result: auto
    reason: str | None = strawberry.field(
        default=UNSET,
        description=f"Why, in at most {MAX_REASON_CHARS} characters; kept as `reason` in `result`.",
    )
    retry_after_seconds: int | None = strawberry.field(
        default=UNSET,
        description=(
            f"When it may be claimed again, at most {MAX_PAUSE_SECONDS} seconds from now. When left"
            f" out, {FIRST_PAUSE_SECONDS} seconds after the first attempt, twice as long after each"
            f" further one, at most {LONGEST_PAUSE_SECONDS}."
        ),
    )


@strawberry.input(description="A claimed task to give back undone.")
class ReleaseTaskInput(ClaimedTaskInput):
    """The input of releaseTask."""


class ClaimMutation:
    """Writes of workers."""

    @mutation(
        description=(
            "Give a worker the first of the readyTasks, each of which no other claim gives away."
            " A task with tags is given only to a worker with one of them among its capabilities,"
            " unless it has none; `capabilities` stands in for the worker's own. The tasks"
            " are IN_PROGRESS until they are completed, failed or released, or until the lease"
            " runs out without a heartbeat; then they can be claimed again."
        )
    )
    async def claim_tasks(self, info: Info, input: ClaimTasksInput) -> TasksPayload:
        values, worker_id, project_id, limit, lease = all_of(
            lambda: checked(input),
            lambda: reference("worker", input.worker_id, ("worker_id",)),
            lambda: _project_id(input),
            lambda: _bounded("limit", input.limit, 1, MAX_CLAIMS),
            lambda: _bounded("lease_seconds", input.lease_seconds, 1, MAX_LEASE_SECONDS),
        )
        rows = await repository.claim_tasks(
            info.context.session,
            worker_id,
            project_id=project_id,
            limit=limit,
            lease=timedelta(seconds=lease),
            capabilities=values.get("capabilities"),
        )
        return TasksPayload(tasks=shown(work.Task, rows))

    @mutation(description="Keep a claimed task: its lease starts anew.")
    async def heartbeat_task(self, info: Info, input: HeartbeatTaskInput) -> TaskPayload:
        id, lease = all_of(
            lambda: reference("task", input.id),
            lambda: _bounded("lease_seconds", input.lease_seconds, 1, MAX_LEASE_SECONDS),
        )
        session = info.context.session
        return task_payload(
            await repository.heartbeat_task(
                session, id, input.claim_epoch, timedelta(seconds=lease)
            )
        )

    @mutation(description="Mark a claimed task as done.")
    async def complete_task(self, info: Info, input: CompleteTaskInput) -> TaskPayload:
        id, values = all_of(lambda: reference("task", input.id), lambda: checked(input))
        session, result = info.context.session, values.get("result")
        return task_payload(await repository.complete_task(session, id, input.claim_epoch, result))

    @mutation(
        description=(
            "Give a claimed task back because it could not be done. It is PENDING again, for a"
            " later attempt; after the last of its `maxAttempts` it is FAILED."
        )
    )
    async def fail_task(self, info: Info, input: FailTaskInput) -> TaskPayload:
        id, result, pause = all_of(
            lambda: reference("task", input.id), lambda: _result(input), lambda: _pause(input)
        )
        session = info.context.session
        return task_payload(
            await repository.fail_task(session, id, input.claim_epoch, result, pause)
        )

    @mutation(description="Give a claimed task back undone; the claim counts as no attempt.")
    async def release_task(self, info: Info, input: ReleaseTaskInput) -> TaskPayload:
        id = reference("task", input.id)
        session = info.context.session
        return task_payload(await repository.release_task(session, id, input.claim_epoch))


def _project_id(input: ClaimTasksInput) -> Any:
    given = input.project_id
    if given is UNSET or given is None:
        return None
    return reference("project", given, ("project_id",))


def _result(input: FailTaskInput) -> dict[str, Any] | None:
    """The result with the reason in it, checked as a whole."""
    whole, reason = copy(input), input.reason
    if reason is not UNSET and reason is not None:
        check_text(reason, ("reason",))
        if len(reason) > MAX_REASON_CHARS:
            message = f"A reason has at most {MAX_REASON_CHARS} characters."
            raise invalid("reason", "max_length", message, MAX_REASON_CHARS)
        given: Any = {} if input.result is UNSET or input.result is None else input.result
        if isinstance(given, dict):
            whole.result = given | {"reason": reason}
    result: dict[str, Any] | None = checked(whole).get("result")
    return result


def _pause(input: FailTaskInput) -> timedelta | None:
    seconds = input.retry_after_seconds
    if seconds is UNSET or seconds is None:
        return None
    return timedelta(seconds=_bounded("retry_after_seconds", seconds, 0, MAX_PAUSE_SECONDS))


def _bounded(name: str, value: int, low: int, high: int) -> int:
    if value < low:
        raise invalid(name, "ge", f"It must be at least {low}.", low)
    if value > high:
        raise invalid(name, "le", f"It must be at most {high}.", high)
    return value
