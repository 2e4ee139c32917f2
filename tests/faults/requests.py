"""Requests as bytes, for clients that do not behave."""

from __future__ import annotations

import asyncio
import json
import socket

CREATE = (
    "mutation($project: ID!, $title: String!) {"
    " createTask(input: {projectId: $project, title: $title})"
    " { task { id } problems { message } } }"
)
PROJECT = (
    'mutation { createProject(input: { key: "ENG", name: "Engine" })'
    " { project { id } problems { message } } }"
)


def headers_of(token: bytes, *, length: int) -> bytes:
    """What comes before a body."""
    lines = [
        b"POST /graphql HTTP/1.1",
        b"host: 127.0.0.1",
        b"content-type: application/json",
        b"content-length: %d" % length,
        *([b"authorization: Bearer " + token] if token else []),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def post(token: str, query: str, **variables: str) -> bytes:
    """A whole request."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    return headers_of(token.encode(), length=len(body)) + body


def close_writing(writer: asyncio.StreamWriter) -> None:
    """Say that nothing more comes, once what was written has left; stay to read."""
    writer.write_eof()
    assert writer.get_extra_info("socket").family == socket.AF_INET
