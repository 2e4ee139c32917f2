"""Ending login sessions, and API keys."""

import hmac
from datetime import UTC, datetime
from secrets import token_bytes
from uuid import UUID

from db import tokens
from db.models.accounts import ApiKey as KeyTable
from db.models.accounts import LoginSession as LoginTable
from db.refusals import Denied, Invalid, Violation
from db.repositories import accounts
from db.uuid7 import uuid7
from schema.accounts_inputs import (
    ApiKeyPayload,
    CreateApiKeyInput,
    LoginSessionPayload,
    LoginSessionsPayload,
    LogOutInput,
    RevokeApiKeyInput,
    RevokeLoginSessionInput,
    RevokeOtherLoginSessionsInput,
)
from schema.accounts_writes import own_login
from schema.context import Actor, Context, Info
from schema.inputs import inspected, new_id, reference
from schema.mutation import mutation, payload, secret, shown
from schema.rows import Row

SALT_BYTES = 32
SHOWN_SECRET_CHARS = 6
"""How much of a key's secret is shown with it for good: it has 43 characters."""


@payload
class CreateApiKeyPayload(ApiKeyPayload):
    """The new API key, with its token."""

    token: str | None = secret(
        default=None,
        description=(
            "The bearer token of the key. It is not kept: under its idempotency key, the login"
            " session or API key that made it is given it again, and any other caller null."
        ),
    )

    async def replayed(self, context: Context) -> None:
        """Make the token again, if the caller is who made it."""
        actor = context.require("account")
        key: Row = self.api_key  # type: ignore[assignment]  # a mirrored type's values are rows
        proof = await accounts.key_proof(context.session, key.id)
        if proof is None:
            return
        key_hash, salt = proof
        minted = _mint(actor, key.id, salt)
        if hmac.compare_digest(minted.hash, key_hash):
            self.token = minted.token


class AccessMutation:
    @mutation(
        description="End the login session that asks. Ending it again changes nothing.",
        access="account",
        transaction=False,
    )
    async def log_out(self, info: Info, input: LogOutInput) -> LoginSessionPayload:
        own = own_login(info.context)
        if own is None:
            raise Denied("An API key has no login session; revokeApiKey ends a key.")
        return await _end_login(info.context, own)

    @mutation(
        description="End a login session of the caller. Ending it again changes nothing.",
        access="account",
        transaction=False,
    )
    async def revoke_login_session(
        self, info: Info, input: RevokeLoginSessionInput
    ) -> LoginSessionPayload:
        return await _end_login(info.context, reference("login_session", input.id))

    @mutation(
        description=(
            "End all login sessions of the caller but the one that asks. Doing it again changes"
            " nothing more."
        ),
        access="account",
    )
    async def revoke_other_login_sessions(
        self, info: Info, input: RevokeOtherLoginSessionsInput
    ) -> LoginSessionsPayload:
        ended = await accounts.revoke_other_logins(info.context.session, own_login(info.context))
        return LoginSessionsPayload(login_sessions=shown(LoginTable, ended))

    @mutation(description="Make an API key that may do no more than the caller.", access="account")
    async def create_api_key(self, info: Info, input: CreateApiKeyInput) -> CreateApiKeyPayload:
        actor = info.context.require("account")
        values, violations = inspected(input)
        expires_at = values.get("expires_at")
        if expires_at is not None and expires_at <= datetime.now(UTC):
            message = "A key must expire in the future."
            violations.append(Violation(("expires_at",), "future", message))
        if violations:
            raise Invalid(violations)
        lacking = sorted(set(values["scopes"]) - actor.scopes)
        if lacking:
            raise Denied(f"This key does not have the scope {lacking[0]}.")
        identifier = new_id("api_key", input.id) or uuid7()
        salt = token_bytes(SALT_BYTES)
        minted = _mint(actor, identifier, salt)
        key = await accounts.create_key(
            info.context.session,
            {
                **values,
                "id": identifier,
                "scopes": list(dict.fromkeys(values["scopes"])),
                "prefix": minted.token[: -tokens.SECRET_CHARS + SHOWN_SECRET_CHARS],
                "key_hash": minted.hash,
                "key_salt": salt,
            },
        )
        return CreateApiKeyPayload(token=minted.token, api_key=shown(KeyTable, [key])[0])

    @mutation(
        description="End an API key of the caller. Ending it again changes nothing.",
        access="account",
        transaction=False,
    )
    async def revoke_api_key(self, info: Info, input: RevokeApiKeyInput) -> ApiKeyPayload:
        context = info.context
        actor = context.require("account")
        identifier = reference("api_key", input.id)
        async with context.session.transaction():
            key = await accounts.revoke_key(context.session, identifier)
        if actor.id == key.id:
            context.become(None)
        return ApiKeyPayload(api_key=shown(KeyTable, [key])[0])


async def _end_login(context: Context, identifier: UUID) -> LoginSessionPayload:
    own = own_login(context)
    async with context.session.transaction():
        login = await accounts.revoke_login(context.session, identifier)
    if login.id == own:
        # What follows in the same document is asked by nobody.
        context.become(None)
    return LoginSessionPayload(login_session=shown(LoginTable, [login])[0])


def _mint(actor: Actor, identifier: UUID, salt: bytes) -> tokens.Minted:
    """The token of the API key `identifier`: from the caller's own secret and the stored salt.

    So whoever sent the request may be answered again although nobody keeps the token, and neither
    a stolen token nor a stolen database is enough to make it.
    """
    if not actor.secret:
        return tokens.mint(actor.owner_id)
    message = f"engram api key:{identifier}:".encode() + salt
    return tokens.mint(actor.owner_id, hmac.digest(actor.secret, message, "sha256"))
