"""Projects, workers and tasks, as GraphQL shows them."""

from typing import Annotated

import strawberry
from strawberry import auto

from db.models import work
from db.repositories.work_claims import ready
from db.repositories.work_trees import MAX_DEPTH, MAX_NODES, tree
from schema import ids
from schema.context import Info
from schema.derived import derived
from schema.errors import bad_input
from schema.mirror import MIRRORS, mirror
from schema.node import Node
from schema.pages import Connection
from schema.relation_fields import decoded
from schema.relations import many, one, root, root_row


@mirror(
    work.Project, private={"next_number"}, order_by=("created_at",), default_order=("-created_at",)
)
class Project(Node):
    key: auto
    name: auto
    description: auto
    version: auto
    created_at: auto
    updated_at: auto
    deleted_at: auto
    tasks: Connection["Task"] = many(work.Task.project_id)


@mirror(work.Worker, order_by=("name",), default_order=("name",))
class Worker(Node):
    name: auto
    kind: auto
    capabilities: auto
    last_heartbeat_at: auto
    version: auto
    created_at: auto
    updated_at: auto
    deleted_at: auto
    assigned_tasks: Connection["Task"] = many(work.Task.assignee_id, default_order=("-created_at",))
    created_tasks: Connection["Task"] = many(
        work.Task.created_by_id, default_order=("-created_at",)
    )
    claimed_tasks: Connection["Task"] = many(
        work.Task.claimed_by_id, default_order=("-created_at",)
    )


@mirror(
    work.Task,
    order_by=("number", "created_at", "priority", "due_at"),
    default_order=("number",),
)
class Task(Node):
    number: auto
    title: auto
    description: auto
    status: auto
    priority: auto
    tags: auto
    due_at: auto
    run_after: auto
    claim_epoch: auto
    lease_expires_at: auto
    attempts: auto
    max_attempts: auto
    result: auto
    version: auto
    created_at: auto
    updated_at: auto
    deleted_at: auto
    project: Project = one(work.Task.project_id)
    parent: "Task" = one(work.Task.parent_id)
    parent_id: strawberry.ID | None = derived(
        lambda value: value and ids.encode("task", value),
        "parent_id",
        annotation=strawberry.ID | None,
        description="The id of the task it is a step of; free, where `parent` costs a statement.",
    )
    assignee: Worker = one(work.Task.assignee_id)
    created_by: Worker = one(work.Task.created_by_id)
    claimed_by: Worker = one(work.Task.claimed_by_id)
    subtasks: Connection["Task"] = many(work.Task.parent_id)
    dependencies: Connection["TaskDependency"] = many(work.TaskDependency.task_id)
    dependents: Connection["TaskDependency"] = many(work.TaskDependency.depends_on_id)


@mirror(work.TaskDependency)
class TaskDependency(Node):
    created_at: auto
    task: Task = one(work.TaskDependency.task_id)
    depends_on: Task = one(work.TaskDependency.depends_on_id)


class WorkQuery:
    project: Project = root_row(work.Project, description="The project with this id.")
    projects: Connection[Project] = root(
        work.Project, description="The caller's projects, newest first."
    )
    task: Task = root_row(work.Task, description="The task with this id.")
    tasks: Connection[Task] = root(
        work.Task,
        description="The caller's tasks in all projects, newest first.",
        default_order=("-created_at",),
    )
    ready_tasks: Connection[Task] = root(
        work.Task,
        description=(
            "The caller's tasks that workers can claim now, in the order in which claimTasks gives"
            " them: the most urgent first, then the oldest. They are pending, or their claim has"
            " lapsed; `runAfter` has passed, attempts are left, and every live task they depend on"
            " is done. Tasks assigned to a worker are claimed by that worker alone."
        ),
        where=ready,
        default_order=("-priority", "created_at", "number"),
    )
    worker: Worker = root_row(work.Worker, description="The worker with this id.")
    workers: Connection[Worker] = root(work.Worker, description="The caller's workers, by name.")

    @strawberry.field(
        description=(
            "A task and what is below it, as a list in the order of the tree: a task, then each of"
            " its subtasks by number with what is below it. `parentId` says where a task belongs."
            f" Of more than {MAX_NODES} tasks the upper levels come, so that the parent of every"
            " task but the first is in the list. Empty if there is no such task."
        ),
        metadata={"rows": MAX_NODES},
    )
    async def task_tree(
        self,
        info: Info,
        id: Annotated[
            strawberry.ID, strawberry.argument(description="The id of the task at the top.")
        ],
        max_depth: Annotated[
            int,
            strawberry.argument(
                description=f"How many levels below the top, between 0 and {MAX_DEPTH}."
            ),
        ] = MAX_DEPTH,
    ) -> list[Task]:
        if not 0 <= max_depth <= MAX_DEPTH:
            raise bad_input(f"`maxDepth` must be between 0 and {MAX_DEPTH}.")
        mirrored = MIRRORS[work.Task]
        root_id = decoded(mirrored, id)
        loaders = info.context.loaders
        loaders.names = info.context.field_names(info)
        level = await loaders.level(
            mirrored,
            tree(mirrored.loaded(loaders.names)),
            {"root": root_id, "max_depth": max_depth},
        )
        return level.rows  # type: ignore[return-value]  # a mirrored type's values are rows
