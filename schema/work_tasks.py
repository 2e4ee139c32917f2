"""What can be done with tasks: one or many at a time."""

from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID

import strawberry
from strawberry import auto
from strawberry.types.unset import UNSET

from db.changes import Record
from db.models import work
from db.refusals import Invalid, Violation, invalid
from db.repositories import work_tasks as repository
from db.repositories.work_tasks import NewTask
from db.repositories.work_updates import TaskChange, update_tasks
from schema.context import Info
from schema.inputs import (
    ChangeInput,
    CreateInput,
    OnceInput,
    create_input,
    expected_version,
    inspected,
    new_id,
    reference,
    update_input,
)
from schema.mutation import Payload, mutation, payload, shown
from schema.problems import problems
from schema.work import Task

T = TypeVar("T")

MAX_TASKS = 1_000
"""How many tasks one mutation creates or changes."""


DEPENDENCIES_OF_ONE = 100
"""How many tasks a new one waits for."""


@strawberry.input
class _Waiting:
    depends_on_ids: list[strawberry.ID] = strawberry.field(
        default_factory=list,
        description=(
            f"The tasks, at most {DEPENDENCIES_OF_ONE}, that must be done before any worker gets"
            " this one."
        ),
    )


class _Created:
    """What a new task is made of, alone or in a list."""

    project_id: auto
    parent_id: auto
    title: auto
    description: auto
    status: auto
    priority: auto
    tags: auto
    due_at: auto
    run_after: auto
    max_attempts: auto
    assignee_id: auto
    created_by_id: auto


class _Changed:
    """What can change in a task, alone or in a list."""

    parent_id: auto
    title: auto
    description: auto
    status: auto
    priority: auto
    tags: auto
    due_at: auto
    run_after: auto
    max_attempts: auto
    assignee_id: auto


@create_input(work.Task, optional=("created_by_id",))
class CreateTaskInput(_Created, _Waiting, CreateInput):
    """What a new task is made of. The human worker creates it unless another one is named."""


@create_input(work.Task, optional=("created_by_id",))
class NewTaskInput(_Created, _Waiting):
    """One of the tasks that are created together."""

    id: strawberry.ID | None = strawberry.field(
        default=UNSET,
        description="Chosen by the client: a fresh UUIDv7 as a global id; else the server chooses.",
    )
    parent_index: int | None = strawberry.field(
        default=UNSET,
        description="Instead of `parentId`: the place in the list, from 0, of an earlier task.",
    )
    depends_on_indexes: list[int] = strawberry.field(
        default_factory=list,
        description=(
            "As `dependsOnIds`, of tasks in this list: the places, from 0, of earlier ones, at"
            f" most {DEPENDENCIES_OF_ONE}."
        ),
    )


@strawberry.input(description="Tasks to create together: all of them or none.")
class CreateTasksInput(OnceInput):
    """The input of createTasks."""

    tasks: list[NewTaskInput] = strawberry.field(
        description=f"The tasks, at most {MAX_TASKS}, in the order of their numbers."
    )


@update_input(work.Task)
class UpdateTaskInput(_Changed, ChangeInput):
    """What to change in a task; what is left out stays as it is."""


@update_input(work.Task)
class TaskChangeInput(_Changed):
    """What to change in one of several tasks; what is left out stays as it is."""

    id: strawberry.ID = strawberry.field(description="The id of the task.")
    expected_version: int | None = strawberry.field(
        default=UNSET,
        description="The version that the caller has seen; another one is a conflict.",
    )


@strawberry.input(description="Tasks to change together.")
class UpdateTasksInput(OnceInput):
    """The input of updateTasks."""

    tasks: list[TaskChangeInput] = strawberry.field(
        description=f"The changes, at most {MAX_TASKS}, each of another task."
    )
    all_or_nothing: bool = strawberry.field(
        default=True,
        description=(
            "Whether a problem with one task leaves all as they are; else the others change."
        ),
    )


@strawberry.input(description="Which task to delete.")
class DeleteTaskInput(ChangeInput):
    """The input of deleteTask."""


@strawberry.input(description="Which task to bring back.")
class RestoreTaskInput(ChangeInput):
    """The input of restoreTask."""


@payload
class TaskPayload(Payload):
    """The changed task."""

    task: Task | None = strawberry.field(default=None, description="The task as it is now.")


@payload
class TasksPayload(Payload):
    """The changed tasks."""

    tasks: list[Task] = strawberry.field(
        default_factory=list,
        description="The tasks as they are now, in the order of the input, refused ones left out.",
    )


