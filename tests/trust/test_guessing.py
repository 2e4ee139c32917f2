"""Who guesses passwords is slowed down; who knows them is not kept out by strangers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from schema.context import Client, Services
from server.gate import EntryGate, GateLimits, Memory, Rate
from server.passwords import Argon2Passwords
from tests.accounts.callers import LOG_IN, PASSWORD, Account, Caller, codes, new_account
from tests.accounts.test_account import CHANGE_PASSWORD, UPDATE
from tests.trust.test_stores import Clock

LIMITS = GateLimits(failures=3, address_failures=12, account_failures=20, longest_wait=64)
WRONG = "certainly not the password"
HOME, ELSEWHERE = "192.0.2.1", "198.51.100.9"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guarded(services: Services, clock: Clock) -> Services:
    """The services of a process with a gate, whose clock the test moves."""
    return replace(services, gate=EntryGate(LIMITS, Memory(clock=clock), clock))


def at(services: Services, address: str) -> Caller:
    return Caller(services, client=Client(ip=address))


async def guess(caller: Caller, identifier: str, password: str = WRONG) -> tuple[str, int | None]:
    """What came of it, and the seconds to wait."""
    document = LOG_IN.replace("path ...", "path ... on RateLimited { retryAfterSeconds } ...")
    payload = await caller.do(document, identifier=identifier, password=password)
    if not payload["problems"]:
        return "in", None
    (problem,) = payload["problems"]
    return problem["code"], problem.get("retryAfterSeconds")


async def waits(caller: Caller, identifier: str, clock: Clock, times: int) -> list[int]:
    """How long the next guess has to wait after each wrong one."""
    found = []
    for _ in range(times):
        assert (await guess(caller, identifier))[0] == "UNAUTHENTICATED"
        code, seconds = await guess(caller, identifier)
        assert code == "RATE_LIMITED"
        assert seconds is not None
        found.append(seconds)
        clock.now += seconds
    return found


async def test_each_further_wrong_password_takes_twice_as_long(
    guarded: Services, clock: Clock
) -> None:
    account = await new_account(at(guarded, HOME))
    stranger = at(guarded, ELSEWHERE)
    for _ in range(3):
        assert await guess(stranger, account.email) == ("UNAUTHENTICATED", None)
    assert await waits(stranger, account.email, clock, 8) == [1, 2, 4, 8, 16, 32, 64, 64]


async def test_the_right_password_waits_as_well_and_then_makes_up_for_the_wrong_ones(
    guarded: Services, clock: Clock
) -> None:
    account = await new_account(at(guarded, HOME))
    person = at(guarded, ELSEWHERE)
    for _ in range(4):
        await guess(person, account.email)
    assert await guess(person, account.email, PASSWORD) == ("RATE_LIMITED", 1)
    clock.now += 1
    assert await guess(person, account.email, PASSWORD) == ("in", None)
    for _ in range(3):
        assert await guess(person, account.email) == ("UNAUTHENTICATED", None)


async def test_many_guesses_at_once_are_no_more_than_one_by_one(guarded: Services) -> None:
    account = await new_account(at(guarded, HOME))
    stranger = at(guarded, ELSEWHERE)
    answers = await asyncio.gather(*(guess(stranger, account.email) for _ in range(12)))
    assert [code for code, _ in answers].count("UNAUTHENTICATED") == 4


async def test_an_account_that_does_not_exist_is_guarded_in_the_same_way(
    guarded: Services, clock: Clock
) -> None:
    account = await new_account(at(guarded, HOME))
    answers: dict[str, list[Any]] = {}
    for identifier, address in ((account.email, "192.0.2.7"), ("nobody@here", "192.0.2.8")):
        stranger = at(guarded, address)
        answers[identifier] = [await guess(stranger, identifier) for _ in range(6)]
        answers[identifier].append(await waits_after(stranger, identifier, clock))
    assert answers[account.email] == answers["nobody@here"]


async def waits_after(caller: Caller, identifier: str, clock: Clock) -> list[int]:
    clock.now += 64
    return await waits(caller, identifier, clock, 3)


async def test_whatever_the_case_it_is_one_account(guarded: Services) -> None:
    account = await new_account(at(guarded, HOME))
    stranger = at(guarded, ELSEWHERE)
    for spelling in (account.email, account.email.upper(), account.email.title(), account.email):
        assert (await guess(stranger, spelling))[0] == "UNAUTHENTICATED"
    assert (await guess(stranger, account.email))[0] == "RATE_LIMITED"


async def test_one_address_that_tries_many_accounts_is_slowed_down(guarded: Services) -> None:
    stranger = at(guarded, "203.0.113.50")
    for number in range(13):
        assert (await guess(stranger, f"nobody{number}@here"))[0] == "UNAUTHENTICATED"
    assert (await guess(stranger, "nobody99@here"))[0] == "RATE_LIMITED"
    assert (await guess(at(guarded, "203.0.113.51"), "nobody99@here"))[0] == "UNAUTHENTICATED"


async def test_an_own_account_is_no_way_to_start_anew(guarded: Services, clock: Clock) -> None:
    account = await new_account(at(guarded, HOME))
    stranger = at(guarded, "203.0.113.60")
    wrong = 0
    for number in range(40):
        wrong += (await guess(stranger, f"someone{number}@here"))[0] == "UNAUTHENTICATED"
        await guess(stranger, account.email, PASSWORD)
    assert wrong <= 14


async def test_strangers_anywhere_do_not_keep_a_person_out_of_where_they_are_at_home(
    guarded: Services, clock: Clock
) -> None:
    account = await new_account(at(guarded, HOME))
    for number in range(21):  # a new address for each guess
        await guess(at(guarded, f"198.51.100.{number}"), account.email)
    assert (await guess(at(guarded, "203.0.113.9"), account.email))[0] == "RATE_LIMITED"
    assert (await guess(at(guarded, "203.0.113.9"), account.email, PASSWORD))[0] == "RATE_LIMITED"
    assert await guess(at(guarded, HOME), account.email, PASSWORD) == ("in", None)
    assert (await guess(at(guarded, "203.0.113.9"), account.email, PASSWORD))[0] == "RATE_LIMITED"
    clock.now += 64
    assert await guess(at(guarded, "203.0.113.9"), account.email, PASSWORD) == ("in", None)


async def test_at_home_is_a_whole_network_in_ipv6(guarded: Services) -> None:
    """Devices there choose a new address every day (RFC 8981)."""
    account = await new_account(at(guarded, "2001:db8:5:6:1111::1"))
    for number in range(21):
        await guess(at(guarded, f"198.51.100.{number}"), account.email)
    for near in ("2001:db8:5:7::1", "::ffff:198.51.100.77", "::1"):
        assert (await guess(at(guarded, near), account.email, PASSWORD))[0] == "RATE_LIMITED"
    assert await guess(at(guarded, "2001:db8:5:6:2222::9"), account.email, PASSWORD) == ("in", None)


async def test_a_new_name_is_no_way_to_ask_who_has_an_account(
    services: Services, clock: Clock
) -> None:
    limits = replace(LIMITS, sign_ups=Rate(4, 3_600))
    limited = replace(services, gate=EntryGate(limits, Memory(clock=clock), clock))
    somebody, asking = await new_account(at(limited, HOME)), await new_account(at(limited, HOME))
    asking.client = Client(ip=ELSEWHERE)

    async def ask(email: str) -> str:
        payload = await asking.do(UPDATE, email=email, expectedVersion=99)
        return codes(payload)[0]

    told = [await ask(email) for email in (somebody.email, "nobody1@here.org")]
    assert told == ["VALIDATION", "CONFLICT"]
    told = [await ask(email) for email in (somebody.email.upper(), "nobody2@here.org")]
    assert told == ["VALIDATION", "CONFLICT"]
    assert await ask(somebody.email) == await ask("nobody3@here.org") == "RATE_LIMITED"
    # What is one's own is no question.
    assert await ask(asking.email.upper()) == "CONFLICT"
    clock.now += 3_600
    assert await ask(somebody.email) == "VALIDATION"


async def test_a_stolen_token_is_no_way_to_guess_the_password(
    guarded: Services, clock: Clock
) -> None:
    account = await new_account(at(guarded, HOME))

    async def change(current: str) -> str:
        payload = await account.do(CHANGE_PASSWORD, currentPassword=current, newPassword=PASSWORD)
        return codes(payload)[0] if payload["problems"] else "changed"

    assert [await change(WRONG) for _ in range(5)] == ["VALIDATION"] * 4 + ["RATE_LIMITED"]
    assert await change(PASSWORD) == "RATE_LIMITED"
    clock.now += 1
    assert await change(PASSWORD) == "changed"


async def test_a_sign_up_that_is_sent_again_is_no_way_to_guess_the_password(
    guarded: Services,
) -> None:
    account: Account = await new_account(at(guarded, HOME), idempotencyKey="once")
    stranger = at(guarded, ELSEWHERE)
    again = {"username": account.username, "email": account.email, "idempotencyKey": "once"}
    seen = [codes(await stranger.sign_up(**again, password=WRONG))[-1] for _ in range(5)]
    assert seen == ["VALIDATION"] * 4 + ["RATE_LIMITED"]


class CountingPasswords(Argon2Passwords):
    """Counts the hashes that are computed."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_kib=8_192)
        self.done = 0

    def _matches(self, secret: bytes, password_hash: str | None) -> bool:
        self.done += 1
        return super()._matches(secret, password_hash)


async def test_an_answer_takes_the_same_work_whether_there_is_an_account_or_not(
    guarded: Services, count_statements: Callable[[], list[str]]
) -> None:
    passwords = CountingPasswords()
    counted = replace(guarded, passwords=passwords)
    account = await new_account(at(guarded, HOME))
    work = []
    for identifier, network in ((account.email, "198.18.1"), (f"{uuid4().hex}@here", "198.18.2")):
        for number in range(22):  # past what one account may have from everywhere
            statements, before = count_statements(), passwords.done
            answer = await guess(at(counted, f"{network}.{number}"), identifier)
            work.append((answer, list(statements), passwords.done - before))
    passwords.close()
    known, unknown = work[:22], work[22:]
    assert known == unknown
    assert len(known[0][1]) == 1
    assert known[0][2] == 1
    assert len(known[-1][1]) == 2  # who has the name, and whether they were there before
    assert known[-1][0][0] == "RATE_LIMITED"
    assert known[-1][2] == 0


@pytest.fixture
def count_statements(statements: list[str]) -> Callable[[], list[str]]:
    """Begin a new list of the statements that are sent."""

    def begin() -> list[str]:
        statements.clear()
        return statements

    return begin
