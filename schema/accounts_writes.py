"""Signing up, logging in, and what a person changes about their account.

Hashing a password takes long, so none of it happens inside a transaction. The hash that a password
was checked against is compared again under a lock; if it has changed, the mutation starts anew.
"""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from ipaddress import ip_address
from uuid import UUID

import strawberry

from db import idempotency, tokens
from db.changes import Record
from db.erasure import erase_account
from db.models.accounts import LoginSession, User
from db.refusals import Invalid, KeyReused, Overtaken, Unauthenticated, Violation, invalid
from db.repositories import accounts
from db.session import Session
from db.uuid7 import uuid7
from schema import ids
from schema.accounts_inputs import (
    ChangePasswordInput,
    DeleteAccountInput,
    DeleteAccountPayload,
    ErasedRows,
    LogInInput,
    LogInPayload,
    SignUpInput,
    SignUpPayload,
    UpdateViewerInput,
    ViewerPayload,
    identifier_violations,
    longest,
    password_violations,
)
from schema.context import Actor, Client, Context, Info
from schema.inputs import checked, expected_version, inspected
from schema.mutation import fingerprint, idempotency_key, mutation, restore, shown, store

WRONG = "The username, the email address or the password is wrong."
ERASING_MS = 60_000
"""An account may hold more than one ordinary statement has time for."""


class AccountsMutation:
    @mutation(
        description=(
            "Open an account and log in to it. Sent again under its idempotency key, it logs in"
            " once more, with another token. The account is found again by its email address and"
            " its password: once they have been changed, a sign-up that is sent again is a new one."
        ),
        access=None,
        transaction=False,
    )
    async def sign_up(self, info: Info, input: SignUpInput) -> SignUpPayload:
        context = info.context
        values, violations = inspected(input)
        violations += password_violations("password", input.password, new=True)
        if violations:
            raise Invalid(violations)
        key = idempotency_key(input)
        gate = context.services.gate
        if gate is not None:
            await gate.sign_up(context.client)
        session = context.anonymous_session
        taken: Sequence[Violation] = await accounts.taken(session, values)
        await session.end_snapshot()
        if not taken:
            password_hash = await context.services.passwords.hash(input.password)
            try:
                return await _sign_up(context, input, key, password_hash)
            except Invalid as refused:
                taken = refused.violations  # somebody was quicker
        if key is None:
            raise Invalid(taken)
        return await _sign_up_again(context, input, key, taken)

    @mutation(
        description=(
            "Begin a login session. There is no idempotency key: sent again, it begins another one."
        ),
        access=None,
        transaction=False,
    )
    async def log_in(self, info: Info, input: LogInInput) -> LogInPayload:
        context = info.context
        values, violations = inspected(input)
        violations += identifier_violations("identifier", input.identifier)
        violations += password_violations("password", input.password, new=False)
        if violations:
            raise Invalid(violations)
        login = await _prove(context, input.identifier, input.password)
        if login is None:
            raise Unauthenticated(WRONG)
        passwords = context.services.passwords
        better = None
        if passwords.outdated(login.password_hash):
            better = await passwords.hash(input.password)
        actor, minted = _entry(login.owner_id)
        async with _acting(context, actor) as session:
            user = await accounts.lock(session, login.password_hash)
            if better is not None:
                user = await accounts.set_password(session, better, "rehash_password")
            opened = await _open(context, actor, minted, values.get("device_name"))
            return LogInPayload(
                token=minted.token,
                viewer=shown(User, [user])[0],
                login_session=shown(LoginSession, [opened])[0],
            )

    @mutation(
        description="Change the caller's password, and end all their other login sessions.",
        access="account",
        transaction=False,
    )
    async def change_password(self, info: Info, input: ChangePasswordInput) -> ViewerPayload:
        context = info.context
        violations = password_violations("current_password", input.current_password, new=False)
        violations += password_violations("new_password", input.new_password, new=True)
        if violations:
            raise Invalid(violations)
        key = idempotency_key(input)
        passwords = context.services.passwords
        session = context.session
        secrets = _digest(input.current_password, input.new_password)
        done, asked = None, fingerprint(input)
        if key is not None:
            done = await idempotency.recall(session, "changePassword", key, asked)
        # Of the same snapshot: if the key has no answer, this is the password before the change.
        known = await _known_hash(context)
        if done is not None:
            if not await passwords.verify(secrets, done.secrets_hash):
                raise KeyReused("This idempotency key was used for other passwords.")
            return restore(ViewerPayload, done.response)
        if not await _confirmed(context, input.current_password, known):
            raise invalid("current_password", "password", "This is not the password.")
        new_hash = await passwords.hash(input.new_password)
        secrets_hash = await passwords.hash(secrets) if key is not None else None
        async with session.transaction():
            await accounts.lock(session, known)
            if key is not None and await idempotency.claim(
                session,
                "changePassword",
                key,
                asked,
                context.services.idempotency_lifetime,
            ):
                raise Overtaken
            user = await accounts.set_password(session, new_hash, "change_password")
            await accounts.revoke_other_logins(session, own_login(context))
            answer = ViewerPayload(viewer=shown(User, [user])[0])
            if key is not None:
                await idempotency.keep(
                    session, "changePassword", key, asked, store(answer), secrets_hash=secrets_hash
                )
            return answer

    @mutation(description="Change what is known about the caller.", access="account")
    async def update_viewer(self, info: Info, input: UpdateViewerInput) -> ViewerPayload:
        context = info.context

        async def asking() -> None:
            # Who has an account is told as seldom as to those who sign up.
            if context.services.gate is not None:
                await context.services.gate.sign_up(context.client)

        user = await accounts.update(
            context.session, checked(input), expected_version(input), asking
        )
        return ViewerPayload(viewer=shown(User, [user])[0])

    @mutation(
        description=(
            "Erase the account and everything in it, for good. The answer is the receipt: it counts"
            " what was erased, and it is given only if nothing is left. There is no idempotency"
            " key: it is erased as well, and nobody is left to send it again."
        ),
        access="account",
        transaction=False,
    )
    async def delete_account(self, info: Info, input: DeleteAccountInput) -> DeleteAccountPayload:
        context = info.context
        violations = password_violations("password", input.password, new=False)
        if violations:
            raise Invalid(violations)
        known = await _known_hash(context)
        if not await _confirmed(context, input.password, known):
            raise invalid("password", "password", "This is not the password.")
        session = context.session
        async with session.transaction(statement_timeout_ms=ERASING_MS):
            user = await accounts.lock(session, known, expected_version(input))
            counts = await erase_account(session)
        context.become(None)
        return DeleteAccountPayload(
            deleted_id=strawberry.ID(ids.encode("user", user.id)),
            erased=[ErasedRows(table=name, rows=rows) for name, rows in counts.items() if rows],
        )


