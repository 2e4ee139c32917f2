"""Who asks: a bearer token becomes an actor.

One statement under row-level security of the owner that the token names. What it finds is kept for
a few seconds, so a revoked token stops working within them, on every replica.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from time import monotonic
from typing import Any, NamedTuple
from uuid import UUID

import structlog
from sqlalchemy import (
    DateTime,
    LargeBinary,
    Table,
    bindparam,
    cast,
    func,
    literal,
    null,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncEngine

from db import tokens
from db.failures import DatabaseUnavailable
from db.models.accounts import ApiKey, LoginSession, User
from db.scope import predicate, readable
from db.session import Session, SessionOptions
from schema.context import Actor

__all__ = ["Identity", "Unauthenticated", "bearer_token"]

log = structlog.get_logger("engram.server")

KEPT_SECONDS = 3.0
KEPT_ACTORS = 10_000
SEEN_EVERY = timedelta(minutes=1)
MAX_HEADER = 200  # characters; a token has 79


class Unauthenticated(Exception):
    """The token is malformed, unknown, expired or revoked; the message does not say which."""

    def __init__(self) -> None:
        super().__init__("The token is not valid: log in again.")


class Key(NamedTuple):
    """What a token is looked up by."""

    owner_id: UUID
    hash: bytes


class Known(NamedTuple):
    """What was found for a token, and when."""

    actor: Actor | None
    expires_at: datetime | None
    at: float


def bearer_token(header: str | None) -> str | None:
    """The token of an Authorization header. Raises Unauthenticated for any other scheme."""
    if header is None:
        return None
    scheme, _, token = header.strip().partition(" ")
    if len(header) > MAX_HEADER or scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated
    return token.strip()


@lru_cache(maxsize=KEPT_ACTORS)
def _read(token: str) -> tuple[Key, bytes] | None:
    """What a token is looked up by, and its secret; None when it is malformed."""
    parsed = tokens.parse(token)
    if parsed is None:
        return None
    return Key(parsed.owner_id, tokens.hashed(parsed.secret)), parsed.secret


def _table(model: type[Any]) -> Table:
    table: Table = model.__table__
    return table


USERS, LOGINS, KEYS = _table(User), _table(LoginSession), _table(ApiKey)
HASH = bindparam("hash", type_=LargeBinary)
NEVER = cast(null(), DateTime(timezone=True))
ACTIVE = select(literal(1)).where(predicate(USERS), USERS.c.is_active).correlate(None).exists()
FIND = union_all(
    readable(
        LOGINS,
        literal("user").label("kind"),
        LOGINS.c.id,
        cast(null(), JSONB).label("scopes"),
        LOGINS.c.expires_at,
        LOGINS.c.last_seen_at.label("seen_at"),
    ).where(
        LOGINS.c.token_hash == HASH,
        LOGINS.c.revoked_at.is_(None),
        LOGINS.c.expires_at > func.now(),
        ACTIVE,
    ),
    readable(
        KEYS,
        literal("key").label("kind"),
        KEYS.c.id,
        cast(KEYS.c.scopes, JSONB),
        KEYS.c.expires_at,
        KEYS.c.last_used_at,
    ).where(
        KEYS.c.key_hash == HASH,
        KEYS.c.revoked_at.is_(None),
        or_(KEYS.c.expires_at.is_(None), KEYS.c.expires_at > func.now()),
        ACTIVE,
    ),
)


class Identity:
    """Finds out who a token belongs to; remembers it for a few seconds."""

    def __init__(
        self,
        engine: AsyncEngine,
        options: SessionOptions,
        *,
        kept_seconds: float = KEPT_SECONDS,
        kept_actors: int = KEPT_ACTORS,
    ) -> None:
        self._engine = engine
        self._options = options
        self._kept_seconds = kept_seconds
        self._kept_actors = kept_actors
        self._known: OrderedDict[Key, Known] = OrderedDict()
        self._asking: dict[Key, asyncio.Task[Actor | None]] = {}
        self._marking: set[asyncio.Task[None]] = set()

    async def actor(self, token: str | None) -> Actor | None:
        """Whose token it is; nobody's without one. Raises Unauthenticated, DatabaseUnavailable."""
        if token is None:
            return None
        named = _read(token)
        if named is None:
            raise Unauthenticated
        key, secret = named
        actor = self._remembered(key) or await self._find(key, secret)
        if actor is None:
            raise Unauthenticated
        return actor

    async def still_valid(self, actor: Actor | None) -> bool:
        """Whether a token that was good when a stream began still is."""
        if actor is None:
            return True
        try:
            key = Key(actor.owner_id, tokens.hashed(actor.secret))
            return await self._find(key, actor.secret) is not None
        except DatabaseUnavailable:
            return True  # it says nothing about the login, and operations fail by themselves

    def forget(self, owner_id: UUID) -> None:
        """Look an owner's tokens up anew: one of them may have been revoked just now."""
        for key in [key for key in self._known if key.owner_id == owner_id]:
            del self._known[key]
        # Nor is what is being looked up just now to be remembered.
        for key in [key for key in self._asking if key.owner_id == owner_id]:
            del self._asking[key]

    async def close(self) -> None:
        """Wait for writes under way."""
        if self._marking:
            await asyncio.wait(self._marking)

    def _remembered(self, key: Key) -> Actor | None:
        known = self._known.get(key)
        if known is None or monotonic() - known.at >= self._kept_seconds:
            return None
        expired = known.expires_at is not None and known.expires_at <= datetime.now(UTC)
        return None if expired else known.actor

    async def _find(self, key: Key, secret: bytes) -> Actor | None:
        actor = self._remembered(key)
        if actor is not None:
            return actor
        # Requests that come together with one token share its lookup.
        asking = self._asking.get(key)
        if asking is None:
            asking = asyncio.create_task(self._ask(key, secret))
            self._asking[key] = asking
            asking.add_done_callback(lambda done: self._asked(key, done))
        return await asyncio.shield(asking)

    def _asked(self, key: Key, asking: asyncio.Task[Actor | None]) -> None:
        if self._asking.get(key) is asking:
            del self._asking[key]

    async def _ask(self, key: Key, secret: bytes) -> Actor | None:
        async with Session(self._engine, key.owner_id, self._options) as session:
            rows = await session.execute(FIND, {"hash": key.hash})
        if not rows:
            self._known.pop(key, None)
            return None
        row = rows[0]
        scopes = {} if row.scopes is None else {"scopes": frozenset(row.scopes)}
        actor = Actor(key.owner_id, row.kind, row.id, secret=secret, **scopes)
        if self._asking.get(key) is asyncio.current_task():
            self._known[key] = Known(actor, row.expires_at, monotonic())
            self._known.move_to_end(key)
        while len(self._known) > self._kept_actors:
            self._known.popitem(last=False)
        if row.seen_at is None or datetime.now(UTC) - row.seen_at >= SEEN_EVERY:
            self._mark(actor)
        return actor

    def _mark(self, actor: Actor) -> None:
        """Note that a token is in use, at most once a minute and without keeping anyone waiting."""
        task = asyncio.create_task(self._write_seen(actor))
        self._marking.add(task)
        task.add_done_callback(self._marking.discard)

    async def _write_seen(self, actor: Actor) -> None:
        table, name = (LOGINS, "last_seen_at") if actor.kind == "user" else (KEYS, "last_used_at")
        column = table.c[name]
        statement = (
            update(table)
            .where(predicate(table), table.c.id == bindparam("login"))
            .where(or_(column.is_(None), column <= func.now() - SEEN_EVERY))
            .values({name: func.now()})
        )
        try:
            session = Session(self._engine, actor.owner_id, self._options)
            async with session, session.transaction():
                await session.execute(statement, {"login": actor.id})
        except Exception as error:
            # Nobody waits for this, and the next minute tries again.
            log.warning("last_seen_not_written", exc_info=error)
