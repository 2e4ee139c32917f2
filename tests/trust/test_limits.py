"""What callers may spend, over every transport, and what they are told of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from server.app import create_app
from server.settings import Settings
from tests.edge.conftest import GRAPHQL, JSON, Login, MakeSettings, NewLogin, Served, serving
from tests.edge.sockets import hear, opened, say, subscribe
from tests.edge.whole import SIGN_UP

LIMIT = 10_000
# 1,000 + 1,000 x 8
LARGE = "{ projects(first: 1000) { nodes { tasks(first: 8) { nodes { id } } } } }"
SMALL = "{ viewer { id } }"
LEFT = "{ rateLimit { limit used remaining resetAt cost } }"
EVENTS = "text/event-stream"


@pytest_asyncio.fixture(scope="module")
async def limited(make_settings: MakeSettings) -> AsyncIterator[Served]:
    """A server with an hour's points for one large operation and many small ones."""
    settings = make_settings(
        max_batch=8,
        rate_limit_cost=f"{LIMIT}/hour",
        rate_limit_address_cost=f"{LIMIT}/hour",
        rate_limit_sign_ups="3/hour",
        allowed_origins="https://app.example",
    )
    async with serving(create_app(settings), proxies="*") as served:
        yield served


async def post(
    served: Served, query: str, login: Login | None = None, **headers: str
) -> httpx.Response:
    return await served.post(query, (login.headers if login else {}) | headers)


def code_of(body: dict[str, Any]) -> str:
    (error,) = body["errors"]
    code: str = error["extensions"]["code"]
    return code


async def test_what_is_left_is_told_in_headers_and_in_the_answer(
    limited: Served, new_login: NewLogin
) -> None:
    login = await new_login()
    first = await post(limited, LARGE, login)
    assert first.status_code == 200
    assert first.headers["ratelimit-limit"] == str(LIMIT)
    assert first.headers["ratelimit-remaining"] == "1000"
    assert 0 < int(first.headers["ratelimit-reset"]) <= 3_600
    second = await post(limited, LEFT, login)
    assert second.headers["ratelimit-remaining"] == "999"
    left = second.json()["data"]["rateLimit"]
    reset = datetime.fromisoformat(left.pop("resetAt"))
    assert left == {"limit": LIMIT, "used": 9_001, "remaining": 999, "cost": 1}
    seconds = (reset - datetime.now(UTC)).total_seconds()
    assert 0 < seconds <= 3_600


async def test_what_does_not_fit_is_refused_before_it_runs_and_takes_nothing(
    limited: Served, new_login: NewLogin
) -> None:
    login = await new_login()
    await post(limited, LARGE, login)
    for accept in (GRAPHQL, JSON, EVENTS):
        refused = await post(limited, LARGE, login, accept=accept)
        assert refused.status_code == 429
        assert "data" not in refused.json()
        assert code_of(refused.json()) == "RATE_LIMITED"
        (error,) = refused.json()["errors"]
        seconds = error["extensions"]["retryAfterSeconds"]
        assert refused.headers["retry-after"] == str(seconds)
        assert 0 < seconds <= 3_600
        assert refused.headers["ratelimit-remaining"] == "1000"
    # What fits still runs, and so does everything of anybody else.
    assert (await post(limited, SMALL, login)).status_code == 200
    assert (await post(limited, LARGE, await new_login())).status_code == 200


async def test_the_logins_and_keys_of_a_person_share_one_allowance(
    limited: Served, new_login: NewLogin
) -> None:
    login = await new_login()
    await post(limited, LARGE, login)
    again = await post(limited, LARGE, await new_login(of=login.owner_id))
    assert again.status_code == 429
    key = await new_login(of=login.owner_id, key=True)
    assert (await post(limited, LARGE, key)).status_code == 429


async def test_sockets_and_batches_spend_the_same_points(
    limited: Served, new_login: NewLogin
) -> None:
    login = await new_login()
    async with opened(limited, login) as connection:
        await say(connection, subscribe(LARGE))
        assert "data" in (await hear(connection))["payload"]
        assert (await hear(connection))["type"] == "complete"
        await say(connection, subscribe(LARGE, "2"))
        refused = await hear(connection)
        assert (refused["type"], refused["id"]) == ("error", "2")
        assert refused["payload"][0]["extensions"]["code"] == "RATE_LIMITED"
        assert refused["payload"][0]["extensions"]["retryAfterSeconds"] > 0
        # the socket goes on
        await say(connection, subscribe(LEFT, "3"))
        left = (await hear(connection))["payload"]["data"]["rateLimit"]
        assert left["remaining"] == 999
    batch = await limited.client.post(
        "/graphql", json=[{"query": LARGE}, {"query": LEFT}], headers=login.headers
    )
    assert batch.status_code == 200
    large, small = batch.json()
    assert code_of(large) == "RATE_LIMITED"
    assert small["data"]["rateLimit"]["remaining"] == 998
    assert batch.headers["ratelimit-remaining"] == "998"


async def test_a_subscription_is_charged_when_it_begins(
    limited: Served, new_login: NewLogin
) -> None:
    login = await new_login()
    watch = 'subscription { changes(after: "x") { cursor } }'
    async with asyncio.timeout(10):
        async with limited.client.stream(
            "POST", "/graphql", json={"query": watch}, headers=login.headers | {"accept": EVENTS}
        ) as response:
            assert response.status_code == 200
            assert int(response.headers["ratelimit-remaining"]) < LIMIT


