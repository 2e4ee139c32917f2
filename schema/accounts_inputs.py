"""What the mutations of accounts take and answer."""

from typing import Any

import strawberry
from sqlalchemy import Column, String
from strawberry import auto
from strawberry.types.unset import UNSET

from db.models import accounts
from db.refusals import Invalid, Violation
from schema.accounts import ApiKey, LoginSession, User
from schema.inputs import (
    CreateInput,
    MutationInput,
    OnceInput,
    check_text,
    create_input,
    update_input,
)
from schema.mutation import SECRET, Payload, payload, secret

MIN_PASSWORD_CHARS = 8
MAX_PASSWORD_CHARS = 200

_VERSION = "The version of the viewer that the caller has seen; another one is a conflict."


@create_input(accounts.User, accounts.LoginSession)
class SignUpInput(OnceInput):
    """A new person, and the device they are at. The idempotency key counts with this address."""

    username: auto
    email: auto
    display_name: auto
    device_name: auto
    password: str = secret(
        description=f"{MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS} characters of any kind."
    )


@create_input(accounts.LoginSession)
class LogInInput(MutationInput):
    """Who logs in, and on which device."""

    identifier: str = strawberry.field(description="The email address or the username.")
    password: str = secret(description="The password.")
    device_name: auto


@strawberry.input(description="Log out.")
class LogOutInput(MutationInput):
    """Nothing but what every mutation takes."""


@strawberry.input(description="Another password.")
class ChangePasswordInput(OnceInput):
    """The password that is, and the one that is to be."""

    current_password: str = secret(description="The password as it is.")
    new_password: str = secret(
        description=f"{MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS} characters of any kind."
    )


@update_input(accounts.User)
class UpdateViewerInput(OnceInput):
    """What changes about the caller."""

    username: auto
    email: auto
    display_name: auto
    settings: auto
    expected_version: int | None = strawberry.field(default=UNSET, description=_VERSION)


@strawberry.input(description="Erase the account.")
class DeleteAccountInput(MutationInput):
    """The proof that it is meant."""

    password: str = secret(description="The caller's password.")
    expected_version: int | None = strawberry.field(default=UNSET, description=_VERSION)


@strawberry.input(description="Which login session to end.")
class RevokeLoginSessionInput(MutationInput):
    """A login session."""

    id: strawberry.ID = strawberry.field(description="The login session.")


@strawberry.input(description="End the caller's other login sessions.")
class RevokeOtherLoginSessionsInput(MutationInput):
    """Nothing but what every mutation takes."""


@create_input(accounts.ApiKey)
class CreateApiKeyInput(CreateInput):
    """A key for an agent or a script."""

    name: auto
    scopes: auto
    expires_at: auto


@strawberry.input(description="Which API key to end.")
class RevokeApiKeyInput(MutationInput):
    """An API key."""

    id: strawberry.ID = strawberry.field(description="The API key.")


@strawberry.type
class _LoggedIn(Payload):
    """A log-in that has begun. Its token is in this answer and nowhere else."""

    token: str | None = secret(
        default=None, description="The bearer token of the login session, shown this once."
    )
    viewer: User | None = strawberry.field(default=None, description="Who is logged in.")
    # Another one for every answer, so none is kept under an idempotency key.
    login_session: LoginSession | None = strawberry.field(
        default=None, description="The login session.", metadata=SECRET
    )


@payload
class SignUpPayload(_LoggedIn):
    """The new person, logged in."""


@payload
class LogInPayload(_LoggedIn):
    """The person, logged in."""


@payload
class ViewerPayload(Payload):
    """The changed caller."""

    viewer: User | None = strawberry.field(default=None, description="The caller as they are now.")


@strawberry.type(description="Rows of one table that were erased.")
class ErasedRows:
    """A line of the receipt."""

    table: str = strawberry.field(description="The table.")
    rows: int = strawberry.field(description="How many rows of the caller it had.")


@payload
class DeleteAccountPayload(Payload):
    """What was erased."""

    deleted_id: strawberry.ID | None = strawberry.field(
        default=None, description="The id that the user had."
    )
    erased: list[ErasedRows] = strawberry.field(
        default_factory=list, description="What there was, for each table that had something."
    )


@payload
class LoginSessionPayload(Payload):
    """The ended login session."""

    login_session: LoginSession | None = strawberry.field(
        default=None, description="The login session as it is now."
    )


@payload
class LoginSessionsPayload(Payload):
    """The ended login sessions."""

    login_sessions: list[LoginSession] = strawberry.field(
        default_factory=list, description="The login sessions that this ended."
    )


@payload
class ApiKeyPayload(Payload):
    """The ended API key."""

    api_key: ApiKey | None = strawberry.field(default=None, description="The key as it is now.")


def longest(column: Column[Any]) -> int:
    """How many characters a text column takes."""
    kind = column.type
    assert isinstance(kind, String)
    assert kind.length is not None
    return kind.length


def identifier_violations(name: str, text: str) -> list[Violation]:
    """What keeps the field `name` from being anybody's email address or username."""
    return _text_violations(
        name, text, "An email address", 0, longest(accounts.User.__table__.c.email)
    )


def password_violations(name: str, text: str, *, new: bool) -> list[Violation]:
    """What is wrong with the password in the field `name`, found before anything is hashed."""
    shortest = MIN_PASSWORD_CHARS if new else 0
    return _text_violations(name, text, "A password", shortest, MAX_PASSWORD_CHARS)


def _text_violations(name: str, text: str, subject: str, least: int, most: int) -> list[Violation]:
    path = (name,)
    try:
        check_text(text, path)
    except Invalid as refused:
        return list(refused.violations)
    if len(text) < least:
        message = f"{subject} has at least {least} characters."
        return [Violation(path, "min_length", message, str(least))]
    if len(text) > most:
        message = f"{subject} has at most {most} characters."
        return [Violation(path, "max_length", message, str(most))]
    return []
