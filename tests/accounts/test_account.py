"""What a person changes about their account, and its end."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from db.engine import create_engine
from db.models import metadata
from schema import ids
from schema.context import Services
from server.identity import Unauthenticated
from server.passwords import Argon2Passwords
from tests.accounts.callers import (
    PASSWORD,
    PROBLEMS,
    SIGN_UP,
    Account,
    Caller,
    codes,
    new_account,
    newcomer,
    rules,
)
from tests.factories import Factory, store
from tests.people import Person

VIEWER = "viewer { id username email displayName settings version }"
UPDATE = f"""mutation($input: UpdateViewerInput!) {{
    updateViewer(input: $input) {{ {VIEWER} {PROBLEMS} clientMutationId }}
}}"""
CHANGE_PASSWORD = f"""mutation($input: ChangePasswordInput!) {{
    changePassword(input: $input) {{ {VIEWER} {PROBLEMS} }}
}}"""
DELETE = f"""mutation($input: DeleteAccountInput!) {{
    deleteAccount(input: $input) {{ deletedId erased {{ table rows }} {PROBLEMS} }}
}}"""
NEW = "another long password"


# updateViewer


async def test_a_person_changes_what_is_known_about_them(account: Account) -> None:
    changed = await account.do(
        UPDATE,
        username=f"{account.username}.new",
        email=f"new.{account.email}",
        displayName="Grace",
        settings={"theme": {"dark": True}},
        clientMutationId="mine",
    )
    assert changed == {
        "viewer": {
            "id": account.id,
            "username": f"{account.username}.new",
            "email": f"new.{account.email}",
            "displayName": "Grace",
            "settings": {"theme": {"dark": True}},
            "version": 2,
        },
        "problems": [],
        "clientMutationId": "mine",
    }
    assert (await account.ask(f"{{ {VIEWER} }}"))["viewer"] == changed["viewer"]
    assert (await account.log_in(f"new.{account.email}"))["problems"] == []
    assert codes(await account.log_in(account.email)) == ["UNAUTHENTICATED"]


async def test_only_what_is_named_changes_and_nothing_is_no_change(account: Account) -> None:
    await account.do(UPDATE, displayName="Grace", settings={"a": 1})
    changed = await account.do(UPDATE, displayName=None)
    assert changed["viewer"]["displayName"] is None
    assert changed["viewer"]["settings"] == {"a": 1}
    assert changed["viewer"]["version"] == 3
    same = await account.do(UPDATE)
    assert same["viewer"] == changed["viewer"]


async def test_bad_values_of_the_viewer_are_refused_together(account: Account) -> None:
    refused = await account.do(
        UPDATE, username="x", email=None, settings={"a": "x" * 70_000}, displayName=""
    )
    assert rules(refused) == [
        ("username", "min_length"),
        ("email", "not_null"),
        ("displayName", "min_length"),
        ("settings", "value"),
    ]
    assert (await account.ask(f"{{ {VIEWER} }}"))["viewer"]["version"] == 1


async def test_names_of_others_are_refused_and_ones_own_is_not(
    anybody: Caller, account: Account
) -> None:
    other = await new_account(anybody)
    refused = await account.do(UPDATE, username=other.username.upper(), email=other.email)
    assert rules(refused) == [("username", "unique"), ("email", "unique")]
    kept = await account.do(UPDATE, username=account.username.upper(), email=account.email)
    assert kept["problems"] == []
    assert kept["viewer"]["username"] == account.username.upper()


async def test_two_who_want_one_name_at_once_do_not_both_get_it(anybody: Caller) -> None:
    people = [await new_account(anybody) for _ in range(6)]
    name = f"{people[0].username}.wanted"
    answers = await asyncio.gather(*(person.do(UPDATE, username=name) for person in people))
    assert sorted(len(answer["problems"]) for answer in answers) == [0, 1, 1, 1, 1, 1]
    assert {rule for answer in answers for rule in rules(answer)} == {("username", "unique")}


async def test_another_version_is_a_conflict_with_the_viewer_as_they_are(account: Account) -> None:
    await account.do(UPDATE, displayName="Grace", expectedVersion=1)
    document = UPDATE.replace(
        "message path", "message path ... on Conflict { currentVersion current { id } }"
    )
    for changes in ({"displayName": "Ada"}, {}):
        refused = await account.do(document, expectedVersion=1, **changes)
        (problem,) = refused["problems"]
        assert problem["__typename"] == "Conflict"
        assert problem["currentVersion"] == 2
        assert problem["current"] == {"id": account.id}
    assert (await account.ask(f"{{ {VIEWER} }}"))["viewer"]["displayName"] == "Grace"


async def test_an_update_sent_again_gives_the_first_answer(account: Account) -> None:
    first = await account.do(UPDATE, displayName="Grace", idempotencyKey="k")
    await account.do(UPDATE, displayName="Ada")
    assert await account.do(UPDATE, displayName="Grace", idempotencyKey="k") == first
    other = await account.do(UPDATE, displayName="Else", idempotencyKey="k")
    assert codes(other) == ["IDEMPOTENCY_CONFLICT"]
    assert (await account.ask(f"{{ {VIEWER} }}"))["viewer"]["displayName"] == "Ada"


async def test_nobody_is_no_viewer(anybody: Caller) -> None:
    answer = await anybody.execute("{ viewer { id } }")
    assert answer["errors"][0]["extensions"] == {"code": "UNAUTHENTICATED"}
    assert codes(await anybody.do(UPDATE, displayName="x")) == ["UNAUTHENTICATED"]


async def test_the_viewer_costs_one_statement(account: Account) -> None:
    await account.ask("{ a: viewer { id } b: viewer { email settings } }")
    assert len(account.statements) == 1


# changePassword


async def test_a_new_password_replaces_the_old_and_ends_the_other_logins(
    account: Account,
) -> None:
    others = [account.by((await account.log_in(account.email))["token"]) for _ in range(3)]
    changed = await account.do(CHANGE_PASSWORD, currentPassword=PASSWORD, newPassword=NEW)
    assert changed["problems"] == []
    assert changed["viewer"]["version"] == 2
    for other in others:
        with pytest.raises(Unauthenticated):
            await other.ask("{ viewer { id } }")
    data = await account.ask(
        "{ loginSessions { nodes { current revokedAt } }"
        ' auditEvents(filter: {action: {in: ["revoke", "change_password"]}})'
        " { nodes { action entityType before after } } }"
    )
    assert [
        (login["current"], login["revokedAt"] is None) for login in data["loginSessions"]["nodes"]
    ] == [(False, False)] * 3 + [(True, True)]
    events = data["auditEvents"]["nodes"]
    assert sorted((event["action"], event["entityType"]) for event in events) == [
        ("change_password", "user"),
        *[("revoke", "login_session")] * 3,
    ]
    assert codes(await account.log_in(account.email)) == ["UNAUTHENTICATED"]
    assert (await account.log_in(account.email, NEW))["problems"] == []


async def test_a_password_is_not_changed_without_the_current_one(account: Account) -> None:
    other = account.by((await account.log_in(account.email))["token"])
    refused = await account.do(CHANGE_PASSWORD, currentPassword="a guess", newPassword=NEW)
    assert rules(refused) == [("currentPassword", "password")]
    refused = await account.do(CHANGE_PASSWORD, currentPassword="x" * 201, newPassword="x" * 7)
    assert rules(refused) == [("currentPassword", "max_length"), ("newPassword", "min_length")]
    assert account.statements == []
    assert (await account.log_in(account.email))["problems"] == []
    assert (await other.ask("{ viewer { version } }"))["viewer"]["version"] == 1


async def test_a_change_of_password_sent_again_gives_the_first_answer(account: Account) -> None:
    change = {"currentPassword": PASSWORD, "newPassword": NEW, "idempotencyKey": "k"}
    first = await account.do(CHANGE_PASSWORD, **change)
    assert first["problems"] == []
    assert await account.do(CHANGE_PASSWORD, **change) == first
    # The key is that of another change: it must not seem done.
    third = {"currentPassword": NEW, "newPassword": f"{NEW} 3", "idempotencyKey": "k"}
    assert codes(await account.do(CHANGE_PASSWORD, **third)) == ["IDEMPOTENCY_CONFLICT"]
    # Nor must one that names another current password.
    guess = change | {"currentPassword": "a guess"}
    assert codes(await account.do(CHANGE_PASSWORD, **guess)) == ["IDEMPOTENCY_CONFLICT"]
    assert (await account.log_in(account.email, NEW))["problems"] == []
    assert (await account.ask(f"{{ {VIEWER} }}"))["viewer"]["version"] == 2


async def test_a_change_of_password_sent_again_after_another_gives_its_own_answer(
    account: Account,
) -> None:
    change = {"currentPassword": PASSWORD, "newPassword": NEW, "idempotencyKey": "k"}
    first = await account.do(CHANGE_PASSWORD, **change)
    second = await account.do(CHANGE_PASSWORD, currentPassword=NEW, newPassword=f"{NEW} 3")
    assert second["problems"] == []
    assert await account.do(CHANGE_PASSWORD, **change) == first
    assert (await account.log_in(account.email, f"{NEW} 3"))["problems"] == []
    assert (await account.ask(f"{{ {VIEWER} }}"))["viewer"]["version"] == 3


async def test_the_longest_passwords_can_be_changed_once(anybody: Caller) -> None:
    longest = ["\U0001f511" * 200, "\U0001f512" * 200]
    account = await new_account(anybody, password=longest[0])
    change = {"currentPassword": longest[0], "newPassword": longest[1], "idempotencyKey": "k"}
    first = await account.do(CHANGE_PASSWORD, **change)
    assert first["problems"] == []
    assert await account.do(CHANGE_PASSWORD, **change) == first


async def test_a_key_without_the_password_changes_nothing(account: Account) -> None:
    change = {"currentPassword": "a guess", "newPassword": NEW, "idempotencyKey": "k"}
    for _ in range(2):
        assert rules(await account.do(CHANGE_PASSWORD, **change)) == [
            ("currentPassword", "password")
        ]
    # The refused one has not used the key up.
    change["currentPassword"] = PASSWORD
    assert (await account.do(CHANGE_PASSWORD, **change))["problems"] == []


async def test_twenty_identical_changes_at_once_are_one(account: Account) -> None:
    change = {"currentPassword": PASSWORD, "newPassword": NEW, "idempotencyKey": "k"}
    answers = await asyncio.gather(
        *(account.by(str(account.token)).do(CHANGE_PASSWORD, **change) for _ in range(20))
    )
    assert answers == [answers[0]] * 20
    assert answers[0]["viewer"]["version"] == 2


async def test_of_different_changes_at_once_one_wins(account: Account) -> None:
    answers = await asyncio.gather(
        *(
            account.by(str(account.token)).do(
                CHANGE_PASSWORD, currentPassword=PASSWORD, newPassword=f"{NEW} {n}"
            )
            for n in range(8)
        )
    )
    (winner,) = [n for n, answer in enumerate(answers) if not answer["problems"]]
    assert {rule for answer in answers for rule in rules(answer)} == {
        ("currentPassword", "password")
    }
    assert (await account.log_in(account.email, f"{NEW} {winner}"))["problems"] == []


class Watching(Argon2Passwords):
    """Notes how many connections are in use whenever it is asked."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(time_cost=1, memory_kib=8_192)
        self.pool: Any = engine.pool
        self.in_use: list[int] = []

    async def hash(self, password: str) -> str:
        self.in_use.append(self.pool.checkedout())
        return await super().hash(password)

    async def verify(self, password: str, password_hash: str | None) -> bool:
        self.in_use.append(self.pool.checkedout())
        return await super().verify(password, password_hash)


