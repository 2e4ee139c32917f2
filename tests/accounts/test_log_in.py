"""Logging in and out: the same answer in the same time for whoever may not."""

import asyncio
from typing import Literal

import pytest
from argon2 import Parameters, PasswordHasher, extract_parameters
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from db import tokens
from db.session import Session
from schema.context import Services
from server.identity import Unauthenticated
from server.passwords import Argon2Passwords
from tests.accounts.callers import (
    LOG_IN,
    PASSWORD,
    PROBLEMS,
    Account,
    Caller,
    codes,
    new_account,
    rules,
)

LOG_OUT = f"mutation {{ logOut(input: {{}}) {{ loginSession {{ id revokedAt }} {PROBLEMS} }} }}"


async def test_by_username_and_by_email_whatever_the_case(
    anybody: Caller, account: Account
) -> None:
    for identifier in (account.username, account.email, account.email.upper()):
        opened = await anybody.log_in(identifier, deviceName="phone")
        assert opened["problems"] == []
        assert opened["viewer"]["id"] == account.id
        assert opened["loginSession"]["current"] is True
        assert opened["loginSession"]["deviceName"] == "phone"
        data = await anybody.by(opened["token"]).ask("{ viewer { id } }")
        assert data["viewer"]["id"] == account.id


async def test_wrong_unknown_and_inactive_are_one_answer_from_one_statement(
    anybody: Caller, account: Account, admin_engine: AsyncEngine
) -> None:
    inactive = await new_account(anybody)
    async with admin_engine.connect() as connection:
        await connection.execute(
            text("UPDATE users SET is_active = false WHERE id = :id"), {"id": inactive.owner_id}
        )
    answers = []
    for identifier, password in (
        (account.email, f"{PASSWORD}!"),
        (account.email, ""),
        ("nobody@example.org", PASSWORD),
        ("", PASSWORD),
        (inactive.email, PASSWORD),
        (account.email.replace("example", "_xample"), PASSWORD),
    ):
        answers.append((await anybody.log_in(identifier, password), len(anybody.statements)))
    assert codes(answers[0][0]) == ["UNAUTHENTICATED"]
    assert answers == [(answers[0][0], 1)] * len(answers)
    assert answers[0][0]["token"] is None
    # A token from before is worth nothing either.
    with pytest.raises(Unauthenticated):
        await inactive.ask("{ viewer { id } }")


class CountingHasher(PasswordHasher):
    """Hashes as ever, and keeps what it cost."""

    costs: list[Parameters]

    def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:
        self.costs.append(extract_parameters(str(hash)))
        return super().verify(hash, password)


async def test_unknown_users_cost_the_same_hash_as_known_ones(services: Services) -> None:
    passwords = Argon2Passwords(time_cost=1, memory_kib=8_192)
    hasher = CountingHasher(time_cost=1, memory_cost=8_192, parallelism=1)
    passwords._hasher = hasher
    anybody = Caller(Services(services.engine, passwords))
    known = (await new_account(anybody)).email
    costs = []
    for identifier in (known, "nobody@example.org"):
        hasher.costs = []
        assert codes(await anybody.log_in(identifier, "wrong password")) == ["UNAUTHENTICATED"]
        costs.append(hasher.costs)
    assert costs[0] == costs[1]
    assert len(costs[0]) == 1
    passwords.close()


@pytest.mark.parametrize(
    ("identifier", "password", "bad"),
    [
        ("x" * 255, PASSWORD, ("identifier", "max_length")),
        ("nul\0", PASSWORD, ("identifier", "characters")),
        ("x", "x" * 201, ("password", "max_length")),
        ("x", "\ud800" * 8, ("password", "characters")),
    ],
)
async def test_lengths_and_characters_are_refused_before_anything_is_looked_up(
    anybody: Caller, identifier: str, password: str, bad: tuple[str, str]
) -> None:
    refused = await anybody.log_in(identifier, password, deviceName="")
    assert rules(refused) == [("deviceName", "min_length"), bad]
    assert anybody.statements == []


async def test_better_parameters_replace_the_hash_at_the_next_log_in(
    anybody: Caller, account: Account, admin_engine: AsyncEngine
) -> None:
    async def memory() -> int:
        async with admin_engine.connect() as connection:
            result = await connection.execute(
                text("SELECT password_hash FROM users WHERE id = :id"), {"id": account.owner_id}
            )
            return extract_parameters(result.scalar_one()).memory_cost

    assert await memory() == 8_192
    passwords = Argon2Passwords(time_cost=1, memory_kib=16_384)
    better = Caller(Services(anybody.services.engine, passwords))
    assert codes(await better.log_in(account.email, "wrong password")) == ["UNAUTHENTICATED"]
    assert await memory() == 8_192
    # All at once: whoever comes second finds another hash than it checked, and starts anew.
    opened = await asyncio.gather(
        *(Caller(better.services).log_in(account.email) for _ in range(6))
    )
    assert [answer["problems"] for answer in opened] == [[]] * 6
    assert await memory() == 16_384
    data = await account.ask(
        '{ auditEvents(filter: {action: {eq: "rehash_password"}}) { nodes { after } } }'
    )
    (event,) = data["auditEvents"]["nodes"]
    assert set(event["after"]) == {"version", "updated_at"}
    passwords.close()