async def _sign_up(
    context: Context, input: SignUpInput, key: str | None, password_hash: str
) -> SignUpPayload:
    values = checked(input)
    device_name = values.pop("device_name", None)
    actor, minted = _entry(uuid7())
    async with _acting(context, actor) as session:
        user = await accounts.create(
            session, {"id": actor.owner_id, "password_hash": password_hash, **values}
        )
        opened = await _open(context, actor, minted, device_name)
        answer = SignUpPayload(
            token=minted.token,
            viewer=shown(User, [user])[0],
            login_session=shown(LoginSession, [opened])[0],
        )
        if key is not None:
            asked, lifetime = fingerprint(input), context.services.idempotency_lifetime
            await idempotency.claim(session, "signUp", key, asked, lifetime)
            await idempotency.keep(session, "signUp", key, asked, store(answer))
        return answer


async def _sign_up_again(
    context: Context, input: SignUpInput, key: str, taken: Sequence[Violation]
) -> SignUpPayload:
    """The answer to a sign-up that is sent again, with another token.

    To whoever does not know the key and the password, the address is one that is taken.
    """
    login = await _prove(context, input.email, input.password)
    if login is None:
        raise Invalid(taken)
    actor, minted = _entry(login.owner_id)
    async with _acting(context, actor) as session:
        await accounts.lock(session, login.password_hash)
        lifetime = context.services.idempotency_lifetime
        stored = await idempotency.claim(session, "signUp", key, fingerprint(input), lifetime)
        if stored is None:
            raise Invalid(taken)
        opened = await _open(context, actor, minted, checked(input).get("device_name"))
        answer = restore(SignUpPayload, stored)
        answer.token = minted.token
        answer.login_session = shown(LoginSession, [opened])[0]
        return answer


