"""The limit: rows of the driver made into bytes by hand, without GraphQL, on bare ASGI.

Nobody writes an API like this. It shows what the database and the response themselves cost: the
statements are written out, each kind of request is one function, and the answers are to the byte
what Engram answers. The owner is believed and stands in every statement.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import uvicorn

Variables = dict[str, Any]
Handler = Callable[[Any, UUID, Variables], Awaitable[Any]]
Message = MutableMapping[str, Any]

CONVERSATION = """
SELECT id, title, version, created_at, updated_at, last_message_at FROM conversations
WHERE owner_id = $1 AND id = $2 AND deleted_at IS NULL
"""
CONVERSATIONS = """
SELECT id, title, last_message_at FROM conversations
WHERE owner_id = $1 AND deleted_at IS NULL
ORDER BY last_message_at DESC, id DESC LIMIT $2
"""
MESSAGES = """
SELECT ids.n, page.* FROM unnest($2::uuid[]) WITH ORDINALITY AS ids(id, n)
CROSS JOIN LATERAL (
    SELECT id, role, content, depth, created_at FROM messages
    WHERE owner_id = $1 AND conversation_id = ids.id AND deleted_at IS NULL
    ORDER BY depth, messages.id LIMIT $3
) page
"""
MESSAGES_AFTER = """
SELECT id, role, content, depth, created_at FROM messages
WHERE owner_id = $1 AND conversation_id = $2 AND deleted_at IS NULL AND (depth, id) > ($3, $4)
ORDER BY depth, id LIMIT $5
"""
PROJECTS = """
SELECT id, name, created_at FROM projects
WHERE owner_id = $1 AND deleted_at IS NULL ORDER BY created_at DESC, id DESC LIMIT $2
"""
TASKS = """
SELECT ids.n, page.* FROM unnest($2::uuid[]) WITH ORDINALITY AS ids(id, n)
CROSS JOIN LATERAL (
    SELECT id, number, title, status, created_at FROM tasks
    WHERE owner_id = $1 AND project_id = ids.id AND deleted_at IS NULL
    ORDER BY number, tasks.id LIMIT $3
) page
"""
SUBTASKS = """
SELECT ids.n, page.* FROM unnest($2::uuid[]) WITH ORDINALITY AS ids(id, n)
CROSS JOIN LATERAL (
    SELECT id, title, status FROM tasks
    WHERE owner_id = $1 AND parent_id = ids.id AND deleted_at IS NULL
    ORDER BY number, tasks.id LIMIT $3
) page
"""
TASKS_AFTER = """
SELECT id, number, title, status, priority, created_at FROM tasks
WHERE owner_id = $1 AND project_id = $2 AND deleted_at IS NULL AND (number, id) > ($3, $4)
ORDER BY number, id LIMIT $5
"""
INSERT = """
INSERT INTO conversations (owner_id, title) VALUES ($1, $2) RETURNING id, title, created_at
"""
SHOWN = {
    name: name.upper()
    for name in (
        *("pending", "in_progress", "blocked", "done", "failed", "cancelled"),
        *("system", "user", "assistant", "tool"),
    )
}
START = (-1, UUID(int=0))


async def one_row(database: Any, owner: UUID, given: Variables) -> Any:
    row = await database.fetchrow(CONVERSATION, owner, bare(given["id"]))
    return {
        "conversation": {
            "id": f"conversation_{row['id'].hex}",
            "title": row["title"],
            "version": row["version"],
            "createdAt": row["created_at"],
            "updatedAt": row["updated_at"],
            "lastMessageAt": row["last_message_at"],
        }
    }


async def lists(database: Any, owner: UUID, given: Variables) -> Any:
    projects = await database.fetch(PROJECTS, owner, given["first"])
    nodes: list[list[Any]] = [[] for _ in projects]
    ids = [row["id"] for row in projects]
    for n, key, number, title, status, created in await database.fetch(
        TASKS, owner, ids, given["each"]
    ):
        nodes[n - 1].append(
            {
                "id": f"task_{key.hex}",
                "number": number,
                "title": title,
                "status": SHOWN[status],
                "createdAt": created,
            }
        )
    return {
        "projects": {
            "nodes": [
                {
                    "id": f"project_{key.hex}",
                    "name": name,
                    "createdAt": created,
                    "tasks": {"nodes": tasks},
                }
                for (key, name, created), tasks in zip(projects, nodes, strict=True)
            ]
        }
    }


async def levels(database: Any, owner: UUID, given: Variables) -> Any:
    projects = await database.fetch(PROJECTS, owner, given["projects"])
    tasks = await database.fetch(TASKS, owner, [row["id"] for row in projects], given["tasks"])
    steps: list[list[Any]] = [[] for _ in tasks]
    ids = [row["id"] for row in tasks]
    for n, key, title, status in await database.fetch(SUBTASKS, owner, ids, given["steps"]):
        steps[n - 1].append({"id": f"task_{key.hex}", "title": title, "status": SHOWN[status]})
    nodes: list[list[Any]] = [[] for _ in projects]
    for (n, key, _, title, status, _), below in zip(tasks, steps, strict=True):
        nodes[n - 1].append(
            {
                "id": f"task_{key.hex}",
                "title": title,
                "status": SHOWN[status],
                "subtasks": {"nodes": below},
            }
        )
    return {
        "projects": {
            "nodes": [
                {"id": f"project_{key.hex}", "name": name, "tasks": {"nodes": below}}
                for (key, name, _), below in zip(projects, nodes, strict=True)
            ]
        }
    }


async def rows(database: Any, owner: UUID, given: Variables) -> Any:
    project = bare(given["id"])
    place, last = given["after"].split(":") if "after" in given else START
    last = UUID(last) if isinstance(last, str) else last
    found = await database.fetch(TASKS_AFTER, owner, project, int(place), last, given["first"])
    return {
        "project": {
            "id": given["id"],
            "tasks": {
                "nodes": [
                    {
                        "id": f"task_{key.hex}",
                        "number": number,
                        "title": title,
                        "status": SHOWN[status],
                        "priority": priority,
                        "createdAt": created,
                    }
                    for key, number, title, status, priority, created in found
                ]
            },
        }
    }


async def insert(database: Any, owner: UUID, given: Variables) -> Any:
    row = await database.fetchrow(INSERT, owner, given["input"]["title"])
    return {
        "createConversation": {
            "conversation": {
                "id": f"conversation_{row['id'].hex}",
                "title": row["title"],
                "createdAt": row["created_at"],
            },
            "problems": [],
        }
    }


def message(row: Any) -> dict[str, Any]:
    key, role, content, depth, created = row
    return {
        "id": f"message_{key.hex}",
        "role": SHOWN[role],
        "content": content,
        "depth": depth,
        "createdAt": created,
    }


async def chat_lists(database: Any, owner: UUID, given: Variables) -> Any:
    conversations = await database.fetch(CONVERSATIONS, owner, given["first"])
    nodes: list[list[Any]] = [[] for _ in conversations]
    ids = [row["id"] for row in conversations]
    for n, *row in await database.fetch(MESSAGES, owner, ids, given["each"]):
        nodes[n - 1].append(message(row))
    return {
        "conversations": {
            "nodes": [
                {
                    "id": f"conversation_{key.hex}",
                    "title": title,
                    "lastMessageAt": newest,
                    "messages": {"nodes": below},
                }
                for (key, title, newest), below in zip(conversations, nodes, strict=True)
            ]
        }
    }


async def chat_rows(database: Any, owner: UUID, given: Variables) -> Any:
    conversation = bare(given["id"])
    place, last = given["after"].split(":") if "after" in given else START
    last = UUID(last) if isinstance(last, str) else last
    found = await database.fetch(
        MESSAGES_AFTER, owner, conversation, int(place), last, given["first"]
    )
    nodes = [message(row) for row in found]
    return {"conversation": {"id": given["id"], "messages": {"nodes": nodes}}}


HANDLERS: dict[str, Handler] = {
    "one_row": one_row,
    "lists": lists,
    "levels": levels,
    "rows": rows,
    "deep": rows,
    "insert": insert,
    "chat_lists": chat_lists,
    "chat_rows": chat_rows,
    "chat_deep": chat_rows,
}


def bare(text: str) -> UUID:
    """The UUID of a global id."""
    return UUID(hex=text[-32:])


class App:
    """The ASGI application; its pool opens with it."""

    pool: Any

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        owner = next(UUID(value.decode()) for name, value in scope["headers"] if name == b"x-owner")
        body, more = b"", True
        while more:
            part = await receive()
            body += part["body"]
            more = part.get("more_body", False)
        request = orjson.loads(body)
        async with self.pool.acquire() as database:
            data = await HANDLERS[request["name"]](database, owner, request["variables"])
        answer = orjson.dumps({"data": data}, option=orjson.OPT_UTC_Z)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(answer)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        self.pool = await asyncpg.create_pool(
            host=os.environ["PGHOST"],
            user=os.environ["PGUSER"],
            database=os.environ["PGDATABASE"],
            min_size=10,
            max_size=10,
            reset=leave,
        )
        gc.collect()
        gc.freeze()  # what is there now stays; looking through it again and again costs
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.pool.close()
        await send({"type": "lifespan.shutdown.complete"})


async def leave(_: Any) -> None:
    """Between two uses of a connection there is nothing to reset: no request sets anything."""


if __name__ == "__main__":
    uvicorn.run(
        App(), host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning", access_log=False
    )
