"""What can be done with projects, workers, and dependencies between tasks."""

from uuid import UUID

import strawberry
from strawberry import auto

from db.changes import Record
from db.models import work
from db.repositories import work as repository
from db.repositories import work_dependencies
from schema.context import Info
from schema.inputs import (
    ChangeInput,
    CreateInput,
    OnceInput,
    all_of,
    checked,
    create_input,
    expected_version,
    new_id,
    reference,
    update_input,
)
from schema.mutation import Payload, mutation, payload, shown
from schema.work import Project, TaskDependency, Worker


@create_input(work.Project)
class CreateProjectInput(CreateInput):
    """What a new project is made of."""

    key: auto
    name: auto
    description: auto


@update_input(work.Project)
class UpdateProjectInput(ChangeInput):
    """What to change in a project; what is left out stays as it is."""

    key: auto
    name: auto
    description: auto


@strawberry.input(description="Which project to delete.")
class DeleteProjectInput(ChangeInput):
    """The input of deleteProject."""


@strawberry.input(description="Which project to bring back.")
class RestoreProjectInput(ChangeInput):
    """The input of restoreProject."""


@create_input(work.Worker)
class CreateWorkerInput(CreateInput):
    """What a new agent is made of; the human worker is there from the start."""

    name: auto
    capabilities: auto


@update_input(work.Worker)
class UpdateWorkerInput(ChangeInput):
    """What to change in a worker; what is left out stays as it is."""

    name: auto
    capabilities: auto


@strawberry.input(description="Which agent to delete.")
class DeleteWorkerInput(ChangeInput):
    """The input of deleteWorker."""


@strawberry.input(description="Which agent to bring back.")
class RestoreWorkerInput(ChangeInput):
    """The input of restoreWorker."""


@strawberry.input(description="Two tasks of the caller, in one project or in two.")
class TwoTasksInput(OnceInput):
    """What mutations of dependencies say."""

    task_id: strawberry.ID = strawberry.field(description="The task that waits.")
    depends_on_id: strawberry.ID = strawberry.field(description="The task to be done first.")


@strawberry.input(description="Which task is to wait for which, in one project or in two.")
class AddTaskDependencyInput(TwoTasksInput):
    """The input of addTaskDependency."""


@strawberry.input(description="Which task no longer waits for which.")
class RemoveTaskDependencyInput(TwoTasksInput):
    """The input of removeTaskDependency."""


@payload
class ProjectPayload(Payload):
    """The changed project."""

    project: Project | None = strawberry.field(
        default=None, description="The project as it is now."
    )


@payload
class WorkerPayload(Payload):
    """The changed worker."""

    worker: Worker | None = strawberry.field(default=None, description="The worker as it is now.")


@payload
class TaskDependencyPayload(Payload):
    """The dependency that was added or removed."""

    dependency: TaskDependency | None = strawberry.field(
        default=None, description="The dependency; after a removal, as it was."
    )


class WorkMutation:
    """Writes of projects, workers and dependencies."""

    @mutation(description="Create a project.")
    async def create_project(self, info: Info, input: CreateProjectInput) -> ProjectPayload:
        values, id = all_of(lambda: checked(input), lambda: new_id("project", input.id))
        return _project(await repository.create_project(info.context.session, values, id=id))

    @mutation(description="Change a project.")
    async def update_project(self, info: Info, input: UpdateProjectInput) -> ProjectPayload:
        id, values = all_of(lambda: reference("project", input.id), lambda: checked(input))
        session, version = info.context.session, expected_version(input)
        return _project(await repository.update_project(session, id, values, version))

    @mutation(description="Delete a project and its tasks; restoreProject brings them back.")
    async def delete_project(self, info: Info, input: DeleteProjectInput) -> ProjectPayload:
        id, version = reference("project", input.id), expected_version(input)
        return _project(await repository.delete_project(info.context.session, id, version))

    @mutation(description="Bring back a project with exactly the tasks that were deleted with it.")
    async def restore_project(self, info: Info, input: RestoreProjectInput) -> ProjectPayload:
        id, version = reference("project", input.id), expected_version(input)
        return _project(await repository.restore_project(info.context.session, id, version))

    @mutation(description="Create an agent that can be given tasks.")
    async def create_worker(self, info: Info, input: CreateWorkerInput) -> WorkerPayload:
        values, id = all_of(lambda: checked(input), lambda: new_id("worker", input.id))
        return _worker(await repository.create_worker(info.context.session, values, id=id))

    @mutation(description="Change a worker.")
    async def update_worker(self, info: Info, input: UpdateWorkerInput) -> WorkerPayload:
        id, values = all_of(lambda: reference("worker", input.id), lambda: checked(input))
        session, version = info.context.session, expected_version(input)
        return _worker(await repository.update_worker(session, id, values, version))

    @mutation(
        description=(
            "Delete an agent. Its tasks go on naming it, but it gets no others. The human worker"
            " cannot be deleted."
        )
    )
    async def delete_worker(self, info: Info, input: DeleteWorkerInput) -> WorkerPayload:
        id, version = reference("worker", input.id), expected_version(input)
        return _worker(await repository.delete_worker(info.context.session, id, version))

    @mutation(description="Bring back an agent.")
    async def restore_worker(self, info: Info, input: RestoreWorkerInput) -> WorkerPayload:
        id, version = reference("worker", input.id), expected_version(input)
        return _worker(await repository.restore_worker(info.context.session, id, version))

    @mutation(
        description=(
            "Let a task wait until another one is done. Refused when the other one waits for it,"
            " directly or by way of others."
        )
    )
    async def add_task_dependency(
        self, info: Info, input: AddTaskDependencyInput
    ) -> TaskDependencyPayload:
        task, depends_on = _two_tasks(input)
        session = info.context.session
        return _dependency(await work_dependencies.add_dependency(session, task, depends_on))

    @mutation(description="Let a task no longer wait for another one; either may be deleted.")
    async def remove_task_dependency(
        self, info: Info, input: RemoveTaskDependencyInput
    ) -> TaskDependencyPayload:
        task, depends_on = _two_tasks(input)
        session = info.context.session
        return _dependency(await work_dependencies.remove_dependency(session, task, depends_on))


def _two_tasks(input: TwoTasksInput) -> list[UUID]:
    return all_of(
        lambda: reference("task", input.task_id, ("task_id",)),
        lambda: reference("task", input.depends_on_id, ("depends_on_id",)),
    )


def _project(row: Record) -> ProjectPayload:
    return ProjectPayload(project=shown(work.Project, [row])[0])


def _worker(row: Record) -> WorkerPayload:
    return WorkerPayload(worker=shown(work.Worker, [row])[0])


def _dependency(row: Record) -> TaskDependencyPayload:
    return TaskDependencyPayload(dependency=shown(work.TaskDependency, [row])[0])