async def test_no_connection_is_held_while_a_password_is_hashed(database_url: str) -> None:
    engine = create_engine(database_url, pool_size=1)
    passwords = Watching(engine)
    try:
        anybody = Caller(Services(engine, passwords))
        input = newcomer() | {"idempotencyKey": "k"}
        for _ in range(2):
            opened = await anybody.do(SIGN_UP, **input)
            assert opened["problems"] == []
        me = anybody.by((await anybody.log_in(input["email"]))["token"])
        change = {"currentPassword": PASSWORD, "newPassword": NEW, "idempotencyKey": "k"}
        assert (await me.do(CHANGE_PASSWORD, **change))["problems"] == []
        assert (await me.do(DELETE, password=NEW))["problems"] == []
    finally:
        passwords.close()
        await engine.dispose()
    # Signing up: a hash; the second time a check. Logging in: a check. Changing: the current
    # password, the new one because of the key, its hash. Erasing: a check.
    assert passwords.in_use == [0] * 7


# deleteAccount


async def test_an_erased_account_leaves_nothing(
    anybody: Caller, account: Account, admin_engine: AsyncEngine
) -> None:
    rows = Factory(account.owner_id, seed=1).fill()
    rows["users"] = []
    rows["workers"] = [row for row in rows["workers"] if row["kind"] != "human"]
    kept = {row["id"] for row in rows["workers"]}
    human = await account.ask("{ workers { nodes { id } } }")
    (mine,) = [node["id"] for node in human["workers"]["nodes"]]
    for task in rows["tasks"]:
        for name in ("created_by_id", "assignee_id", "claimed_by_id"):
            if task[name] is not None and task[name] not in kept:
                task[name] = ids.decode_as("worker", mine)
    await store(admin_engine, rows)
    await _follow(admin_engine, account)
    bystander = await new_account(anybody)
    counts = await _counts(admin_engine, account)
    assert {name for name, count in counts.items() if count == 0} == set()

    erased = await account.do(DELETE, password=PASSWORD)
    assert (erased["deletedId"], erased["problems"]) == (account.id, [])
    assert {line["table"]: line["rows"] for line in erased["erased"]} == counts
    assert set((await _counts(admin_engine, account)).values()) == {0}
    with pytest.raises(Unauthenticated):
        await account.ask("{ viewer { id } }")
    assert codes(await anybody.log_in(account.email)) == ["UNAUTHENTICATED"]
    assert (await bystander.ask("{ viewer { id } }"))["viewer"]["id"] == bystander.id
    # The names are free again.
    again = await anybody.sign_up(username=account.username, email=account.email)
    assert again["problems"] == []
    assert again["viewer"]["id"] != account.id