class TaskMutation:
    """Writes of tasks."""

    @mutation(description="Create a task. It gets the next number of its project.")
    async def create_task(self, info: Info, input: CreateTaskInput) -> TaskPayload:
        rows = await repository.create_tasks(info.context.session, [_new_task(input, ())])
        return task_payload(rows[0])

    @mutation(
        description=(
            f"Create up to {MAX_TASKS} tasks, all of them or none, numbered in their order. A task"
            " can name an earlier one as its parent, by its place in the list."
        )
    )
    async def create_tasks(self, info: Info, input: CreateTasksInput) -> TasksPayload:
        _check_count(input.tasks)
        tasks = [_new_task(item, ("tasks", str(n))) for n, item in enumerate(input.tasks)]
        rows = await repository.create_tasks(info.context.session, tasks)
        return TasksPayload(tasks=shown(work.Task, rows))

    @mutation(
        description=(
            "Change a task. With a status other than IN_PROGRESS it is taken away from whoever has"
            " claimed it; one that becomes PENDING starts with no attempts made. A PENDING task"
            " cannot be left without attempts: its `maxAttempts` must be more than it has had."
        )
    )
    async def update_task(self, info: Info, input: UpdateTaskInput) -> TaskPayload:
        change = _change(input, ())
        rows = await update_tasks(info.context.session, [change], all_or_nothing=True)
        return TaskPayload(task=shown(work.Task, rows)[0])

    @mutation(description=f"Change up to {MAX_TASKS} tasks as updateTask does.")
    async def update_tasks(self, info: Info, input: UpdateTasksInput) -> TasksPayload:
        _check_count(input.tasks)
        changes = [_change(item, ("tasks", str(n))) for n, item in enumerate(input.tasks)]
        all_or_nothing = input.all_or_nothing
        rows = await update_tasks(info.context.session, changes, all_or_nothing=all_or_nothing)
        return TasksPayload(
            tasks=shown(work.Task, (row for row in rows if row is not None)),
            problems=[
                problem
                for change in changes
                for refusal in change.refused
                for problem in problems(refusal)
            ],
        )

    @mutation(description="Delete a task and what is below it; restoreTask brings them back.")
    async def delete_task(self, info: Info, input: DeleteTaskInput) -> TaskPayload:
        id, version = reference("task", input.id), expected_version(input)
        return task_payload(await repository.delete_task(info.context.session, id, version))

    @mutation(
        description=(
            "Bring back a task with exactly the tasks that were deleted with it. Refused while its"
            " project or its parent is deleted."
        )
    )
    async def restore_task(self, info: Info, input: RestoreTaskInput) -> TaskPayload:
        id, version = reference("task", input.id), expected_version(input)
        return task_payload(await repository.restore_task(info.context.session, id, version))


def task_payload(row: Record) -> TaskPayload:
    """A payload that shows one task."""
    return TaskPayload(task=shown(work.Task, [row])[0])


def _new_task(input: Any, path: tuple[str, ...]) -> NewTask:
    values, violations = inspected(input, path=path)
    id = _noting(violations, lambda: new_id("task", input.id, (*path, "id")))
    if id is not None:
        values["id"] = id
    index = getattr(input, "parent_index", UNSET)
    indexes = getattr(input, "depends_on_indexes", [])
    for name, given in (("ids", input.depends_on_ids), ("indexes", indexes)):
        if len(given) > DEPENDENCIES_OF_ONE:
            message = f"A new task waits for at most {DEPENDENCIES_OF_ONE} others."
            at = (*path, f"depends_on_{name}")
            violations.append(Violation(at, "max_items", message, str(DEPENDENCIES_OF_ONE)))
    return NewTask(
        path=path,
        values=values,
        violations=violations,
        parent_index=None if index is UNSET else index,
        depends_on_ids=_references(input.depends_on_ids, (*path, "depends_on_ids"), violations),
        depends_on_indexes=indexes,
    )


def _references(
    given: list[strawberry.ID], path: tuple[str, ...], violations: list[Violation]
) -> list[UUID | None]:
    """The tasks that a list of ids names; None for what is no such id, which is noted."""

    def one(n: int) -> UUID | None:
        return _noting(violations, lambda: reference("task", given[n], (*path, str(n))))

    return [one(n) for n in range(len(given))]


def _change(input: Any, path: tuple[str, ...]) -> TaskChange:
    values, violations = inspected(input, path=path)
    id: UUID | None = _noting(violations, lambda: reference("task", input.id, (*path, "id")))
    return TaskChange(
        path=path,
        id=id,
        expected_version=expected_version(input),
        values=values,
        violations=violations,
    )


def _noting(violations: list[Violation], check: Callable[[], T]) -> T | None:
    """What a check gives, or None and what it found wrong."""
    try:
        return check()
    except Invalid as refused:
        violations.extend(refused.violations)
        return None


def _check_count(tasks: list[Any]) -> None:
    if len(tasks) > MAX_TASKS:
        raise invalid("tasks", "max_items", f"At most {MAX_TASKS} tasks at a time.", MAX_TASKS)
