"""Login sessions: seen, ended one by one or all others."""

from typing import Any
from uuid import uuid4

import pytest

from schema import ids
from server.identity import Unauthenticated
from tests.accounts.callers import PROBLEMS, Account, Caller, codes, new_account, rules

REVOKE = f"""mutation($input: RevokeLoginSessionInput!) {{
    revokeLoginSession(input: $input) {{ loginSession {{ id current revokedAt }} {PROBLEMS} }}
}}"""
REVOKE_OTHERS = f"""mutation($input: RevokeOtherLoginSessionsInput!) {{
    revokeOtherLoginSessions(input: $input) {{ loginSessions {{ id revokedAt }} {PROBLEMS} }}
}}"""


async def test_login_sessions_are_listed_with_the_one_that_asks(
    anybody: Caller, account: Account
) -> None:
    await new_account(anybody)
    opened = await anybody.log_in(account.email, deviceName="phone")
    data = await account.ask("{ loginSessions { nodes { id deviceName current } totalCount } }")
    assert data["loginSessions"] == {
        "nodes": [
            {"id": opened["loginSession"]["id"], "deviceName": "phone", "current": False},
            {"id": account.login_id, "deviceName": None, "current": True},
        ],
        "totalCount": 2,
    }
    assert len(account.statements) == 2


async def test_a_login_session_is_a_node_of_its_owner_alone(
    anybody: Caller, account: Account
) -> None:
    document = "query($id: ID!) { node(id: $id) { ... on LoginSession { id current } } }"
    data = await account.ask(document, id=account.login_id)
    assert data["node"] == {"id": account.login_id, "current": True}
    other = await new_account(anybody)
    assert (await other.ask(document, id=account.login_id))["node"] is None


async def test_ending_one_ends_that_one(anybody: Caller, account: Account) -> None:
    opened = await anybody.log_in(account.email)
    other = anybody.by(opened["token"])
    ended = await account.do(REVOKE, id=opened["loginSession"]["id"])
    assert ended["problems"] == []
    assert ended["loginSession"]["revokedAt"] is not None
    with pytest.raises(Unauthenticated):
        await other.ask("{ viewer { id } }")
    # Again: nothing more to do, no further event.
    assert await account.do(REVOKE, id=opened["loginSession"]["id"]) == ended
    data = await account.ask(
        '{ auditEvents(filter: {action: {eq: "revoke"}}) { nodes { entityId before after } } }'
    )
    (event,) = data["auditEvents"]["nodes"]
    assert event["entityId"] == opened["loginSession"]["id"]
    assert event["before"] == {"revoked_at": None}
    assert set(event["after"]) == {"revoked_at"}


async def test_ending_ones_own_is_logging_out(account: Account) -> None:
    data = await account.ask(
        f"""mutation($id: ID!) {{
            revokeLoginSession(input: {{id: $id}}) {{ loginSession {{ current }} }}
            updateViewer(input: {{displayName: "x"}}) {{ {PROBLEMS} }}
        }}""",
        id=account.login_id,
    )
    assert data["revokeLoginSession"]["loginSession"] == {"current": False}
    assert codes(data["updateViewer"]) == ["UNAUTHENTICATED"]
    with pytest.raises(Unauthenticated):
        await account.ask("{ viewer { id } }")


async def test_those_of_others_are_not_there(anybody: Caller, account: Account) -> None:
    stranger = await new_account(anybody)
    unknown = ids.encode("login_session", uuid4())
    for identifier in (stranger.login_id, unknown):
        refused = await account.do(REVOKE, id=identifier)
        assert refused["loginSession"] is None
        assert [(one["code"], one["path"]) for one in refused["problems"]] == [
            ("NOT_FOUND", ["input", "id"])
        ]
    assert (await stranger.ask("{ viewer { id } }"))["viewer"]["id"] == stranger.id
    for wrong in ("x", account.id):
        assert rules(await account.do(REVOKE, id=wrong)) == [("id", "id")]


async def test_ending_all_others_leaves_the_one_that_asks(
    anybody: Caller, account: Account
) -> None:
    opened = [await anybody.log_in(account.email) for _ in range(4)]
    stranger = await new_account(anybody)
    ended: dict[str, Any] = await account.do(REVOKE_OTHERS)
    assert ended["problems"] == []
    assert len(account.statements) == 2
    assert {login["id"] for login in ended["loginSessions"]} == {
        one["loginSession"]["id"] for one in opened
    }
    assert all(login["revokedAt"] for login in ended["loginSessions"])
    for one in opened:
        with pytest.raises(Unauthenticated):
            await anybody.by(one["token"]).ask("{ viewer { id } }")
    for person in (account, stranger):
        assert (await person.ask("{ viewer { id } }"))["viewer"]["id"] == person.id
    assert (await account.do(REVOKE_OTHERS))["loginSessions"] == []