async def _follow(engine: AsyncEngine, account: Account) -> None:
    """Embed what the account has, by a model of its own, let replies come, and sweep."""
    model = "'retired', '[1, 2]'::halfvec, 2"
    statements = (
        "INSERT INTO embedding_models VALUES ('retired', 2, 'retired') ON CONFLICT DO NOTHING",
        "INSERT INTO embedding_choices (owner_id, model_id) VALUES (:id, 'retired')",
        "INSERT INTO embedding_jobs (owner_id, model_id, message_id)"
        " SELECT owner_id, 'retired', id FROM messages WHERE owner_id = :id",
        "INSERT INTO embeddings (owner_id, chunk_id, model_id, embedding, dimensions)"
        f" SELECT owner_id, id, {model} FROM chunks WHERE owner_id = :id",
        'INSERT INTO message_embeddings (owner_id, message_id, position, start, "end",'
        " content_sha256, model_id, embedding, dimensions)"
        f" SELECT owner_id, id, 0, 0, 1, sha256(''), {model} FROM messages WHERE owner_id = :id",
        "INSERT INTO generation_deltas (owner_id, generation_id, seq, text)"
        " SELECT owner_id, id, 1000, 'x' FROM generations WHERE owner_id = :id",
        "INSERT INTO swept_events (owner_id, xid, event_id) VALUES (:id, '1', :id)",
    )
    async with engine.connect() as connection:
        for statement in statements:
            given = {"id": account.owner_id} if ":id" in statement else {}
            await connection.execute(text(statement), given)


