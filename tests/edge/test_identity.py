"""Tokens become actors, and stop doing so when they should."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from db.session import SessionOptions
from server.identity import Identity, Unauthenticated, bearer_token
from tests.edge.conftest import NewLogin, Served


@pytest_asyncio.fixture
async def identity(engine: AsyncEngine) -> AsyncIterator[Identity]:
    identity = Identity(engine, SessionOptions(), kept_seconds=0.5)
    yield identity
    await identity.close()


async def change(engine: AsyncEngine, statement: str, **values: object) -> None:
    async with engine.connect() as connection:
        await connection.execute(text(statement), values)


async def test_a_login_and_a_key_are_actors(identity: Identity, new_login: NewLogin) -> None:
    login = await new_login()
    actor = await identity.actor(login.token)
    assert actor is not None
    assert (actor.owner_id, actor.kind, actor.id) == (login.owner_id, "user", login.id)
    assert actor.scopes == {"read", "write", "account"}
    key = await new_login(key=True)
    actor = await identity.actor(key.token)
    assert actor is not None
    assert (actor.owner_id, actor.kind, actor.id) == (key.owner_id, "key", key.id)
    assert actor.scopes == {"read"}
    assert "secret" not in repr(actor)


async def test_no_token_is_nobody(identity: Identity) -> None:
    assert await identity.actor(None) is None
    assert await identity.still_valid(None)


async def test_a_token_of_somebody_else_is_no_token(
    identity: Identity, new_login: NewLogin
) -> None:
    mine, yours = await new_login(), await new_login()
    mixed = f"eg_{mine.owner_id.hex}_{yours.token.rpartition(yours.owner_id.hex + '_')[2]}"
    for token in (mixed, "eg_", mine.token[:-1], mine.token + "A", mine.token.upper()):
        with pytest.raises(Unauthenticated):
            await identity.actor(token)


@pytest.mark.parametrize("key", [False, True])
async def test_an_expired_token_is_no_token(
    identity: Identity, new_login: NewLogin, key: bool
) -> None:
    with pytest.raises(Unauthenticated):
        await identity.actor((await new_login(key=key, expires_in=-1)).token)
    # one that expires while it is remembered is not remembered longer
    login = await new_login(key=key, expires_in=0.2)
    assert await identity.actor(login.token)
    await asyncio.sleep(0.25)
    with pytest.raises(Unauthenticated):
        await identity.actor(login.token)


@pytest.mark.parametrize(
    "end",
    [
        "UPDATE login_sessions SET revoked_at = now() WHERE owner_id = :owner",
        "DELETE FROM login_sessions WHERE owner_id = :owner",
        "UPDATE users SET is_active = false WHERE id = :owner",
    ],
)
async def test_a_revoked_token_stops_working_within_the_time_it_is_remembered(
    identity: Identity, new_login: NewLogin, admin_engine: AsyncEngine, end: str
) -> None:
    login = await new_login()
    actor = await identity.actor(login.token)
    await change(admin_engine, end, owner=login.owner_id)
    assert await identity.actor(login.token) == actor  # remembered
    await asyncio.sleep(0.6)
    assert not await identity.still_valid(actor)
    with pytest.raises(Unauthenticated):
        await identity.actor(login.token)


async def test_a_writer_is_looked_up_anew(
    identity: Identity, new_login: NewLogin, admin_engine: AsyncEngine
) -> None:
    login = await new_login()
    assert await identity.actor(login.token)
    revoke = "UPDATE login_sessions SET revoked_at = now() WHERE id = :id"
    await change(admin_engine, revoke, id=login.id)
    identity.forget(login.owner_id)
    with pytest.raises(Unauthenticated):
        await identity.actor(login.token)


async def test_requests_that_come_together_share_a_lookup(
    identity: Identity, new_login: NewLogin, statements: list[str]
) -> None:
    login = await new_login()
    await asyncio.gather(*(identity.actor(login.token) for _ in range(50)))
    assert len(statements) == 1
    await identity.actor(login.token)
    assert len(statements) == 1


@pytest.mark.parametrize("key", [False, True])
async def test_use_is_noted_at_most_once_a_minute(
    identity: Identity, new_login: NewLogin, admin_engine: AsyncEngine, key: bool
) -> None:
    login = await new_login(key=key)
    table, column = ("api_keys", "last_used_at") if key else ("login_sessions", "last_seen_at")

    async def seen() -> datetime | None:
        async with admin_engine.connect() as connection:
            query = f"SELECT {column} FROM {table} WHERE id = :id"
            found: datetime | None = await connection.scalar(text(query), {"id": login.id})
            return found

    async def set_seen(ago: timedelta) -> datetime:
        at = datetime.now(UTC) - ago
        update = f"UPDATE {table} SET {column} = :at WHERE id = :id"
        await change(admin_engine, update, at=at, id=login.id)
        return at

    recently = await set_seen(timedelta(seconds=50))
    await identity.actor(login.token)
    await identity.close()
    assert await seen() == recently
    await set_seen(timedelta(seconds=70))
    identity.forget(login.owner_id)
    await identity.actor(login.token)
    await identity.close()
    now = await seen()
    assert now is not None
    assert datetime.now(UTC) - now < timedelta(seconds=10)


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic x", "x", "Bearer " + "x" * 200])
def test_only_bearer_tokens_are_read(header: str) -> None:
    with pytest.raises(Unauthenticated):
        bearer_token(header)


def test_the_scheme_has_no_case() -> None:
    assert bearer_token("bearer  abc ") == "abc"


async def test_a_bad_token_is_told_how_to_come_back(served: Served) -> None:
    answer = await served.post("{ hello }", {"authorization": "Bearer nonsense"})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'


async def test_after_a_mutation_about_logins_its_writer_is_looked_up_anew(
    served: Served, new_login: NewLogin, admin_engine: AsyncEngine
) -> None:
    login = await new_login()
    assert (await served.post("{ whoami }", login.headers)).status_code == 200
    revoke = "UPDATE login_sessions SET revoked_at = now() WHERE id = :id"
    await change(admin_engine, revoke, id=login.id)
    await served.post("mutation { logOut }", login.headers)
    assert (await served.post("{ whoami }", login.headers)).status_code == 401
