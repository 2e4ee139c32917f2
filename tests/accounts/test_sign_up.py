"""Signing up: what is stored, what is refused, and doing it once."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from schema import ids
from schema.context import Client
from tests.accounts.callers import (
    PASSWORD,
    PROBLEMS,
    SIGN_UP,
    Account,
    Caller,
    codes,
    newcomer,
    rules,
)


async def stored(engine: AsyncEngine, sql: str, **values: Any) -> list[Any]:
    """What the superuser reads."""
    async with engine.connect() as connection:
        return list((await connection.execute(text(sql), values)).all())


async def test_a_new_person_is_logged_in_and_has_one_human_worker(anybody: Caller) -> None:
    opened = await anybody.sign_up(displayName="Ada", deviceName="laptop")
    assert opened["problems"] == []
    assert opened["viewer"]["displayName"] == "Ada"
    login = opened["loginSession"]
    assert login["current"] is True
    assert login["deviceName"] == "laptop"
    assert login["revokedAt"] is None
    lasts = datetime.fromisoformat(login["expiresAt"]) - datetime.now(UTC)
    assert timedelta(days=89) < lasts < timedelta(days=90, minutes=1)
    data = await anybody.by(opened["token"]).ask(
        "{ viewer { id email } workers { nodes { name kind } } auditEvents { nodes {"
        " actorKind actorId action entityType } } }"
    )
    assert data["viewer"] == {"id": opened["viewer"]["id"], "email": opened["viewer"]["email"]}
    assert data["workers"]["nodes"] == [{"name": "Ada", "kind": "HUMAN"}]
    assert {
        (event["actorKind"], event["actorId"], event["action"], event["entityType"])
        for event in data["auditEvents"]["nodes"]
    } == {
        ("USER", opened["viewer"]["id"], "create", entity)
        for entity in ("user", "worker", "login_session")
    }


async def test_without_a_display_name_the_worker_has_the_username(account: Account) -> None:
    data = await account.ask("{ workers { nodes { name } } }")
    assert data["workers"]["nodes"] == [{"name": account.username}]


async def test_ids_are_of_version_7_and_sort_with_those_of_the_database(account: Account) -> None:
    data = await account.ask("{ loginSessions { nodes { id } } workers { nodes { id } } }")
    user = account.owner_id
    login = ids.decode_as("login_session", data["loginSessions"]["nodes"][0]["id"])
    worker = ids.decode_as("worker", data["workers"]["nodes"][0]["id"])
    assert {value.version for value in (user, login, worker)} == {7}
    # Made in this process before the insert, and by PostgreSQL after it.
    assert user < login < worker


async def test_where_it_came_from_is_kept_as_far_as_it_makes_sense(anybody: Caller) -> None:
    seen = []
    for client in (
        Client("192.0.2.1", "Mozilla"),
        Client("2001:db8::1", "x" * 600),
        Client("fe80::1%eth0", "nul\0 and \udcff"),
        Client("not an address", ""),
        Client(),
    ):
        opened = await Caller(anybody.services, client=client).sign_up()
        seen.append((opened["loginSession"]["ip"], opened["loginSession"]["userAgent"]))
    assert seen == [
        ("192.0.2.1", "Mozilla"),
        ("2001:db8::1", "x" * 500),
        ("fe80::1", "nul and ?"),
        (None, None),
        (None, None),
    ]


async def test_every_bad_field_is_reported_at_once(anybody: Caller) -> None:
    refused = await anybody.sign_up(
        username="a b", email="nowhere", displayName="", deviceName="x" * 201, password="short"
    )
    assert refused["token"] is refused["viewer"] is refused["loginSession"] is None
    assert rules(refused) == [
        ("username", "pattern"),
        ("email", "pattern"),
        ("displayName", "min_length"),
        ("deviceName", "max_length"),
        ("password", "min_length"),
    ]
    assert refused["problems"][-1]["bound"] == "8"


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("username", "ab", "min_length"),
        ("username", "x" * 65, "max_length"),
        ("username", "nul\0nul", "characters"),
        ("email", "a@" + "x" * 253, "max_length"),
        ("email", "\ud800@example.org", "characters"),
        ("password", "x" * 201, "max_length"),
        ("password", "12345678\0", "characters"),
        ("password", "12345678\ud800", "characters"),
        ("idempotencyKey", "", "max_length"),
        ("idempotencyKey", "x" * 201, "max_length"),
    ],
)
async def test_bad_fields_are_refused(anybody: Caller, field: str, value: str, rule: str) -> None:
    refused = await anybody.sign_up(**{field: value})
    assert rules(refused) == [(field, rule)]
    assert anybody.statements == []


async def test_taken_names_are_told_apart_whatever_their_case(
    anybody: Caller, account: Account
) -> None:
    for changes, fields in (
        ({"username": account.username.upper()}, ["username"]),
        ({"email": account.email.upper()}, ["email"]),
        ({"username": account.username, "email": account.email}, ["username", "email"]),
    ):
        refused = await anybody.sign_up(**changes)
        assert rules(refused) == [(field, "unique") for field in fields]
        assert refused["token"] is None


@pytest.mark.parametrize("field", ["username", "email"])
async def test_twenty_at_once_with_one_name_make_one_person(
    anybody: Caller, admin_engine: AsyncEngine, field: str
) -> None:
    value = newcomer()[field]
    answers = await asyncio.gather(
        *(Caller(anybody.services).sign_up(**{field: value}) for _ in range(20))
    )
    opened = [answer for answer in answers if answer["token"]]
    assert len(opened) == 1
    assert [rules(answer) for answer in answers if not answer["token"]] == [
        [(field, "unique")]
    ] * 19
    rows = await stored(admin_engine, f"SELECT id FROM users WHERE {field} = :value", value=value)
    assert [row.id for row in rows] == [ids.decode_as("user", opened[0]["viewer"]["id"])]
    ((workers,),) = await stored(
        admin_engine,
        "SELECT count(*) FROM workers WHERE owner_id = :id",
        id=rows[0].id,
    )
    assert workers == 1


async def test_a_refused_sign_up_leaves_nobody_logged_in(anybody: Caller, account: Account) -> None:
    both = f"""mutation($input: SignUpInput!) {{
        signUp(input: $input) {{ token {PROBLEMS} }}
        updateViewer(input: {{displayName: "x"}}) {{ {PROBLEMS} }}
    }}"""
    data = await anybody.ask(both, input=newcomer() | {"email": account.email})
    assert rules(data["signUp"]) == [("email", "unique")]
    assert codes(data["updateViewer"]) == ["UNAUTHENTICATED"]
    # Whoever is logged in and fails to sign up as somebody else is still who they were.
    data = await account.ask(both, input=newcomer() | {"email": account.email})
    assert rules(data["signUp"]) == [("email", "unique")]
    assert data["updateViewer"]["problems"] == []
    assert (await account.ask("{ viewer { displayName } }"))["viewer"]["displayName"] == "x"


async def test_what_follows_in_a_document_is_asked_by_the_new_person(account: Account) -> None:
    data = await account.ask(
        """mutation($input: SignUpInput!) {
            signUp(input: $input) { viewer { id } }
            updateViewer(input: {displayName: "new"}) { viewer { id displayName } }
        }""",
        input=newcomer(),
    )
    assert data["updateViewer"]["viewer"]["displayName"] == "new"
    assert data["updateViewer"]["viewer"]["id"] == data["signUp"]["viewer"]["id"] != account.id


async def test_sent_again_it_logs_the_same_person_in_anew(
    anybody: Caller, admin_engine: AsyncEngine
) -> None:
    input = newcomer() | {"idempotencyKey": "once", "deviceName": "phone"}
    first = await anybody.do(SIGN_UP, **input)
    again = await anybody.do(SIGN_UP, **input)
    assert again["problems"] == []
    assert again["viewer"] == first["viewer"]
    assert again["token"] != first["token"]
    assert again["loginSession"]["id"] != first["loginSession"]["id"]
    assert again["loginSession"]["deviceName"] == "phone"
    assert again["loginSession"]["current"] is True
    for opened in (first, again):
        data = await anybody.by(opened["token"]).ask("{ viewer { id } }")
        assert data["viewer"]["id"] == first["viewer"]["id"]
    ((people,),) = await stored(
        admin_engine, "SELECT count(*) FROM users WHERE email = :email", email=input["email"]
    )
    assert people == 1


async def test_sent_again_differently_it_is_refused(anybody: Caller) -> None:
    input = newcomer() | {"idempotencyKey": "once"}
    await anybody.do(SIGN_UP, **input)
    taken = [("username", "unique"), ("email", "unique")]
    # Without the key or the password it is one more person who wants a taken name.
    assert rules(await anybody.do(SIGN_UP, **input | {"idempotencyKey": "other"})) == taken
    assert rules(await anybody.do(SIGN_UP, **input | {"idempotencyKey": None})) == taken
    assert rules(await anybody.do(SIGN_UP, **input | {"password": f"{PASSWORD}!"})) == taken
    other = await anybody.do(SIGN_UP, **input | {"displayName": "Somebody else"})
    assert codes(other) == ["IDEMPOTENCY_CONFLICT"]
    assert other["token"] is other["viewer"] is None


async def test_a_key_that_was_not_used_to_sign_up_is_not_used_up_by_trying(
    anybody: Caller, admin_engine: AsyncEngine
) -> None:
    input = newcomer()
    opened = await anybody.do(SIGN_UP, **input)
    refused = await anybody.do(SIGN_UP, **input | {"idempotencyKey": "late"})
    assert rules(refused) == [("username", "unique"), ("email", "unique")]
    owner_id: UUID = ids.decode_as("user", opened["viewer"]["id"])
    counts = await stored(
        admin_engine,
        "SELECT (SELECT count(*) FROM idempotency_keys WHERE owner_id = :id),"
        " (SELECT count(*) FROM login_sessions WHERE owner_id = :id)",
        id=owner_id,
    )
    assert counts == [(0, 1)]


async def test_twenty_at_once_with_one_key_are_one_person_with_twenty_logins(
    anybody: Caller, admin_engine: AsyncEngine
) -> None:
    input = newcomer() | {"idempotencyKey": "once"}
    answers = await asyncio.gather(
        *(Caller(anybody.services).do(SIGN_UP, **input) for _ in range(20))
    )
    assert {len(answer["problems"]) for answer in answers} == {0}
    assert len({answer["viewer"]["id"] for answer in answers}) == 1
    assert len({answer["token"] for answer in answers}) == 20
    owner_id = ids.decode_as("user", answers[0]["viewer"]["id"])
    counts = await stored(
        admin_engine,
        "SELECT (SELECT count(*) FROM login_sessions WHERE owner_id = :id),"
        " (SELECT count(*) FROM workers WHERE owner_id = :id)",
        id=owner_id,
    )
    assert counts == [(20, 1)]
