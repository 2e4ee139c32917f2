"""API keys: shown once, bound to scopes, ended by hand or by time."""

import asyncio
import hmac
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from db import tokens
from db.uuid7 import uuid7
from schema import ids
from server.identity import Unauthenticated
from tests.accounts.callers import (
    PASSWORD,
    PROBLEMS,
    Account,
    Caller,
    codes,
    new_account,
    rules,
)
from tests.accounts.test_account import CHANGE_PASSWORD, NEW
from tests.people import Person

KEY = "apiKey { id name prefix scopes expiresAt lastUsedAt revokedAt }"
CREATE = f"""mutation($input: CreateApiKeyInput!) {{
    createApiKey(input: $input) {{ token {KEY} {PROBLEMS} }}
}}"""
REVOKE = f"""mutation($input: RevokeApiKeyInput!) {{
    revokeApiKey(input: $input) {{ {KEY} {PROBLEMS} }}
}}"""
PROJECTS = "{ projects { nodes { id } } }"


async def test_a_key_asks_for_its_owner(account: Account, admin_engine: AsyncEngine) -> None:
    made = await account.do(CREATE, name="script", scopes=["READ", "ACCOUNT"])
    assert made["problems"] == []
    key = made["apiKey"]
    assert (key["name"], key["scopes"], key["expiresAt"]) == ("script", ["READ", "ACCOUNT"], None)
    assert made["token"].startswith(key["prefix"])
    assert len(made["token"]) - len(key["prefix"]) == 37
    script = account.by(made["token"])
    data = await script.ask("{ viewer { id } loginSessions { nodes { current } } }")
    assert data["viewer"]["id"] == account.id
    assert data["loginSessions"]["nodes"] == [{"current": False}]
    listed = (await account.ask(f"{{ apiKeys {{ nodes {{ {KEY[8:-1]} }} }} }}"))["apiKeys"]["nodes"]
    assert listed[0].pop("lastUsedAt") is not None
    assert listed == [{name: value for name, value in key.items() if name != "lastUsedAt"}]
    parsed = tokens.parse(made["token"])
    assert parsed is not None
    async with admin_engine.connect() as connection:
        result = await connection.execute(
            text("SELECT key_hash FROM api_keys WHERE owner_id = :id"), {"id": account.owner_id}
        )
        assert result.scalars().all() == [tokens.hashed(parsed.secret)]


async def test_bad_keys_are_refused_with_all_that_is_wrong(account: Account) -> None:
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    refused = await account.do(CREATE, name="", scopes=[], expiresAt=past)
    assert rules(refused) == [
        ("name", "min_length"),
        ("scopes", "min_items"),
        ("expiresAt", "future"),
    ]
    assert refused["token"] is refused["apiKey"] is None
    doubled = await account.do(CREATE, name="x", scopes=["READ", "READ"])
    assert doubled["apiKey"]["scopes"] == ["READ"]


async def test_scopes_bound_what_a_key_may(account: Account) -> None:
    async def by(*scopes: str) -> Caller:
        made = await account.do(CREATE, name=" ".join(scopes), scopes=list(scopes))
        assert made["problems"] == []
        return account.by(made["token"])

    update = f'mutation {{ updateViewer(input: {{displayName: "x"}}) {{ {PROBLEMS} }} }}'
    log_out = f"mutation {{ logOut(input: {{}}) {{ {PROBLEMS} }} }}"
    for caller, reads, owns in (
        (await by("READ"), True, False),
        (await by("WRITE"), True, False),
        (await by("READ", "WRITE"), True, False),
        (await by("ACCOUNT"), False, True),
    ):
        answer = await caller.execute(PROJECTS)
        codes_ = [error["extensions"]["code"] for error in answer.get("errors", [])]
        assert codes_ == ([] if reads else ["FORBIDDEN"])
        for document in ("{ loginSessions { totalCount } }", "{ apiKeys { nodes { id } } }"):
            answer = await caller.execute(document)
            codes_ = [error["extensions"]["code"] for error in answer.get("errors", [])]
            assert codes_ == ([] if owns else ["FORBIDDEN"])
        changed = (await caller.ask(update))["updateViewer"]
        assert codes(changed) == ([] if owns else ["FORBIDDEN"])
        # No key has a login session to end.
        assert codes((await caller.ask(log_out))["logOut"]) == ["FORBIDDEN"]


