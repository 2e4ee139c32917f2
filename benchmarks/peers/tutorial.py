"""Strawberry as its tutorials write it: a type for a table, a resolver for a field, a DataLoader
for a relation, SQLAlchemy Core beneath, its own ASGI view on uvicorn.

Its types have only what the workloads ask for, and the owner stands in every statement.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any
from uuid import UUID

import strawberry
import uvicorn
from aiodataloader import DataLoader
from sqlalchemy import (
    ARRAY,
    URL,
    ColumnElement,
    Executable,
    RowMapping,
    Table,
    Uuid,
    cast,
    func,
    insert,
    select,
    true,
    tuple_,
)
from sqlalchemy.ext.asyncio import create_async_engine
from strawberry.asgi import GraphQL

from db.models import conversations as chat
from db.models import work

engine = create_async_engine(
    URL.create(
        "postgresql+asyncpg",
        username=os.environ["PGUSER"],
        database=os.environ["PGDATABASE"],
        query={"host": os.environ["PGHOST"]},
    ),
    pool_size=10,
    max_overflow=0,
)

CONVERSATIONS = chat.Conversation.__table__
MESSAGES = chat.Message.__table__
PROJECTS = work.Project.__table__
TASKS = work.Task.__table__

Columns = Sequence[ColumnElement[Any]]


def columns(table: Table, *names: str) -> Columns:
    return [table.c[name] for name in names]


CONVERSATION = columns(
    CONVERSATIONS, "id", "title", "version", "created_at", "updated_at", "last_message_at"
)
MESSAGE = columns(MESSAGES, "id", "role", "content", "depth", "created_at")
PROJECT = columns(PROJECTS, "id", "name", "created_at")
TASK = columns(TASKS, "id", "number", "title", "status", "priority", "created_at")


async def rows(statement: Executable) -> Sequence[RowMapping]:
    async with engine.connect() as connection:
        return (await connection.execute(statement)).mappings().all()


@dataclass(frozen=True)
class Relation:
    """From parents to the rows below them, in the order of a column."""

    table: Table
    columns: Columns
    parent: str
    place: str


CONVERSATION_MESSAGES = Relation(MESSAGES, MESSAGE, "conversation_id", "depth")
PROJECT_TASKS = Relation(TASKS, TASK, "project_id", "number")
SUBTASKS = Relation(TASKS, TASK, "parent_id", "number")


class Pages(DataLoader[UUID, list[RowMapping]]):
    """A page of the rows below each of many parents."""

    def __init__(self, owner: UUID, relation: Relation, first: int, after: str | None) -> None:
        super().__init__()
        self.owner, self.relation, self.first, self.after = owner, relation, first, after

    async def batch_load_fn(self, keys: list[UUID]) -> list[list[RowMapping]]:
        relation = self.relation
        columns, place = relation.table.c, relation.table.c[relation.place]
        parents = func.unnest(cast(keys, ARRAY(Uuid))).table_valued("id").render_derived("parents")
        page = (
            select(*relation.columns)
            .where(
                columns.owner_id == self.owner,
                columns[relation.parent] == parents.c.id,
                columns.deleted_at.is_(None),
            )
            .order_by(place, columns.id)
            .limit(self.first)
        )
        if self.after is not None:
            number, last = self.after.split(":")
            page = page.where(tuple_(place, columns.id) > (int(number), UUID(last)))
        below = page.lateral("page")
        found = await rows(
            select(parents.c.id.label("parent"), *below.c)
            .select_from(parents.join(below, true()))
            .order_by(below.c[relation.place])
        )
        pages: dict[UUID, list[RowMapping]] = {key: [] for key in keys}
        for row in found:
            pages[row["parent"]].append(row)
        return [pages[key] for key in keys]


class Loaders:
    """The DataLoaders of one request: one for each relation, page size and cursor."""

    def __init__(self, owner: UUID) -> None:
        self.owner = owner
        self._pages: dict[tuple[str, int, str | None], Pages] = {}

    async def page(
        self, relation: Relation, key: UUID, first: int, after: str | None = None
    ) -> list[RowMapping]:
        shape = (relation.parent, first, after)
        if shape not in self._pages:
            self._pages[shape] = Pages(self.owner, relation, first, after)
        return await self._pages[shape].load(key)


Info = strawberry.Info[Loaders, None]


@strawberry.enum
class MessageRole(Enum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@strawberry.enum
class TaskStatus(Enum):
    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    BLOCKED = "blocked"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@strawberry.type
class Message:
    id: UUID
    role: MessageRole
    content: str
    depth: int
    created_at: datetime


@strawberry.type
class Conversation:
    id: UUID
    title: str | None
    version: int
    created_at: datetime
    updated_at: datetime
    last_message_at: datetime

    @strawberry.field
    async def messages(
        self, info: Info, first: int = 20, after: str | None = None
    ) -> list[Message]:
        page = await info.context.page(CONVERSATION_MESSAGES, self.id, first, after)
        return [
            Message(
                id=row["id"],
                role=MessageRole(row["role"]),
                content=row["content"],
                depth=row["depth"],
                created_at=row["created_at"],
            )
            for row in page
        ]


@strawberry.type
class Task:
    id: UUID
    number: int
    title: str
    status: TaskStatus
    priority: int
    created_at: datetime

    @strawberry.field
    async def subtasks(self, info: Info, first: int = 20) -> list["Task"]:
        page = await info.context.page(SUBTASKS, self.id, first)
        return [as_task(row) for row in page]


@strawberry.type
class Project:
    id: UUID
    name: str
    created_at: datetime

    @strawberry.field
    async def tasks(self, info: Info, first: int = 20, after: str | None = None) -> list[Task]:
        page = await info.context.page(PROJECT_TASKS, self.id, first, after)
        return [as_task(row) for row in page]


def as_task(row: RowMapping) -> Task:
    return Task(
        id=row["id"],
        number=row["number"],
        title=row["title"],
        status=TaskStatus(row["status"]),
        priority=row["priority"],
        created_at=row["created_at"],
    )


@strawberry.type
class Query:
    @strawberry.field
    async def conversation(self, info: Info, id: strawberry.ID) -> Conversation | None:
        table = CONVERSATIONS
        found = await rows(
            select(*CONVERSATION).where(
                table.c.owner_id == info.context.owner,
                table.c.id == UUID(id),
                table.c.deleted_at.is_(None),
            )
        )
        return Conversation(**found[0]) if found else None

    @strawberry.field
    async def conversations(self, info: Info, first: int = 20) -> list[Conversation]:
        table = CONVERSATIONS
        found = await rows(
            select(*CONVERSATION)
            .where(table.c.owner_id == info.context.owner, table.c.deleted_at.is_(None))
            .order_by(table.c.last_message_at.desc(), table.c.id.desc())
            .limit(first)
        )
        return [Conversation(**row) for row in found]

    @strawberry.field
    async def project(self, info: Info, id: strawberry.ID) -> Project | None:
        table = PROJECTS
        found = await rows(
            select(*PROJECT).where(
                table.c.owner_id == info.context.owner,
                table.c.id == UUID(id),
                table.c.deleted_at.is_(None),
            )
        )
        return Project(**found[0]) if found else None

    @strawberry.field
    async def projects(self, info: Info, first: int = 20) -> list[Project]:
        table = PROJECTS
        found = await rows(
            select(*PROJECT)
            .where(table.c.owner_id == info.context.owner, table.c.deleted_at.is_(None))
            .order_by(table.c.created_at.desc(), table.c.id.desc())
            .limit(first)
        )
        return [Project(**row) for row in found]


@strawberry.input
class CreateConversationInput:
    title: str | None = None


@strawberry.type
class Mutation:
    @strawberry.mutation
    async def create_conversation(self, info: Info, input: CreateConversationInput) -> Conversation:
        statement = (
            insert(CONVERSATIONS)
            .values(owner_id=info.context.owner, title=input.title)
            .returning(*CONVERSATION)
        )
        async with engine.begin() as connection:
            row = (await connection.execute(statement)).mappings().one()
        return Conversation(**row)


class App(GraphQL[Loaders, None]):
    async def get_context(self, request: Any, response: Any) -> Loaders:
        return Loaders(UUID(request.headers["x-owner"]))


if __name__ == "__main__":
    uvicorn.run(
        App(strawberry.Schema(Query, Mutation), graphql_ide=None),
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        log_level="warning",
        access_log=False,
    )