async def _counts(engine: AsyncEngine, account: Account) -> dict[str, int]:
    """How many rows of this owner every table has."""
    found = {}
    async with engine.connect() as connection:
        for table in metadata.sorted_tables:
            if table.info["shared"]:
                continue
            owner = "owner_id" if "owner_id" in table.c else "id"
            result = await connection.execute(
                text(f"SELECT count(*) FROM {table.name} WHERE {owner} = :id"),
                {"id": account.owner_id},
            )
            found[table.name] = result.scalar_one()
    return found


async def test_an_account_is_not_erased_without_its_password(account: Account) -> None:
    assert rules(await account.do(DELETE, password="a guess")) == [("password", "password")]
    assert rules(await account.do(DELETE, password="x" * 201)) == [("password", "max_length")]
    stale = await account.do(DELETE, password=PASSWORD, expectedVersion=7)
    assert codes(stale) == ["CONFLICT"]
    assert (await account.ask("{ viewer { id } }"))["viewer"]["id"] == account.id


async def test_after_erasing_a_document_is_asked_by_nobody(account: Account) -> None:
    answer = await account.execute(
        f"""mutation {{
            deleteAccount(input: {{password: "{PASSWORD}"}}) {{ deletedId }}
            updateViewer(input: {{displayName: "x"}}) {{ {PROBLEMS} }}
        }}"""
    )
    assert answer["data"]["deleteAccount"] == {"deletedId": account.id}
    assert codes(answer["data"]["updateViewer"]) == ["UNAUTHENTICATED"]


async def test_who_writes_after_their_account_is_erased_is_told_so(account: Account) -> None:
    """A token outlives its account for the seconds that a process remembers it."""
    create_key = f"""mutation($input: CreateApiKeyInput!) {{
        createApiKey(input: $input) {{ token {PROBLEMS} }}
    }}"""
    ghost = Person(account.owner_id, account.owner_id, account.services)
    await account.do(DELETE, password=PASSWORD)
    for key in ({}, {"idempotencyKey": "k"}):
        data = await ghost.ask(create_key, input={"name": "x", "scopes": ["READ"], **key})
        assert codes(data["createApiKey"]) == ["UNAUTHENTICATED"]
        assert data["createApiKey"]["token"] is None
    data = await ghost.ask(CHANGE_PASSWORD, input={"currentPassword": "x", "newPassword": NEW})
    assert codes(data["changePassword"]) == ["UNAUTHENTICATED"]
    data = await ghost.ask(UPDATE, input={"displayName": "x"})
    assert codes(data["updateViewer"]) == ["UNAUTHENTICATED"]
    answer = await ghost.execute("{ viewer { id } }")
    assert answer["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
