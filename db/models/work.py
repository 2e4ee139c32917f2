"""Projects, tasks, and the people and agents who do them."""

from datetime import datetime
from typing import ClassVar
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Field

from db.base import (
    BOOKKEEPING,
    MAX_DESCRIPTION,
    MAX_NAME,
    Base,
    Choice,
    Label,
    Owned,
    Restorable,
    Timestamped,
    Versioned,
    deletions,
    gin,
    json_column,
    keyset,
    labels,
    owned_key,
)


class WorkerKind(Choice):
    """Who does the work."""

    HUMAN = "human", "The user; there is one."
    AGENT = "agent", "A program that works for the user."


class TaskStatus(Choice):
    """How far a task has come."""

    PENDING = "pending", "Not started: a worker can claim it."
    IN_PROGRESS = "in_progress", "Somebody is doing it."
    BLOCKED = "blocked", "It cannot go on; no worker can claim it."
    DONE = "done", "Finished; what depends on it can start."
    FAILED = "failed", "Given up after too many attempts."
    CANCELLED = "cancelled", "Not to be done any more."


class ProjectFields(Base):
    """What a client may say about a project."""

    key: str = Field(
        max_length=10,
        schema_extra={"pattern": "^[A-Z][A-Z0-9]*$"},
        description="A short name for task numbers: capital letters and digits.",
    )
    name: str = Field(min_length=1, max_length=MAX_NAME, description="The name.")
    description: str = Field(
        default="", max_length=MAX_DESCRIPTION, description="What it is about."
    )


class Project(ProjectFields, Owned, Versioned, Restorable, table=True):
    """A set of tasks, numbered one after the other."""

    __tablename__ = "projects"
    __indexes__: ClassVar = (
        sa.UniqueConstraint("owner_id", "key"),
        keyset("projects", "-created_at"),
        deletions("projects"),
    )

    next_number: int = Field(
        default=1,
        ge=1,
        sa_column_kwargs=BOOKKEEPING,
        description="The number the next task gets.",
    )


class WorkerFields(Base):
    """What a client may say about a worker."""

    name: str = Field(min_length=1, max_length=MAX_NAME, description="The name.")
    capabilities: list[Label] = labels(description="What it can do, as words tasks are matched by.")


class Worker(WorkerFields, Owned, Versioned, Restorable, table=True):
    """Who creates, gets and does tasks: the user, or one of the user's agents."""

    __tablename__ = "workers"
    __indexes__: ClassVar = (
        sa.Index(
            "uq_workers_human", "owner_id", unique=True, postgresql_where=sa.text("kind = 'human'")
        ),
        keyset("workers", "name"),
        deletions("workers"),
    )

    kind: WorkerKind = Field(
        default=WorkerKind.AGENT, description="A person or a program; each user is one person."
    )
    last_heartbeat_at: datetime | None = Field(
        default=None,
        sa_column_kwargs=BOOKKEEPING,
        description="When it last said that it is alive.",
    )


_OPEN = sa.text("deleted_at IS NULL AND status IN ('pending', 'in_progress')")
_RUNNING = sa.text("deleted_at IS NULL AND status = 'in_progress'")
_CLAIM_ORDER = (sa.text("priority DESC"), "created_at", "number", "id")


class TaskFields(Base):
    """What a client may say about a task."""

    title: str = Field(min_length=1, max_length=500, description="What is to be done, in one line.")
    description: str = Field(
        default="", max_length=MAX_DESCRIPTION, description="What is to be done, in full."
    )
    status: TaskStatus = Field(default=TaskStatus.PENDING, description="How far it has come.")
    priority: int = Field(default=2, ge=0, le=4, description="0 is none, 4 is urgent.")
    tags: list[Label] = labels(description="Words to file it under.")
    due_at: datetime | None = Field(default=None, description="When it should be done.")
    run_after: datetime | None = Field(
        default=None, description="No worker can claim it before this time."
    )
    max_attempts: int = Field(
        default=3, ge=1, le=100, description="How many claims may fail before the task does."
    )


class Task(TaskFields, Owned, Versioned, Restorable, table=True):
    """One unit of work in a project, claimed by at most one worker."""

    __tablename__ = "tasks"
    __notify__ = "project_id"
    __indexes__: ClassVar = (
        sa.UniqueConstraint("owner_id", "project_id", "number"),
        # Else it would be pending for good: nobody claims it, so it never fails either.
        sa.CheckConstraint("status <> 'pending' OR attempts < max_attempts", name="attempts_left"),
        sa.UniqueConstraint("owner_id", "project_id", "id"),
        keyset("tasks", "-created_at"),
        keyset("tasks", "-priority"),
        keyset("tasks", "due_at?"),
        keyset("tasks", "number"),
        # What claims and the list of ready tasks walk, in all projects or in one.
        sa.Index("ix_tasks_ready", "owner_id", *_CLAIM_ORDER, postgresql_where=_OPEN),
        sa.Index(
            "ix_tasks_project_ready",
            "owner_id",
            "project_id",
            *_CLAIM_ORDER,
            postgresql_where=_OPEN,
        ),
        # Claims that may have run out: not by time, as heartbeats would rewrite the index.
        sa.Index("ix_tasks_running", "owner_id", "id", postgresql_where=_RUNNING),
        gin("tasks", "tags"),
        deletions("tasks"),
    )

    project_id: UUID = owned_key(
        "projects", ondelete="CASCADE", order="number", description="The project it is part of."
    )
    number: int = Field(ge=1, description="Its number in the project.")
    parent_id: UUID | None = owned_key(
        "tasks",
        ondelete="CASCADE",
        within=("project_id", "project_id"),
        nullable=True,
        order="number",
        description="The task it is a step of.",
    )
    assignee_id: UUID | None = owned_key(
        "workers",
        ondelete="NO ACTION",
        nullable=True,
        order="-created_at",
        description="Who should do it.",
    )
    created_by_id: UUID = owned_key(
        "workers", ondelete="NO ACTION", order="-created_at", description="Who created it."
    )
    claimed_by_id: UUID | None = owned_key(
        "workers",
        ondelete="NO ACTION",
        nullable=True,
        order="-created_at",
        description="Who is doing it, or did it last.",
    )
    claim_epoch: int = Field(
        default=0, ge=0, description="Raised by every claim; a write with an older one is refused."
    )
    lease_expires_at: datetime | None = Field(
        default=None,
        sa_column_kwargs=BOOKKEEPING,
        description="When the claim lapses without a heartbeat.",
    )
    attempts: int = Field(
        default=0, ge=0, description="How many claims were made and not released."
    )
    result: dict[str, object] | None = json_column(
        max_bytes=262_144, nullable=True, description="What came of it."
    )


class TaskDependency(Owned, Timestamped, table=True):
    """One task that has to wait for another."""

    __tablename__ = "task_dependencies"
    __indexes__: ClassVar = (
        sa.UniqueConstraint("owner_id", "task_id", "depends_on_id"),
        sa.CheckConstraint("task_id <> depends_on_id", name="two_tasks"),
    )

    task_id: UUID = owned_key(
        "tasks", ondelete="CASCADE", order="created_at", description="The task that waits."
    )
    depends_on_id: UUID = owned_key(
        "tasks", ondelete="CASCADE", order="created_at", description="The task to be done first."
    )
