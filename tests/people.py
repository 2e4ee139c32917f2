"""People of tests: each owns a part of the shared database, and asks as a client would."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import orjson
from graphql import execute, parse, validate
from sqlalchemy.ext.asyncio import AsyncEngine

from schema import build_schema
from schema.context import Actor, Context, Services


async def answer_in(
    context: Context, document: str, variables: Mapping[str, Any]
) -> dict[str, Any]:
    """The answer to an operation: `data` and, if there are any, `errors`."""
    schema = build_schema()._schema
    parsed = parse(document)
    invalid = validate(schema, parsed)
    if invalid:
        return {"errors": [error.formatted for error in invalid]}
    async with context:
        result: Any = execute(
            schema, parsed, context_value=context, variable_values=dict(variables)
        )
        if hasattr(result, "__await__"):
            result = await result
    # As the client reads it: values of jsonb columns are text until they are written.
    answer: dict[str, Any] = {"data": json.loads(orjson.dumps(result.data))}
    if result.errors:
        answer["errors"] = [error.formatted for error in result.errors]
    return answer


@dataclass
class Person:
    """Someone with an account, a human worker and nothing else."""

    owner_id: UUID
    worker_id: UUID
    services: Services
    statements: list[str] = field(default_factory=list)
    """The SQL of the last request."""

    @property
    def engine(self) -> AsyncEngine:
        return self.services.engine

    async def execute(self, document: str, **variables: Any) -> dict[str, Any]:
        """The whole answer: `data` and, if there are any, `errors`."""
        self.statements = []
        actor = Actor(owner_id=self.owner_id, kind="user", id=uuid4())
        context = Context(
            self.services,
            actor,
            request_id="test",
            recorder=lambda sql, **_: self.statements.append(sql),
        )
        return await answer_in(context, document, variables)

    async def ask(self, document: str, **variables: Any) -> dict[str, Any]:
        """The data of an answer that must have no errors."""
        answer = await self.execute(document, **variables)
        assert "errors" not in answer, answer["errors"]
        data: dict[str, Any] = answer["data"]
        return data