async def test_a_key_makes_no_key_that_may_more(account: Account) -> None:
    made = await account.do(CREATE, name="manager", scopes=["ACCOUNT", "READ"])
    manager = account.by(made["token"])
    refused = await manager.do(CREATE, name="more", scopes=["READ", "WRITE"])
    assert codes(refused) == ["FORBIDDEN"]
    assert refused["token"] is refused["apiKey"] is None
    allowed = await manager.do(CREATE, name="less", scopes=["READ"])
    assert allowed["problems"] == []
    data = await account.ask(
        '{ apiKeys { totalCount } auditEvents(filter: {entityType: {eq: "api_key"}})'
        " { nodes { actorKind actorId entityId } } }"
    )
    assert data["apiKeys"]["totalCount"] == 2
    assert data["auditEvents"]["nodes"][0] == {
        "actorKind": "KEY",
        "actorId": made["apiKey"]["id"],
        "entityId": allowed["apiKey"]["id"],
    }


async def test_sent_again_by_the_same_caller_it_has_the_same_token(
    anybody: Caller, account: Account
) -> None:
    input = {"name": "script", "scopes": ["READ"], "idempotencyKey": "k"}
    first = await account.do(CREATE, **input)
    assert await account.do(CREATE, **input) == first
    assert (await account.by(first["token"]).ask("{ viewer { id } }"))["viewer"]["id"] == account.id
    # Another login session is told of the key, and not its token.
    other = account.by((await anybody.log_in(account.email))["token"])
    again = await other.do(CREATE, **input)
    assert again["apiKey"] == first["apiKey"]
    assert again["token"] is None
    assert again["problems"] == []
    changed = await account.do(CREATE, **input | {"name": "other"})
    assert codes(changed) == ["IDEMPOTENCY_CONFLICT"]
    assert changed["token"] is None
    assert (await account.ask("{ apiKeys { totalCount } }"))["apiKeys"]["totalCount"] == 1


async def test_neither_the_makers_token_nor_the_database_is_enough_to_make_the_token(
    account: Account, admin_engine: AsyncEngine
) -> None:
    input = {"name": "script", "scopes": ["READ"], "idempotencyKey": "k"}
    made = await account.do(CREATE, **input)
    async with admin_engine.connect() as connection:
        found = await connection.execute(
            text("SELECT id, key_hash, key_salt FROM api_keys WHERE owner_id = :id"),
            {"id": account.owner_id},
        )
        key = found.one()
        thief = tokens.parse(str(account.token))
        assert thief is not None
        guess = hmac.digest(thief.secret, f"engram api key:{key.id}".encode(), "sha256")
        assert tokens.mint(account.owner_id, guess).hash != key.key_hash
        for table in ("audit_events", "idempotency_keys"):
            kept = await connection.scalar(
                text(f"SELECT string_agg(t::text, '') FROM {table} t WHERE owner_id = :id"),
                {"id": account.owner_id},
            )
            assert key.key_salt.hex() not in kept
        await connection.execute(
            text("UPDATE api_keys SET key_salt = :other WHERE id = :id"),
            {"other": bytes(32), "id": key.id},
        )
    assert (await account.do(CREATE, **input)) == made | {"token": None}


async def test_twenty_at_once_under_one_key_are_one(account: Account) -> None:
    input = {"name": "script", "scopes": ["READ"], "idempotencyKey": "k"}
    answers = await asyncio.gather(
        *(account.by(str(account.token)).do(CREATE, **input) for _ in range(20))
    )
    assert answers == [answers[0]] * 20
    assert answers[0]["token"] is not None


async def test_keys_without_an_idempotency_key_differ(account: Account) -> None:
    made = [await account.do(CREATE, name="script", scopes=["READ"]) for _ in range(2)]
    assert made[0]["token"] != made[1]["token"]
    assert made[0]["apiKey"]["id"] != made[1]["apiKey"]["id"]


