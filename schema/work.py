"""Projects, workers and tasks, as GraphQL shows them."""

from strawberry import auto

from db.models import work
from schema.mirror import mirror
from schema.node import Node
from schema.pages import Connection
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
    worker: Worker = root_row(work.Worker, description="The worker with this id.")
    workers: Connection[Worker] = root(work.Worker, description="The caller's workers, by name.")