async def _prove(context: Context, identifier: str, password: str) -> accounts.Login | None:
    """The account that this is the password of. Takes as long when there is none.

    Raises Limited after too many wrong ones.
    """
    session = context.anonymous_session
    gate, attempt = context.services.gate, None
    if gate is not None:

        async def familiar() -> bool:
            login = await accounts.find_login(session, identifier)
            await session.end_snapshot()
            return await _is_familiar(context, login.owner_id if login is not None else uuid7())

        attempt = await gate.log_in(identifier, context.client, familiar)
    login = await accounts.find_login(session, identifier)
    await session.end_snapshot()
    known = login.password_hash if login is not None and login.is_active else None
    proven = await context.services.passwords.verify(password, known)
    if proven and attempt is not None:
        await attempt.succeeded()
    return login if proven else None


async def _is_familiar(context: Context, owner_id: UUID) -> bool:
    """Whether an account was logged in to from where this request comes from."""
    ip = _seen(context.client)["ip"]
    if ip is None:
        return False
    async with context.anonymous_aside(owner_id) as session:
        return await accounts.logged_in_from(session, ip)


async def _confirmed(context: Context, password: str, known: str) -> bool:
    """Whether it is the caller's own password. Raises Limited after too many wrong ones."""
    gate, actor = context.services.gate, context.actor
    attempt = await gate.confirm(actor.owner_id) if gate is not None and actor is not None else None
    proven = await context.services.passwords.verify(password, known)
    if proven and attempt is not None:
        await attempt.succeeded()
    return proven


async def _known_hash(context: Context) -> str:
    known = await accounts.password_hash(context.session)
    await context.session.end_snapshot()
    if known is None:
        raise Unauthenticated("This account is gone.")
    return known


def _digest(*secrets: str) -> str:
    """Secrets as one of a length that can be hashed; a fast digest, never to be stored."""
    return sha256(json.dumps(secrets).encode()).hexdigest()


def _entry(owner_id: UUID) -> tuple[Actor, tokens.Minted]:
    """Someone at a login session that is about to begin, and its token."""
    minted = tokens.mint(owner_id)
    return Actor(owner_id, "user", uuid7(), secret=minted.secret), minted


@asynccontextmanager
async def _acting(context: Context, actor: Actor) -> AsyncIterator[Session]:
    """A transaction as someone who was not known so far; if it fails, the caller is as before."""
    before = context.actor
    session = context.anonymous_session
    await session.end_snapshot()
    context.become(actor)
    try:
        async with session.transaction():
            yield session
    except BaseException:
        context.become(before)
        raise


async def _open(
    context: Context, actor: Actor, minted: tokens.Minted, device_name: str | None
) -> Record:
    lifetime = timedelta(days=context.services.login_days)
    return await accounts.open_login(
        context.session,
        {
            "id": actor.id,
            "token_hash": minted.hash,
            "device_name": device_name,
            "expires_at": datetime.now(UTC) + lifetime,
            **_seen(context.client),
        },
    )


def _seen(client: Client) -> dict[str, str | None]:
    """What is stored of where a request comes from: what it says, as far as it makes sense."""
    try:
        # An interface of the sender's own (RFC 4007) means nothing here.
        ip = str(ip_address((client.ip or "").partition("%")[0]))
    except ValueError:
        ip = None
    agent = (client.user_agent or "").encode(errors="replace").decode().replace("\0", "")
    return {"ip": ip, "user_agent": agent[: longest(LoginSession.__table__.c.user_agent)] or None}


def own_login(context: Context) -> UUID | None:
    """The login session that asks; None for an API key."""
    actor = context.actor
    return actor.id if actor is not None and actor.kind == "user" else None
