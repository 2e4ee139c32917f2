"""What workers say: which tasks they want, and what came of those they have."""

from copy import copy
from datetime import timedelta
from typing import Any

import strawberry
from strawberry import auto
from strawberry.types.unset import UNSET

from db.models import work
from db.refusals import Invalid, Violation
from db.repositories.work_claimed import Claimed
from db.repositories.work_claims import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS
from schema.inputs import OnceInput, all_of, check_text, checked, reference, update_input

MAX_CLAIMS = 100
"""How many tasks one mutation claims, and how many claimed tasks one writes about."""
DEFAULT_LEASE_SECONDS = 60
MAX_LEASE_SECONDS = 86_400
MAX_PAUSE_SECONDS = 30 * 86_400
MAX_REASON_CHARS = 2_000

Path = tuple[str, ...]

_LEASE = (
    "How long the tasks are kept for the worker without a sign of life, between 1 and"
    f" {MAX_LEASE_SECONDS} seconds."
)
_TASKS = f"The tasks, at most {MAX_CLAIMS}, each with the epoch of its claim."


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


# What is said of one claimed task, alone or in a list.


@strawberry.input
class _Claimed:
    id: strawberry.ID = strawberry.field(description="The id of the task.")
    claim_epoch: int = strawberry.field(
        description="The task's `claimEpoch` as claimTasks gave it; refused once it is another."
    )


class _Ended:
    result: auto


@strawberry.input
class _Failed:
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


@strawberry.input(description="A claimed task.")
class ClaimedTaskInput(_Claimed):
    """One of several tasks whose claims are kept or given back."""


@update_input(work.Task)
class CompletedTaskInput(_Ended, _Claimed):
    """One of several claimed tasks that are done."""


@update_input(work.Task)
class FailedTaskInput(_Ended, _Failed, _Claimed):
    """One of several claimed tasks that could not be done."""


@strawberry.input(description="A claimed task to keep for longer.")
class HeartbeatTaskInput(_Claimed, OnceInput):
    """The input of heartbeatTask."""

    lease_seconds: int = strawberry.field(default=DEFAULT_LEASE_SECONDS, description=_LEASE)


@update_input(work.Task)
class CompleteTaskInput(_Ended, _Claimed, OnceInput):
    """A claimed task that is done."""


@update_input(work.Task)
class FailTaskInput(_Ended, _Failed, _Claimed, OnceInput):
    """A claimed task that could not be done."""


@strawberry.input(description="A claimed task to give back undone.")
class ReleaseTaskInput(_Claimed, OnceInput):
    """The input of releaseTask."""


@strawberry.input(description="Claimed tasks to keep for longer.")
class HeartbeatTasksInput(OnceInput):
    """The input of heartbeatTasks."""

    tasks: list[ClaimedTaskInput] = strawberry.field(description=_TASKS)
    lease_seconds: int = strawberry.field(default=DEFAULT_LEASE_SECONDS, description=_LEASE)


@strawberry.input(description="Claimed tasks that are done.")
class CompleteTasksInput(OnceInput):
    """The input of completeTasks."""

    tasks: list[CompletedTaskInput] = strawberry.field(description=_TASKS)


@strawberry.input(description="Claimed tasks that could not be done.")
class FailTasksInput(OnceInput):
    """The input of failTasks."""

    tasks: list[FailedTaskInput] = strawberry.field(description=_TASKS)


@strawberry.input(description="Claimed tasks to give back undone.")
class ReleaseTasksInput(OnceInput):
    """The input of releaseTasks."""

    tasks: list[ClaimedTaskInput] = strawberry.field(description=_TASKS)


# Reading them. Each raises Invalid with all that is wrong.


def claimed(item: Any, path: Path = ()) -> Claimed:
    """A claimed task of which nothing more is said."""
    return Claimed(id=reference("task", item.id, (*path, "id")), epoch=item.claim_epoch, path=path)


def completed(item: Any, path: Path = ()) -> Claimed:
    """A claimed task with its result."""
    id, values = all_of(
        lambda: reference("task", item.id, (*path, "id")), lambda: checked(item, path=path)
    )
    return Claimed(id=id, epoch=item.claim_epoch, path=path, result=values.get("result"))


def failed(item: Any, path: Path = ()) -> Claimed:
    """A claimed task with the reason why it could not be done."""
    id, result, pause = all_of(
        lambda: reference("task", item.id, (*path, "id")),
        lambda: _with_reason(item, path),
        lambda: _pause(item, path),
    )
    return Claimed(id=id, epoch=item.claim_epoch, path=path, result=result, pause=pause)


def project_of(input: ClaimTasksInput) -> Any:
    """The id of the project that tasks are wanted from, if it is one."""
    given = input.project_id
    if given is UNSET or given is None:
        return None
    return reference("project", given, ("project_id",))


def lease_of(input: ClaimTasksInput | HeartbeatTaskInput | HeartbeatTasksInput) -> timedelta:
    """How long tasks are to be kept."""
    seconds = bounded(("lease_seconds",), input.lease_seconds, 1, MAX_LEASE_SECONDS)
    return timedelta(seconds=seconds)


def bounded(path: Path, value: int, low: int, high: int) -> int:
    """A number between two others."""
    if value < low:
        raise Invalid([Violation(path, "ge", f"It must be at least {low}.", str(low))])
    if value > high:
        raise Invalid([Violation(path, "le", f"It must be at most {high}.", str(high))])
    return value


def _with_reason(item: Any, path: Path) -> dict[str, Any] | None:
    """The result with the reason in it, checked as a whole."""
    whole, reason = copy(item), item.reason
    if reason is not UNSET and reason is not None:
        check_text(reason, (*path, "reason"))
        if len(reason) > MAX_REASON_CHARS:
            message = f"A reason has at most {MAX_REASON_CHARS} characters."
            bound = str(MAX_REASON_CHARS)
            raise Invalid([Violation((*path, "reason"), "max_length", message, bound)])
        given: Any = {} if item.result is UNSET or item.result is None else item.result
        if isinstance(given, dict):
            whole.result = given | {"reason": reason}
    result: dict[str, Any] | None = checked(whole, path=path).get("result")
    return result


def _pause(item: Any, path: Path) -> timedelta | None:
    seconds = item.retry_after_seconds
    if seconds is UNSET or seconds is None:
        return None
    at = (*path, "retry_after_seconds")
    return timedelta(seconds=bounded(at, seconds, 0, MAX_PAUSE_SECONDS))