async def test_a_caller_without_a_secret_gets_a_random_one_once(person: Person) -> None:
    input = {"name": "script", "scopes": ["READ"], "idempotencyKey": "k"}
    first = (await person.ask(CREATE, input=input))["createApiKey"]
    again = (await person.ask(CREATE, input=input))["createApiKey"]
    assert tokens.parse(first["token"]) is not None
    assert again == first | {"token": None}


async def test_a_client_may_choose_the_id_once(account: Account) -> None:
    chosen = ids.encode("api_key", uuid7())
    made = await account.do(CREATE, name="script", scopes=["READ"], id=chosen)
    assert made["apiKey"]["id"] == chosen
    refused = await account.do(CREATE, name="script", scopes=["READ"], id=chosen)
    assert rules(refused) == [("id", "unique")]
    for wrong, rule in ((account.id, "id"), (ids.encode("api_key", uuid4()), "uuidv7")):
        refused = await account.do(CREATE, name="script", scopes=["READ"], id=wrong)
        assert rules(refused) == [("id", rule)]


async def test_an_ended_key_stops(account: Account) -> None:
    made = await account.do(CREATE, name="script", scopes=["READ"])
    script = account.by(made["token"])
    await script.ask("{ viewer { id } }")
    ended = await account.do(REVOKE, id=made["apiKey"]["id"])
    assert ended["problems"] == []
    assert ended["apiKey"]["revokedAt"] is not None
    with pytest.raises(Unauthenticated):
        await script.ask("{ viewer { id } }")
    again = await account.do(REVOKE, id=made["apiKey"]["id"])
    assert again["apiKey"]["revokedAt"] == ended["apiKey"]["revokedAt"]


async def test_an_expired_key_stops(account: Account, admin_engine: AsyncEngine) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    made = await account.do(CREATE, name="x", scopes=["READ"], expiresAt=soon.isoformat())
    script = account.by(made["token"])
    await script.ask("{ viewer { id } }")
    async with admin_engine.connect() as connection:
        await connection.execute(
            text("UPDATE api_keys SET expires_at = now() WHERE owner_id = :id"),
            {"id": account.owner_id},
        )
    with pytest.raises(Unauthenticated):
        await script.ask("{ viewer { id } }")


async def test_a_key_may_end_itself(account: Account) -> None:
    made = await account.do(CREATE, name="x", scopes=["READ", "ACCOUNT"])
    key = account.by(made["token"])
    data = await key.ask(
        f"""mutation($id: ID!) {{
            revokeApiKey(input: {{id: $id}}) {{ apiKey {{ id }} }}
            updateViewer(input: {{displayName: "x"}}) {{ {PROBLEMS} }}
        }}""",
        id=made["apiKey"]["id"],
    )
    assert data["revokeApiKey"]["apiKey"]["id"] == made["apiKey"]["id"]
    assert codes(data["updateViewer"]) == ["UNAUTHENTICATED"]
    with pytest.raises(Unauthenticated):
        await key.ask("{ viewer { id } }")


async def test_keys_of_others_are_not_there(anybody: Caller, account: Account) -> None:
    stranger = await new_account(anybody)
    made = await stranger.do(CREATE, name="x", scopes=["READ"])
    refused = await account.do(REVOKE, id=made["apiKey"]["id"])
    assert codes(refused) == ["NOT_FOUND"]
    await stranger.by(made["token"]).ask("{ viewer { id } }")
    assert rules(await account.do(REVOKE, id=account.login_id)) == [("id", "id")]


async def test_a_new_password_leaves_keys_alone_and_a_key_may_set_it(account: Account) -> None:
    made = await account.do(CREATE, name="x", scopes=["ACCOUNT", "READ"])
    key = account.by(made["token"])
    changed = await key.do(CHANGE_PASSWORD, currentPassword=PASSWORD, newPassword=NEW)
    assert changed["problems"] == []
    # All login sessions are others to a key.
    with pytest.raises(Unauthenticated):
        await account.ask("{ viewer { id } }")
    await key.ask("{ viewer { id } }")
