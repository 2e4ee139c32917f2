"""People who use the real schema through the real server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx

if TYPE_CHECKING:
    from tests.edge.conftest import Served


@dataclass(frozen=True)
class Someone:
    """A person who signed up through the API."""

    served: Served
    token: str

    async def post(self, body: bytes) -> httpx.Response:
        """Ask as a modern client does, with a body as it is."""
        headers = {
            "authorization": f"Bearer {self.token}",
            "accept": "application/graphql-response+json",
            "content-type": "application/json",
        }
        return await self.served.client.post("/graphql", content=body, headers=headers)

    async def execute(self, query: str, **variables: Any) -> dict[str, Any]:
        response = await self.served.client.post(
            "/graphql",
            json={"query": query, "variables": variables},
            headers={"authorization": f"Bearer {self.token}"},
        )
        body: dict[str, Any] = response.json()
        return body

    async def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        body = await self.execute(query, **variables)
        assert "errors" not in body, body["errors"]
        data: dict[str, Any] = body["data"]
        for payload in data.values():
            assert not isinstance(payload, dict) or not payload.get("problems")
        return data


SIGN_UP = """mutation($input: SignUpInput!) { signUp(input: $input) {
    token problems { __typename code message ... on RateLimited { retryAfterSeconds } }
} }"""


async def sign_up(served: Served) -> Someone:
    name = f"n{uuid4().hex}"
    data = await Someone(served, "").served.client.post(
        "/graphql",
        json={
            "query": SIGN_UP,
            "variables": {
                "input": {
                    "username": name,
                    "email": f"{name}@example.org",
                    "password": "correct horse battery staple",
                }
            },
        },
    )
    return Someone(served, data.json()["data"]["signUp"]["token"])
