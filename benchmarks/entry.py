"""Whether the time of an answer tells who has an account, and what charging an operation costs.

Wrong log-ins go over HTTP to one process of Engram in production mode: for accounts that exist and
for names that nobody has, in an order by chance. A guesser sees two times and says that the longer
one was of an account; AUC is how often that would be right, 0.5 is chance. Its 95 % interval is
found by resampling. The first answers are of a cold server and left out.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import quantiles
from time import process_time
from uuid import uuid4

import httpx

from benchmarks.dataset import HOME, Dataset
from benchmarks.peers import PEERS, Peer, started
from db.embedded import EmbeddedServer
from db.migrate import upgrade
from schema.context import Actor, Client
from server.gate import EntryGate, GateLimits, Memory, Rate
from server.graphql import spent

FOLDER = HOME / "entry"
DATABASE = "entry"
WARM_UP = 10
RESAMPLED = 2_000
SIGN_UP = """mutation($input: SignUpInput!) { answer: signUp(input: $input) {
    token problems { code message } } }"""
LOG_IN = """mutation($input: LogInInput!) { answer: logIn(input: $input) {
    token problems { code message } } }"""


async def entry(*, attempts: int, accounts: int) -> None:
    """Print both distributions, how well they can be told apart, and the cost of charging."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    charging()
    with EmbeddedServer.start(FOLDER) as server:
        server.drop_database(DATABASE)
        server.create_database(DATABASE)
        await upgrade(server.url(DATABASE))
        with started(_engram(), Dataset(server, DATABASE, 0, (), ())) as engram:
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{engram.port}", timeout=60
            ) as client:
                print(f"load of the machine: {os.getloadavg()[0]:.2f} on {os.cpu_count()}")
                await _distributions(client, attempts, accounts)
        server.drop_database(DATABASE)


async def _distributions(client: httpx.AsyncClient, attempts: int, accounts: int) -> None:
    known = [f"p{uuid4().hex}" for _ in range(accounts)]
    for name in known:
        input = {"username": name, "email": f"{name}@example.org", "password": "as long as needed"}
        answer, _ = await _ask(client, SIGN_UP, input)
        assert answer["token"], answer
    tries = [(True, random.choice(known)) for _ in range(attempts)]
    tries += [(False, f"p{uuid4().hex}") for _ in range(attempts)]
    random.shuffle(tries)
    times: dict[bool, list[float]] = {True: [], False: []}
    said = set()
    for number, (exists, name) in enumerate(tries):
        input = {"identifier": f"{name}@example.org", "password": "not the password"}
        answer, seconds = await _ask(client, LOG_IN, input)
        said.add(str(answer))
        if number >= WARM_UP:
            times[exists].append(seconds * 1000)
    print(f"different answers: {len(said)}")
    print(f"{'':>12} {'n':>5} {'p5':>7} {'p25':>7} {'p50':>7} {'p75':>7} {'p95':>7}  ms")
    for exists, name in ((True, "account"), (False, "no account")):
        cuts = quantiles(times[exists], n=20)
        shown = " ".join(f"{cuts[cut - 1]:7.1f}" for cut in (1, 5, 10, 15, 19))
        print(f"{name:>12} {len(times[exists]):5} {shown}")
    low, high = interval(times[True], times[False])
    print(f"AUC {auc(times[True], times[False]):.3f}, 95 % between {low:.3f} and {high:.3f}")
    print("0.5 is within: nothing is told" if low <= 0.5 <= high else "THEY CAN BE TOLD APART")


async def _ask(
    client: httpx.AsyncClient, query: str, input: dict[str, str]
) -> tuple[dict[str, object], float]:
    began = time.perf_counter()
    response = await client.post("/graphql", json={"query": query, "variables": {"input": input}})
    seconds = time.perf_counter() - began
    answer: dict[str, object] = response.json()["data"]["answer"]
    return answer, seconds


def auc(ones: Sequence[float], others: Sequence[float]) -> float:
    """How often one of the ones is larger than one of the others; a tie counts half."""
    ranked: list[tuple[float, int]] = [(value, 1) for value in ones]
    ranked = sorted(ranked + [(value, 0) for value in others])
    ranks = 0.0
    place = 0
    while place < len(ranked):
        end = place
        while end < len(ranked) and ranked[end][0] == ranked[place][0]:
            end += 1
        mean = (place + 1 + end) / 2
        ranks += mean * sum(kind for _, kind in ranked[place:end])
        place = end
    return (ranks - len(ones) * (len(ones) + 1) / 2) / (len(ones) * len(others))


def interval(ones: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    found = sorted(
        auc(random.choices(ones, k=len(ones)), random.choices(others, k=len(others)))
        for _ in range(RESAMPLED)
    )
    return found[RESAMPLED * 25 // 1000], found[RESAMPLED * 975 // 1000]


def charging(rounds: int = 5, operations: int = 50_000) -> None:
    """What the gate adds to an operation that is admitted: the count, and the headers."""
    rate = Rate(10**12, 60)
    gate = EntryGate(GateLimits(cost=rate, address_cost=rate), Memory(), time.time)
    actors = [Actor(uuid4(), "user", uuid4()) for _ in range(10_000)]
    client = Client("192.0.2.1")
    best = float("inf")
    for _ in range(rounds):
        began = process_time()
        for number in range(operations):
            allowance = gate.charge(actors[number % len(actors)], client, 3)
            spent(allowance)  # type: ignore[arg-type]  # in memory it is there at once
        best = min(best, (process_time() - began) / operations)
    print(f"charging 10,000 people in memory, headers included: {best * 1e6:.2f} µs an operation")


def _engram() -> Peer:
    engram = PEERS["engram"]
    endless = dict.fromkeys(
        ("WRONG_PASSWORDS", "WRONG_PASSWORDS_ADDRESS", "WRONG_PASSWORDS_ACCOUNT"), "1000000000"
    )
    return replace(engram, environment=lambda data: {**engram.environment(data), **endless})
