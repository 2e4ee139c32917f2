"""What workers do: claim tasks, keep them, and give them back."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from db.changes import Record
from db.models import work
from db.refusals import Invalid, Refused, Violation, invalid
from db.repositories import work_claimed, work_claims
from db.repositories.work_claimed import Claimed, Outcomes
from schema.context import Info
from schema.inputs import all_of, checked, reference
from schema.mutation import mutation, shown
from schema.problems import problems
from schema.work_claims_inputs import (
    MAX_CLAIMS,
    ClaimTasksInput,
    CompleteTaskInput,
    CompleteTasksInput,
    FailTaskInput,
    FailTasksInput,
    HeartbeatTaskInput,
    HeartbeatTasksInput,
    Path,
    ReleaseTaskInput,
    ReleaseTasksInput,
    bounded,
    claimed,
    completed,
    failed,
    lease_of,
    project_of,
)
from schema.work_tasks import TaskPayload, TasksPayload, task_payload

Write = Callable[[Sequence[Claimed]], Awaitable[Outcomes]]

_EACH = (
    f"for up to {MAX_CLAIMS} tasks. Each stands for itself: those whose claim was lost are problems"
    " that name their place in the list, the others are done."
)


class ClaimMutation:
    """Writes of workers."""

    @mutation(
        description=(
            "Give a worker the first of the readyTasks, each of which no other claim gives away."
            " A task with tags is given only to a worker with one of them among its capabilities,"
            " unless it has none; `capabilities` stands in for the worker's own. The tasks"
            " are IN_PROGRESS until they are completed, failed or released, or until the lease"
            " runs out without a heartbeat; then they can be claimed again, after a pause as after"
            " failTask, or are FAILED if that was the last attempt."
        )
    )
    async def claim_tasks(self, info: Info, input: ClaimTasksInput) -> TasksPayload:
        values, worker_id, project_id, limit, lease = all_of(
            lambda: checked(input),
            lambda: reference("worker", input.worker_id, ("worker_id",)),
            lambda: project_of(input),
            lambda: bounded(("limit",), input.limit, 1, MAX_CLAIMS),
            lambda: lease_of(input),
        )
        rows = await work_claims.claim_tasks(
            info.context.session,
            worker_id,
            project_id=project_id,
            limit=limit,
            lease=lease,
            capabilities=values.get("capabilities"),
        )
        return TasksPayload(tasks=shown(work.Task, rows))

    @mutation(description="Keep a claimed task: its lease starts anew.")
    async def heartbeat_task(self, info: Info, input: HeartbeatTaskInput) -> TaskPayload:
        task, lease = all_of(lambda: claimed(input), lambda: lease_of(input))
        return _only(await work_claimed.heartbeat(info.context.session, [task], lease))

    @mutation(description="Mark a claimed task as done.")
    async def complete_task(self, info: Info, input: CompleteTaskInput) -> TaskPayload:
        return _only(await work_claimed.complete(info.context.session, [completed(input)]))

    @mutation(
        description=(
            "Give a claimed task back because it could not be done. It is PENDING again, for a"
            " later attempt; after the last of its `maxAttempts` it is FAILED."
        )
    )
    async def fail_task(self, info: Info, input: FailTaskInput) -> TaskPayload:
        return _only(await work_claimed.fail(info.context.session, [failed(input)]))

    @mutation(description="Give a claimed task back undone; the claim counts as no attempt.")
    async def release_task(self, info: Info, input: ReleaseTaskInput) -> TaskPayload:
        return _only(await work_claimed.release(info.context.session, [claimed(input)]))

    @mutation(description=f"heartbeatTask {_EACH}")
    async def heartbeat_tasks(self, info: Info, input: HeartbeatTasksInput) -> TasksPayload:
        session, lease = info.context.session, lease_of(input)
        return await _each(
            input.tasks, claimed, lambda tasks: work_claimed.heartbeat(session, tasks, lease)
        )

    @mutation(description=f"completeTask {_EACH}")
    async def complete_tasks(self, info: Info, input: CompleteTasksInput) -> TasksPayload:
        session = info.context.session
        return await _each(
            input.tasks, completed, lambda tasks: work_claimed.complete(session, tasks)
        )

    @mutation(description=f"failTask {_EACH}")
    async def fail_tasks(self, info: Info, input: FailTasksInput) -> TasksPayload:
        session = info.context.session
        return await _each(input.tasks, failed, lambda tasks: work_claimed.fail(session, tasks))

    @mutation(description=f"releaseTask {_EACH}")
    async def release_tasks(self, info: Info, input: ReleaseTasksInput) -> TasksPayload:
        session = info.context.session
        return await _each(input.tasks, claimed, lambda tasks: work_claimed.release(session, tasks))


def _only(outcomes: Outcomes) -> TaskPayload:
    (outcome,) = outcomes
    if isinstance(outcome, Refused):
        raise outcome
    return task_payload(outcome)


async def _each(
    items: Sequence[Any], read: Callable[[Any, Path], Claimed], write: Write
) -> TasksPayload:
    """Write what can be written; the rest are problems, in the order of the list."""
    if len(items) > MAX_CLAIMS:
        message = f"At most {MAX_CLAIMS} tasks at a time."
        raise invalid("tasks", "max_items", message, MAX_CLAIMS)
    claims: list[Claimed] = []
    found: list[Refused | Claimed] = []
    for place, item in enumerate(items):
        one = _read(item, ("tasks", str(place)), read, claims)
        if isinstance(one, Claimed):
            claims.append(one)
        found.append(one)
    written = dict(zip((one.id for one in claims), await write(claims), strict=True))
    outcomes = [written[one.id] if isinstance(one, Claimed) else one for one in found]
    rows: list[Record] = [one for one in outcomes if not isinstance(one, Refused)]
    refused = [one for one in outcomes if isinstance(one, Refused)]
    return TasksPayload(
        tasks=shown(work.Task, rows), problems=[one for each in refused for one in problems(each)]
    )


def _read(
    item: Any, path: Path, read: Callable[[Any, Path], Claimed], earlier: Sequence[Claimed]
) -> Claimed | Invalid:
    try:
        one = read(item, path)
    except Invalid as refused:
        return refused
    if any(one.id == other.id for other in earlier):
        message = "This task stands earlier in the list."
        return Invalid([Violation((*path, "id"), "unique", message)])
    return one