async def test_twenty_log_ins_at_once_do_not_stall_the_event_loop(services: Services) -> None:
    passwords = Argon2Passwords(concurrency=2)  # as dear as in production
    anybody = Caller(Services(services.engine, passwords))
    email = (await new_account(anybody)).email
    logging_in = [asyncio.create_task(Caller(anybody.services).log_in(email)) for _ in range(20)]
    # Whoever asks meanwhile is answered meanwhile: hashing leaves the loop alone.
    async with Session(services.engine, None) as session:
        for _ in range(20):
            await session.scalar(text("SELECT 1"))
    unfinished = sum(not task.done() for task in logging_in)
    opened = await asyncio.gather(*logging_in)
    assert unfinished > 0
    assert len({answer["token"] for answer in opened if answer["token"]}) == 20
    passwords.close()


async def test_sent_again_it_is_another_login_session(anybody: Caller, account: Account) -> None:
    first = await anybody.log_in(account.email)
    second = await anybody.log_in(account.email)
    assert first["loginSession"]["id"] != second["loginSession"]["id"]
    answer = await anybody.execute(
        LOG_IN, input={"identifier": "x", "password": "y", "idempotencyKey": "z"}
    )
    assert "idempotencyKey" in answer["errors"][0]["message"]


async def test_logging_in_costs_as_many_statements_however_many_logins_there_are(
    anybody: Caller, account: Account
) -> None:
    costs = set()
    for _ in range(4):
        await anybody.log_in(account.email)
        costs.add(len(anybody.statements))
    assert costs == {3}  # the account, its lock, the login session with its event


async def test_logging_out_ends_this_login_session_alone(anybody: Caller, account: Account) -> None:
    other = anybody.by((await anybody.log_in(account.email))["token"])
    ended = await account.do(LOG_OUT)
    assert ended["problems"] == []
    assert ended["loginSession"]["id"] == account.login_id
    assert ended["loginSession"]["revokedAt"] is not None
    with pytest.raises(Unauthenticated):
        await account.ask("{ viewer { id } }")
    data = await other.ask("{ viewer { id } loginSessions { nodes { id current revokedAt } } }")
    assert data["viewer"]["id"] == account.id
    assert [
        (login["current"], login["revokedAt"] is None) for login in data["loginSessions"]["nodes"]
    ] == [(True, True), (False, False)]


async def test_nobody_cannot_log_out(anybody: Caller) -> None:
    assert codes(await anybody.do(LOG_OUT)) == ["UNAUTHENTICATED"]


async def test_after_logging_out_a_document_is_asked_by_nobody(account: Account) -> None:
    answer = await account.execute(
        f"""mutation {{
            logOut(input: {{}}) {{ loginSession {{ current }} {PROBLEMS} }}
            updateViewer(input: {{displayName: "x"}}) {{ {PROBLEMS} }}
        }}"""
    )
    assert answer["data"]["logOut"] == {"loginSession": {"current": False}, "problems": []}
    assert codes(answer["data"]["updateViewer"]) == ["UNAUTHENTICATED"]


async def test_a_log_in_that_meets_a_change_of_password_does_not_survive_it(
    anybody: Caller, account: Account
) -> None:
    change = (
        "mutation($input: ChangePasswordInput!) {"
        f" changePassword(input: $input) {{ {PROBLEMS} }} }}"
    )
    new = "another password"
    answers = await asyncio.gather(
        *(Caller(anybody.services).log_in(account.email) for _ in range(5)),
        account.do(change, currentPassword=PASSWORD, newPassword=new),
        *(Caller(anybody.services).log_in(account.email) for _ in range(5)),
    )
    assert answers.pop(5)["problems"] == []
    for opened in answers:
        if opened["token"] is None:
            assert codes(opened) == ["UNAUTHENTICATED"]
            continue
        with pytest.raises(Unauthenticated):
            await anybody.by(opened["token"]).ask("{ viewer { id } }")
    data = await account.ask(
        "{ loginSessions(filter: {revokedAt: {isNull: true}}) { totalCount } }"
    )
    assert data["loginSessions"]["totalCount"] == 1


async def test_only_the_hash_of_a_token_is_stored(
    account: Account, admin_engine: AsyncEngine
) -> None:
    assert account.token is not None
    parsed = tokens.parse(account.token)
    assert parsed is not None
    async with admin_engine.connect() as connection:
        result = await connection.execute(
            text("SELECT token_hash FROM login_sessions WHERE owner_id = :id"),
            {"id": account.owner_id},
        )
        assert result.scalars().all() == [tokens.hashed(parsed.secret)]
