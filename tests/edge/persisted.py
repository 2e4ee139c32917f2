"""Documents by their hash and by their id: what tests send and what they hear."""

from typing import Any
from uuid import uuid4

import httpx

from server.requests import hash_of
from tests.edge.conftest import JSON, Served

HELLO = {"data": {"hello": "Hello, world!"}}
MISS = {
    "errors": [
        {
            "message": "PersistedQueryNotFound",
            "extensions": {"code": "PERSISTED_QUERY_NOT_FOUND"},
        }
    ]
}
FORBIDDEN = {
    "errors": [
        {"message": "Only trusted documents are served.", "extensions": {"code": "FORBIDDEN"}}
    ]
}


def new_query(selection: str = "{ hello }") -> str:
    """A document that no other test sends."""
    return f"query Q{uuid4().hex} {selection}"


def hashed(query: str, *, text: bool = False, **others: Any) -> dict[str, Any]:
    """A request for a document by its hash, as Apollo Client makes it."""
    persisted = {"version": 1, "sha256Hash": hash_of(query)}
    request = {"extensions": {"persistedQuery": persisted}} | others
    return request | {"query": query} if text else request


async def post(served: Served, value: object, media: str = JSON) -> tuple[int, Any]:
    """The status and the body of an answer."""
    response = await served.client.post("/graphql", json=value, headers={"accept": media})
    return response.status_code, response.json()


async def get(
    served: Served, headers: dict[str, str] | None = None, /, **parameters: str
) -> httpx.Response:
    """The answer to a URL."""
    return await served.client.get("/graphql", params=parameters, headers=headers)
