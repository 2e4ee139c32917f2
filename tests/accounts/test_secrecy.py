"""Passwords and tokens are in no row, no log and no text that an object prints of itself."""

import json
import logging
from typing import Any

import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from db import tokens
from db.models import metadata
from schema.accounts_inputs import (
    ChangePasswordInput,
    DeleteAccountInput,
    LogInInput,
    SignUpInput,
    SignUpPayload,
)
from schema.accounts_keys import CreateApiKeyPayload
from schema.context import Actor
from schema.mutation import fingerprint, store
from tests.accounts.callers import SIGN_UP, Account, Caller, newcomer
from tests.accounts.test_account import CHANGE_PASSWORD
from tests.accounts.test_api_keys import CREATE

PASSWORD = "an unmistakable password"
NEW = "an unmistakable successor"


async def test_secrets_are_stored_hashed_and_nowhere_else(
    anybody: Caller,
    admin_engine: AsyncEngine,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    input = newcomer() | {"password": PASSWORD, "idempotencyKey": "sign up"}
    with structlog.testing.capture_logs() as logged:
        first = await anybody.do(SIGN_UP, **input)
        again = await anybody.do(SIGN_UP, **input)
        third = await anybody.log_in(input["email"], PASSWORD)
        wrong = await anybody.log_in(input["email"], f"{PASSWORD}, wrong")
        assert wrong["token"] is None
        me = anybody.by(third["token"])
        key = await me.do(CREATE, name="k", scopes=["READ"], idempotencyKey="key")
        changed = await me.do(
            CHANGE_PASSWORD,
            currentPassword=PASSWORD,
            newPassword=NEW,
            idempotencyKey="password",
        )
        assert changed["problems"] == []
    bearers = [answer["token"] for answer in (first, again, third, key)]
    secrets = [PASSWORD, NEW, *bearers]
    for bearer in bearers:
        parsed = tokens.parse(bearer)
        assert parsed is not None
        secrets += [bearer[-tokens.SECRET_CHARS :], parsed.secret.hex()]
    owner_id = tokens.parse(bearers[0]).owner_id  # type: ignore[union-attr]  # parsed above
    rows = await _everything(admin_engine, owner_id)
    assert {"audit_events", "idempotency_keys", "login_sessions", "api_keys"} <= set(rows)
    output = capfd.readouterr()
    for place, content in {
        **rows,
        "logs": caplog.text + json.dumps(logged, default=repr),
        "output": output.out + output.err,
    }.items():
        for secret in secrets:
            assert secret not in content, place
    for table in ("audit_events", "idempotency_keys"):
        assert "password_hash" not in rows[table]
        assert "token_hash" not in rows[table]
        assert "key_hash" not in rows[table]
    # Of both passwords together, to know the change of the password by when it is sent again.
    assert "$argon2" not in rows["audit_events"]
    assert rows["idempotency_keys"].count("$argon2id$") == 1
    assert rows["users"].count("$argon2id$") == 1


async def _everything(engine: AsyncEngine, owner_id: object) -> dict[str, str]:
    """All of an owner's rows as text, by table."""
    found = {}
    async with engine.connect() as connection:
        for table in metadata.sorted_tables:
            if table.info["shared"]:
                continue
            owner = "owner_id" if "owner_id" in table.c else "id"
            result = await connection.execute(
                text(f"SELECT row_to_json(t)::text FROM {table.name} t WHERE {owner} = :id"),
                {"id": owner_id},
            )
            rows = result.scalars().all()
            if rows:
                found[table.name] = "\n".join(rows)
    return found


def made(input: type[Any], **values: str) -> Any:
    """An input as Strawberry makes it: its fields are not known to the type checker."""
    return input(**values)


def test_objects_do_not_print_their_secrets(account: Account) -> None:
    secret = b"\x07" * 32
    minted = tokens.mint(account.owner_id, secret)
    printed: list[Any] = [
        minted,
        tokens.parse(minted.token),
        Actor(account.owner_id, "user", account.owner_id, secret=secret),
        made(SignUpInput, username="u", email="e", password=PASSWORD),
        made(LogInInput, identifier="e", password=PASSWORD),
        made(ChangePasswordInput, current_password=PASSWORD, new_password=NEW),
        made(DeleteAccountInput, password=PASSWORD),
        SignUpPayload(token=minted.token),
        CreateApiKeyPayload(token=minted.token),
    ]
    for one in printed:
        for shown in (repr(one), str(one)):
            for hidden in (PASSWORD, NEW, minted.token, repr(secret), secret.hex()):
                assert hidden not in shown


def test_neither_fingerprints_nor_stored_answers_depend_on_secrets() -> None:
    one = made(SignUpInput, username="u", email="e", password=PASSWORD)
    two = made(SignUpInput, username="u", email="e", password=NEW)
    three = made(SignUpInput, username="v", email="e", password=PASSWORD)
    assert fingerprint(one) == fingerprint(two) != fingerprint(three)
    for answer in (SignUpPayload(token="eg_x"), CreateApiKeyPayload(token="eg_x")):
        assert "eg_x" not in json.dumps(store(answer))


async def test_what_a_refusal_says_does_not_repeat_the_value(anybody: Caller) -> None:
    refused = await anybody.sign_up(password=f"{PASSWORD}\0")
    assert PASSWORD not in json.dumps(refused)
    assert [problem["path"] for problem in refused["problems"]] == [["input", "password"]]