async def test_who_is_not_logged_in_shares_the_points_of_their_address(limited: Served) -> None:
    def from_(address: str) -> dict[str, str]:
        return {"x-forwarded-for": address}

    asked = await limited.post(LARGE, from_("198.51.100.7"))
    assert asked.json()["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    assert (await limited.post(LARGE, from_("198.51.100.7"))).status_code == 429
    assert (await limited.post(LARGE, from_("198.51.100.8"))).status_code == 200
    # A customer has a whole network in IPv6.
    assert (await limited.post(LARGE, from_("2001:db8:1:2::7"))).status_code == 200
    assert (await limited.post(LARGE, from_("2001:db8:1:2:ffff::8"))).status_code == 429
    assert (await limited.post(LARGE, from_("2001:db8:1:3::7"))).status_code == 200


async def test_an_address_is_not_what_a_client_says_it_is(limited: Served) -> None:
    """A proxy adds whom it was asked by to what the client wrote there itself."""
    statuses = [
        (
            await limited.client.post("/graphql", json={"query": LARGE}, headers=[*forged])
        ).status_code
        for forged in (
            [("x-forwarded-for", "198.51.100.30"), ("accept", GRAPHQL)],
            [("x-forwarded-for", "192.0.2.1, 198.51.100.30"), ("accept", GRAPHQL)],
            [
                ("x-forwarded-for", "192.0.2.2"),
                ("x-forwarded-for", "198.51.100.30"),
                ("accept", GRAPHQL),
            ],
        )
    ]
    assert statuses == [200, 429, 429]


async def test_what_is_refused_as_a_document_costs_a_point(
    limited: Served, new_login: NewLogin
) -> None:
    login = await new_login()
    for number, document in enumerate(("{", "{ nothing }", "{ viewer { id } } }"), 1):
        refused = await post(limited, document, login)
        assert refused.status_code == 400
        assert refused.headers["ratelimit-remaining"] == str(LIMIT - number)


async def test_what_is_written_costs_as_much_as_it_is(limited: Served, new_login: NewLogin) -> None:
    login = await new_login()
    documents = [{"title": f"t{n}", "content": "c", "sourceType": "NOTE"} for n in range(40)]
    answer = await limited.client.post(
        "/graphql",
        json={
            "query": "mutation($input: CreateDocumentsInput!)"
            " { createDocuments(input: $input) { problems { message } } }",
            "variables": {"input": {"documents": documents, "idempotencyKey": "k"}},
        },
        headers=login.headers,
    )
    assert LIMIT - int(answer.headers["ratelimit-remaining"]) > 40


async def test_an_address_opens_so_many_accounts_and_is_told_when_it_may_open_more(
    limited: Served,
) -> None:
    async def sign_up(address: str) -> dict[str, Any]:
        name = f"n{uuid4().hex}"
        input = {"username": name, "email": f"{name}@example.org", "password": "long enough"}
        answer = await limited.client.post(
            "/graphql",
            json={"query": SIGN_UP, "variables": {"input": input}},
            headers={"x-forwarded-for": address},
        )
        assert answer.status_code == 200
        payload: dict[str, Any] = answer.json()["data"]["signUp"]
        return payload

    for _ in range(3):
        assert (await sign_up("203.0.113.1"))["token"]
    refused = await sign_up("203.0.113.1")
    assert refused["token"] is None
    (problem,) = refused["problems"]
    assert problem["__typename"] == "RateLimited"
    assert problem["code"] == "RATE_LIMITED"
    assert 0 < problem["retryAfterSeconds"] <= 3_600
    assert (await sign_up("203.0.113.2"))["token"]


async def test_pages_of_other_origins_may_read_what_is_left(
    limited: Served, new_login: NewLogin
) -> None:
    answer = await post(limited, SMALL, await new_login(), origin="https://app.example")
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    shown = answer.headers["access-control-expose-headers"].lower()
    for name in ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset", "retry-after"):
        assert name in shown


async def test_nothing_is_said_where_nothing_is_limited(
    make_settings: MakeSettings, new_login: NewLogin
) -> None:
    async with serving(create_app(make_settings())) as served:
        answer = await post(served, LEFT, await new_login())
    assert answer.json()["data"] == {"rateLimit": None}
    assert "ratelimit-limit" not in answer.headers


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rate_limit_cost": "9999/minute"}, "MAX_COST"),
        ({"rate_limit_cost": "plenty"}, "rate_limit_cost"),
        ({"rate_limit_sign_ups": "0/hour"}, "rate_limit_sign_ups"),
        ({"rate_limit_storage_url": "postgresql://host"}, "redis://"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(
    make_settings: MakeSettings, changes: dict[str, str], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        make_settings(**changes)


def test_development_is_generous_and_production_is_not() -> None:
    production = Settings(_env_file=None, engram_environment="production").gate
    developing = Settings(_env_file=None, engram_environment="development").gate
    assert production.cost == (200_000, 60)
    assert production.sign_ups == (20, 3_600)
    assert developing.cost == (10_000_000, 60)
    assert developing.sign_ups == (1_000, 3_600)
