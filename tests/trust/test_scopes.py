"""What each scope of an API key opens: every mutation, root and subscription of the schema."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from graphql import (
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLInterfaceType,
    GraphQLList,
    GraphQLObjectType,
    get_named_type,
    get_nullable_type,
    is_leaf_type,
    is_required_argument,
    is_required_input_field,
)
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from schema import build_schema, ids
from schema.mirror import MIRRORS
from tests.edge.conftest import Login, NewLogin, Served
from tests.edge.sockets import hear, opened, say

SCHEMA = build_schema()._schema
OPEN = {"signUp", "logIn", "rateLimit"}
ACCOUNT = {
    # mutations
    "changePassword", "updateViewer", "deleteAccount", "logOut", "revokeLoginSession",
    "revokeOtherLoginSessions", "createApiKey", "revokeApiKey", "exportAccount",
    # roots
    "loginSessions", "apiKeys", "accountExport", "accountExports", "auditEvents",
}  # fmt: skip
"""What is about the account; all else that is written asks for `write`, and read for `read`."""
ALL = ("read", "write", "account")


def asked_of(kind: str, name: str) -> str | None:
    """The scope that a root of the schema must ask for."""
    if name in OPEN:
        return None
    if name in ACCOUNT:
        return "account"
    return "write" if kind == "mutation" else "read"


def opens(scopes: Sequence[str], scope: str | None) -> bool:
    """Who may write may read what comes of it."""
    return scope is None or scope in scopes or (scope == "read" and "write" in scopes)


def roots() -> Iterator[tuple[str, str, GraphQLField]]:
    for kind, type_ in (
        ("query", SCHEMA.query_type),
        ("mutation", SCHEMA.mutation_type),
        ("subscription", SCHEMA.subscription_type),
    ):
        assert type_ is not None
        for name, field in type_.fields.items():
            yield kind, name, field


def literal(kind: GraphQLInputType) -> str:
    """Some value of a type, as it is written in a document; ids lead nowhere."""
    bare = get_nullable_type(kind)
    if isinstance(bare, GraphQLList):
        return f"[{literal(bare.of_type)}]"
    if isinstance(bare, GraphQLInputObjectType):
        fields = bare.fields.items()
        needed = [f"{name}: {literal(one.type)}" for name, one in fields
                  if is_required_input_field(one)]  # fmt: skip
        return "{" + ", ".join(needed) + "}"
    if isinstance(bare, GraphQLEnumType):
        return str(next(iter(bare.values)))
    return {"Int": "1", "Boolean": "true", "Float": "1.0", "JSON": "{}"}.get(
        get_named_type(bare).name, '"x"'
    )


def nowhere(root: str, argument: str) -> str | None:
    """An id of nothing, of the type that a root wants."""
    kinds = {mirror.name.lower(): mirror.key for mirror in MIRRORS.values()} | {"tasktree": "task"}
    name = root if argument == "id" else argument.removesuffix("Id")
    kind = kinds.get(name.lower())
    return f'"{ids.encode(kind, uuid4())}"' if kind is not None else None


def selection(field: GraphQLField) -> str:
    """Something to ask of a field."""
    kind = get_named_type(field.type)
    if is_leaf_type(kind):
        return ""
    if isinstance(kind, GraphQLObjectType | GraphQLInterfaceType) and "problems" in kind.fields:
        return "{ problems { code } }"
    if isinstance(kind, GraphQLObjectType) and "pageInfo" in kind.fields:
        return "{ pageInfo { hasNextPage } }"
    return "{ __typename }"


def document(kind: str, name: str, field: GraphQLField) -> str:
    needed = [
        f"{argument}: {nowhere(name, argument) or literal(one.type)}"
        for argument, one in field.args.items()
        if is_required_argument(one)
    ]
    arguments = f"({', '.join(needed)})" if needed else ""
    return f"{kind} {{ {name}{arguments} {selection(field)} }}"


@pytest_asyncio.fixture
async def keys(new_login: NewLogin, admin_engine: AsyncEngine) -> dict[tuple[str, ...], Login]:
    """An API key of one person for each set of scopes."""
    made = {}
    owner_id = None
    for count in range(1, 4):
        for scopes in combinations(ALL, count):
            login = await new_login(of=owner_id, key=True)
            owner_id = login.owner_id
            async with admin_engine.connect() as admin:
                await admin.execute(
                    text("UPDATE api_keys SET scopes = CAST(:scopes AS jsonb) WHERE id = :id"),
                    {"scopes": str(list(scopes)).replace("'", '"'), "id": login.id},
                )
            made[scopes] = login
    return made


async def codes(served: Served, login: Login | None, query: str) -> set[str]:
    """Why nothing was done, if it is for one of the reasons that are about who asks."""
    answer = await served.client.post(
        "/graphql", json={"query": query}, headers=login.headers if login else {}
    )
    return reasons(answer.json(), query)


def reasons(body: dict[str, Any], query: str) -> set[str]:
    found = {error["extensions"]["code"] for error in body.get("errors", ())}
    assert "GRAPHQL_VALIDATION_FAILED" not in found, (query, body)
    for value in (body.get("data") or {}).values():
        if isinstance(value, dict):
            found |= {problem["code"] for problem in value.get("problems", ())}
    return found & {"FORBIDDEN", "UNAUTHENTICATED"}


async def test_every_query_and_mutation_asks_for_its_scope_and_no_other(
    whole: Served, keys: dict[tuple[str, ...], Login]
) -> None:
    for kind, name, field in roots():
        if kind == "subscription" or name in ("node", "nodes"):
            continue  # see below
        scope, query = asked_of(kind, name), document(kind, name, field)
        for scopes, login in keys.items():
            may_answer = opens(scopes, scope)
            if kind == "mutation" and may_answer:
                continue  # what it does is others' to test
            expected = set() if may_answer else {"FORBIDDEN"}
            assert await codes(whole, login, query) == expected, (name, scopes)
        if kind == "query":
            expected = set() if scope is None else {"UNAUTHENTICATED"}
            assert await codes(whole, None, query) == expected, name
        elif scope is not None:
            assert await codes(whole, None, query) == {"UNAUTHENTICATED"}, name


async def test_every_subscription_asks_for_its_scope(
    whole: Served, keys: dict[tuple[str, ...], Login]
) -> None:
    async with opened(whole, keys["account",]) as connection:
        for kind, name, field in roots():
            if kind != "subscription":
                continue
            query = document(kind, name, field)
            await say(connection, {"type": "subscribe", "id": name, "payload": {"query": query}})
            refused = await hear(connection)
            assert refused["type"] == "error", name
            assert refused["payload"][0]["extensions"]["code"] == "FORBIDDEN", name


@pytest.mark.parametrize("kind", sorted(mirror.key for mirror in MIRRORS.values()))
async def test_no_id_leads_a_key_to_a_type_that_it_may_not_see(
    whole: Served, keys: dict[tuple[str, ...], Login], kind: str
) -> None:
    (mirror,) = (one for one in MIRRORS.values() if one.key == kind)
    assert mirror.access == ("account" if mirror.name in ACCOUNT_TYPES else "read")
    id = ids.encode(kind, uuid4())
    for query in (f'{{ node(id: "{id}") {{ id }} }}', f'{{ nodes(ids: ["{id}"]) {{ id }} }}'):
        for scopes, login in keys.items():
            expected = set() if opens(scopes, mirror.access) else {"FORBIDDEN"}
            assert await codes(whole, login, query) == expected, scopes


ACCOUNT_TYPES = {"LoginSession", "ApiKey", "AccountExport", "AuditEvent"}


def test_nothing_that_may_be_read_leads_to_what_is_of_the_account() -> None:
    """So that it is enough for roots and ids to ask."""
    hidden = {f"{name}{part}" for name in ACCOUNT_TYPES for part in ("", "Connection", "Edge")}
    for type_ in SCHEMA.type_map.values():
        if not isinstance(type_, GraphQLObjectType) or type_.name in hidden | {"Query"}:
            continue
        if type_.name.endswith("Payload"):
            continue  # a mutation asks first
        for name, field in type_.fields.items():
            assert get_named_type(field.type).name not in hidden, (type_.name, name)
