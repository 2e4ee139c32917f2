"""Callers by token, as the server knows them: who they are is looked up for every request."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from db import tokens
from schema import ids
from schema.context import Client, Context, Services
from server.identity import Identity
from tests.people import answer_in

PASSWORD = "correct horse battery staple"

PROBLEMS = """
    problems { __typename code message path ... on ValidationProblem { rule bound } }
"""
LOGGED_IN = f"""
    token viewer {{ id username email displayName version }}
    loginSession {{ id deviceName userAgent ip current createdAt expiresAt revokedAt }} {PROBLEMS}
"""
SIGN_UP = f"mutation($input: SignUpInput!) {{ signUp(input: $input) {{ {LOGGED_IN} }} }}"
LOG_IN = f"mutation($input: LogInInput!) {{ logIn(input: $input) {{ {LOGGED_IN} }} }}"


@dataclass
class Caller:
    """Someone with a token, or without one."""

    services: Services
    token: str | None = field(default=None, repr=False)
    client: Client = field(default_factory=Client)
    statements: list[str] = field(default_factory=list)
    """The SQL of the last request, without the look-up of the token."""

    async def execute(self, document: str, **variables: Any) -> dict[str, Any]:
        """The whole answer. Raises Unauthenticated for a token that is not valid."""
        identity = Identity(self.services.engine, self.services.options, kept_seconds=0)
        try:
            actor = await identity.actor(self.token)
        finally:
            await identity.close()
        self.statements = []
        context = Context(
            self.services,
            actor,
            request_id="test",
            client=self.client,
            recorder=lambda sql, **_: self.statements.append(sql),
        )
        return await answer_in(context, document, variables)

    async def ask(self, document: str, **variables: Any) -> dict[str, Any]:
        """The data of an answer that must have no errors."""
        answer = await self.execute(document, **variables)
        assert "errors" not in answer, answer["errors"]
        data: dict[str, Any] = answer["data"]
        return data

    async def do(self, document: str, **input: Any) -> dict[str, Any]:
        """The payload of the one mutation in a document."""
        data = await self.ask(document, input=input)
        (payload,) = data.values()
        assert isinstance(payload, dict)
        return payload

    def by(self, token: str) -> "Caller":
        """The same surroundings with another token."""
        return Caller(self.services, token, self.client)

    async def sign_up(self, **changes: Any) -> dict[str, Any]:
        """Open an account with a name nobody else has, unless told otherwise."""
        return await self.do(SIGN_UP, **(newcomer() | changes))

    async def log_in(
        self, identifier: str, password: str = PASSWORD, **more: Any
    ) -> dict[str, Any]:
        """Begin a login session."""
        return await self.do(LOG_IN, identifier=identifier, password=password, **more)


def newcomer() -> dict[str, Any]:
    """The input of a sign-up."""
    name = f"p{uuid4().hex}"
    return {"username": name, "email": f"{name}@example.org", "password": PASSWORD}


@dataclass
class Account(Caller):
    """Someone who has signed up, by the token of their first login session."""

    username: str = ""
    email: str = ""
    login_id: str = ""

    @property
    def owner_id(self) -> UUID:
        """The id of the account."""
        assert self.token is not None
        parsed = tokens.parse(self.token)
        assert parsed is not None
        return parsed.owner_id

    @property
    def id(self) -> str:
        """The global id of the account."""
        return ids.encode("user", self.owner_id)


async def new_account(anybody: Caller, **changes: Any) -> Account:
    """Sign up."""
    opened = await anybody.sign_up(**changes)
    assert opened["problems"] == []
    return Account(
        anybody.services,
        opened["token"],
        username=opened["viewer"]["username"],
        email=opened["viewer"]["email"],
        login_id=opened["loginSession"]["id"],
    )


def rules(payload: dict[str, Any]) -> list[tuple[str, str | None]]:
    """The bad fields of a payload, each with its rule."""
    assert {problem["__typename"] for problem in payload["problems"]} <= {"ValidationProblem"}
    return [(problem["path"][-1], problem["rule"]) for problem in payload["problems"]]


def codes(payload: dict[str, Any]) -> list[str]:
    """The kinds of problems in a payload."""
    return [problem["code"] for problem in payload["problems"]]
