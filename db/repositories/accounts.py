"""Accounts: who has one, what they log in with, and what ends that."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import INET
from sqlalchemy.exc import IntegrityError

from db import changes
from db.addresses import network
from db.changes import Record
from db.constraints import violated
from db.locking import change_one, lock_one
from db.models.accounts import ApiKey, LoginSession, User
from db.models.work import Worker, WorkerKind
from db.refusals import Invalid, Missing, Overtaken, Unauthenticated, Violation, invalid
from db.scope import readable
from db.session import Session

USERS = User.__table__
LOGINS = LoginSession.__table__
KEYS = ApiKey.__table__
WORKERS = Worker.__table__

_FIND_LOGIN = sa.text("SELECT id, password_hash, is_active FROM engram_find_login(:identifier)")
_NETWORK = sa.bindparam("network", type_=sa.Text())
_TAKEN = {
    "uq_users_username": Violation(("username",), "unique", "This username is taken."),
    "uq_users_email": Violation(("email",), "unique", "This email address is taken."),
}


@dataclass(frozen=True)
class Login:
    """What an account is logged in to by."""

    owner_id: UUID
    password_hash: str = field(repr=False)
    is_active: bool


# Accounts


async def find_login(session: Session, identifier: str) -> Login | None:
    """The account with this email address or username, whatever the case; needs no owner."""
    rows = await session.execute(_FIND_LOGIN, {"identifier": identifier})
    return Login(*rows[0]) if rows else None


async def taken(session: Session, values: Mapping[str, Any]) -> list[Violation]:
    """A violation for each of the username and the email address that an account has."""
    return [violation for violation, found in await _named(session, values) if found is not None]


async def _named(
    session: Session, values: Mapping[str, Any]
) -> list[tuple[Violation, Login | None]]:
    """For the username and the email address, as far as given, who has them."""
    return [
        (violation, await find_login(session, values[violation.path[0]]))
        for violation in _TAKEN.values()
        if values.get(violation.path[0]) is not None
    ]


async def create(session: Session, values: Mapping[str, Any]) -> Record:
    """Store a person, whom the session is for already, and the worker they are.

    Raises Invalid when somebody was quicker with the name or the address.
    """
    try:
        (user,) = await changes.insert(session, USERS, [values])
    except IntegrityError as error:
        raise _refusal(error) from None
    name = user.display_name or user.username
    await changes.insert(session, WORKERS, [{"name": name, "kind": WorkerKind.HUMAN.value}])
    return user


async def update(
    session: Session,
    values: Mapping[str, Any],
    expected_version: int | None,
    asking: Callable[[], Awaitable[None]],
) -> Record:
    """Change the session's owner. `asking` is awaited before it is told whether somebody else has
    a name or an address: it may raise Limited.

    Raises Stale, Unauthenticated when they are gone, and Invalid for a name or address in use.
    """
    found = await _named(session, values)
    others = [
        (v, login) for v, login in found if login is None or login.owner_id != _owner(session)
    ]
    if others:
        await asking()
    violations = [violation for violation, login in others if login is not None]
    if violations:
        raise Invalid(violations)
    try:
        return await change_one(
            session, USERS, _owner(session), values, expected_version=expected_version
        )
    except Missing:
        raise Unauthenticated("This account is gone.") from None
    except IntegrityError as error:
        raise _refusal(error) from None


async def password_hash(session: Session) -> str | None:
    """The hash of the owner's password; None when the account is gone or may not log in."""
    found: str | None = await session.scalar(
        readable(USERS, USERS.c.password_hash).where(USERS.c.is_active)
    )
    return found


async def lock(session: Session, proven: str, expected_version: int | None = None) -> Record:
    """The owner, held still, while the password hash is the one that a password was proven by.

    Raises Overtaken when it is another one by now, or the account is gone; and Stale.
    """
    try:
        user = await lock_one(session, USERS, _owner(session), expected_version=expected_version)
    except Missing:
        raise Overtaken from None
    if user.password_hash != proven or not user.is_active:
        raise Overtaken
    return user


async def set_password(session: Session, hashed: str, action: str) -> Record:
    """Store another password hash; `action` is what the audit event calls it."""
    return await changes.update_one(
        session, USERS, _owner(session), {"password_hash": hashed}, action=action
    )


# What they log in with


async def open_login(session: Session, values: Mapping[str, Any]) -> Record:
    """Store a login session."""
    (login,) = await changes.insert(session, LOGINS, [values])
    return login


async def logged_in_from(session: Session, ip: str) -> bool:
    """Whether the owner has begun a login session at an address, or in IPv6 in its network; as far
    back as they are kept.
    """
    near = LOGINS.c.ip.op("<<=", is_comparison=True)(sa.cast(_NETWORK, INET))
    known = readable(LOGINS, LOGINS.c.id).where(sa.or_(LOGINS.c.ip == ip, near)).limit(1)
    return bool(await session.execute(known, {"network": network(ip)}))


async def erase_logins(session: Session, device_name: str) -> None:
    """Remove all login sessions of the owner on one device, whether they work or not."""
    named = readable(LOGINS, LOGINS.c.id).where(LOGINS.c.device_name == device_name)
    await changes.remove(session, LOGINS, [row.id for row in await session.execute(named)])


async def revoke_login(session: Session, identifier: UUID) -> Record:
    """End a login session; one that has ended stays as it is. Raises Missing."""
    return await _revoke(session, LOGINS, identifier)


async def revoke_other_logins(session: Session, kept: UUID | None) -> list[Record]:
    """End all login sessions that still work but `kept`, and return them."""
    others = readable(LOGINS, LOGINS.c.id).where(
        LOGINS.c.revoked_at.is_(None), LOGINS.c.expires_at > sa.func.now()
    )
    if kept is not None:
        others = others.where(LOGINS.c.id != kept)
    ids = [row.id for row in await session.execute(others.order_by(LOGINS.c.id))]
    return await _revoked(session, LOGINS, ids)


async def create_key(session: Session, values: Mapping[str, Any]) -> Record:
    """Store an API key. Raises Invalid when its id is in use."""
    try:
        (key,) = await changes.insert(session, KEYS, [values])
    except IntegrityError as error:
        if violated(error) == "pk_api_keys":
            raise invalid("id", "unique", "This id is in use.") from None
        raise
    return key


async def key_proof(session: Session, identifier: UUID) -> tuple[bytes, bytes] | None:
    """The hash of an API key's secret, and the salt that it was made from."""
    rows = await session.execute(
        readable(KEYS, KEYS.c.key_hash, KEYS.c.key_salt).where(KEYS.c.id == identifier)
    )
    return (rows[0].key_hash, rows[0].key_salt) if rows else None


async def revoke_key(session: Session, identifier: UUID) -> Record:
    """End an API key; one that has ended stays as it is. Raises Missing."""
    return await _revoke(session, KEYS, identifier)


async def _revoke(session: Session, table: sa.Table, identifier: UUID) -> Record:
    changed = await _revoked(session, table, [identifier])
    if changed:
        return changed[0]
    return await lock_one(session, table, identifier)


async def _revoked(session: Session, table: sa.Table, ids: Sequence[UUID]) -> list[Record]:
    return await changes.update(
        session,
        table,
        ids,
        {"revoked_at": sa.func.now()},
        where=table.c.revoked_at.is_(None),
        action="revoke",
    )


def _owner(session: Session) -> UUID:
    assert session.owner_id is not None
    return session.owner_id


def _refusal(error: IntegrityError) -> Exception:
    """What to raise for a failed write of a person."""
    violation = _TAKEN.get(violated(error) or "")
    return Invalid([violation]) if violation else error
