"""The gate: charges operations, counts sign-ups, and slows down who guesses passwords.

Wrong passwords are counted three ways: for an account from one address, which stops who guesses at
one; from one address for all accounts, which stops who tries one list on many; and for an account
from everywhere, which stops who has many addresses. Past a number of them each further try has to
wait, 1 s, 2 s, 4 s and so on, up to a longest time. Only one try is under way in a wait, so that
many at once win nothing. The last of the three does not bind an address that the account has been
logged in to from: strangers cannot lock a person out of the places where they are at home.

An account is what the caller calls it: the same happens whether there is one or not.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from inspect import isawaitable
from uuid import UUID

import structlog

from db.addresses import network
from db.refusals import Limited
from schema.context import Actor, Client
from schema.gate import Allowance
from server.failures import Failure, failure
from server.gate.limits import GateLimits, Rate
from server.gate.stores import Store, Taken

__all__ = ["EntryGate", "OverLimit"]

log = structlog.get_logger("engram.server")

FORGET_SECONDS = 3_600
"""How long after the first of them wrong passwords are forgotten."""


class OverLimit(Exception):
    """An operation that is not run, as its caller has spent what they may."""

    def __init__(self, allowance: Allowance, now: float) -> None:
        self.allowance = allowance
        self.retry_after = max(1, math.ceil(allowance.resets_at - now))
        super().__init__(f"Too much at once: try again in {self.retry_after} s.")

    @property
    def failure(self) -> Failure:
        """The error that says so."""
        return failure(
            str(self),
            "RATE_LIMITED",
            retryAfterSeconds=self.retry_after,
            limit=self.allowance.limit,
            remaining=self.allowance.remaining,
            cost=self.allowance.cost,
        )


@dataclass(frozen=True, slots=True)
class Guarded:
    """Something that wrong passwords are counted for."""

    key: str
    free: int
    """How many are wrong before the next has to wait."""
    cleared: bool = False
    """Whether a right one makes up for all; otherwise for itself alone."""
    unless: Callable[[], Awaitable[bool]] | None = None
    """What lifts the wait."""


class Try:
    """A password that is being looked at; implements `schema.gate.Attempt`."""

    def __init__(self, store: Store, guarded: Sequence[Guarded]) -> None:
        self._store = store
        self._guarded = guarded

    async def succeeded(self) -> None:
        for one in self._guarded:
            if one.cleared:
                await self._store.clear("failures", one.key)
            else:
                await self._store.add("failures", one.key, FORGET_SECONDS, -1)
            await self._store.clear("wait", one.key)


class EntryGate:
    """Implements `schema.gate.Gate`, and charges operations."""

    def __init__(self, limits: GateLimits, store: Store, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._store = store
        self._clock = clock

    def charge(
        self, actor: Actor | None, client: Client, points: int
    ) -> Allowance | Awaitable[Allowance] | None:
        """Take points from a person's window, or from the address's of who is nobody yet."""
        key: UUID | str
        if actor is not None:
            rate, name, key = self._limits.cost, "cost", actor.owner_id
        else:
            rate, name, key = self._limits.address_cost, "address_cost", network(client.ip)
        if rate is None:
            return None
        taken = self._store.take(name, key, rate, points)
        if isinstance(taken, tuple):
            used, ends, refused = taken
            return Allowance(rate.amount, used, ends, points, refused)
        return _allowance(taken, rate, points)

    def over(self, allowance: Allowance) -> OverLimit:
        """The refusal of what did not fit."""
        return OverLimit(allowance, self._clock())

    async def sign_up(self, client: Client) -> None:
        await self._limit("sign_ups", client, self._limits.sign_ups)

    async def log_in(
        self, identifier: str, client: Client, familiar: Callable[[], Awaitable[bool]]
    ) -> Try:
        await self._limit("log_ins", client, self._limits.log_ins)
        limits, address = self._limits, network(client.ip)
        # No name and no address of a person is to be read in a store.
        account = sha256(identifier.strip().casefold().encode()).hexdigest()[:32]
        return await self._begin(
            [
                Guarded(f"{account}/{address}", limits.failures, cleared=True),
                Guarded(address, limits.address_failures),
                Guarded(account, limits.account_failures, unless=familiar),
            ]
        )

    async def confirm(self, owner_id: UUID) -> Try:
        return await self._begin([Guarded(f"own/{owner_id}", self._limits.failures, cleared=True)])

    async def close(self) -> None:
        """Give back what the store holds."""
        await self._store.close()

    async def _limit(self, name: str, client: Client, rate: Rate | None) -> None:
        if rate is None:
            return
        taken = self._store.take(name, network(client.ip), rate, 1)
        _, ends, refused = await taken if isawaitable(taken) else taken
        if refused:
            seconds = max(1, math.ceil(ends - self._clock()))
            what = name.replace("_", "-")
            raise Limited(f"Too many {what} from this address: try again in {seconds} s.", seconds)

    async def _begin(self, guarded: Sequence[Guarded]) -> Try:
        bound = []
        for one in guarded:
            left = await self._store.left("wait", one.key)
            if left <= 0:
                bound.append(one)
            elif one.unless is None or not await one.unless():
                raise _too_soon(left)
        for one in bound:
            # Counted before it is known to be wrong: many at once are as many as one by one.
            wrong = await self._store.add("failures", one.key, FORGET_SECONDS)
            if wrong <= one.free:
                continue
            wait = min(2 ** min(wrong - one.free - 1, 30), self._limits.longest_wait)
            if await self._store.add("wait", one.key, wait) > 1:
                raise _too_soon(wait)
            log.warning("passwords_slowed_down", seconds=wait, attempts=wrong)
        return Try(self._store, bound)


async def _allowance(taking: Awaitable[Taken], rate: Rate, points: int) -> Allowance:
    used, ends, refused = await taking
    return Allowance(rate.amount, used, ends, points, refused)


def _too_soon(left: float) -> Limited:
    seconds = max(1, math.ceil(left))
    return Limited(f"Too many wrong passwords: try again in {seconds} s.", seconds)
