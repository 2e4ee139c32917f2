"""Several servers on one database: runners that die, are fenced out, or are asked to end."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path

import pytest_asyncio

from tests.conftest import FreshDatabase
from tests.edge.waiting import until
from tests.examples.running import Account, sign_up
from tests.processes import Serving, serving
from tests.provider import KEY, FakeProvider, words
from tests.replies.chats import STOP, ended, following, fresh, read, sent, start
from tests.replies.chats import ask as asked_of

StartServer = Callable[..., Serving]


class At(Account):
    """An account, at any of the servers."""

    async def execute(self, query: str, **variables: object) -> dict[str, object]:
        return {"data": await self.ask(query, **variables)}


@pytest_asyncio.fixture
async def start_server(
    fresh_database: FreshDatabase, provider: FakeProvider, tmp_path: Path
) -> AsyncIterator[StartServer]:
    """Starts processes on a database of their own that ask the provider, until the test ends."""
    database_url = await fresh_database()
    with ExitStack() as stack:

        def start(**settings: str) -> Serving:
            given = {
                "DATABASE_URL": database_url,
                "LLM_BASE_URL": provider.url,
                "LLM_API_KEY": KEY,
                "LLM_MODEL": "gated",
                "LLM_LEASE_SECONDS": "1.5",
                "SHUTDOWN_GRACE_SECONDS": "1",
                "LOG_LEVEL": "warning",
            }
            return stack.enter_context(serving(tmp_path, **(given | settings)))

        yield start


@pytest_asyncio.fixture
async def two(start_server: StartServer) -> AsyncIterator[tuple[At, At]]:
    """Somebody, at one server and at another."""
    first, second = start_server(), start_server()
    account = await sign_up(first)
    here = At(account.url, account.token)
    here_too = At(f"{second.url}/graphql", account.token)
    processes[here.url] = first
    processes[here_too.url] = second
    yield here, here_too


processes: dict[str, Serving] = {}


def kill(at: At) -> None:
    """kill -9."""
    process = processes[at.url].process
    process.send_signal(signal.SIGKILL)
    process.communicate()


async def test_a_killed_runner_leaves_an_interrupted_message(
    two: tuple[At, At], provider: FakeProvider
) -> None:
    first, second = two
    said = fresh()
    generation = (await sent(first, said))["generation"]["id"]
    provider.release(said, 3)
    async with following(second.url, second, generation) as followed:
        await followed.until(words(3))
        kill(first)
        last = await followed.to_the_end()
    assert last["message"]["status"] == "INTERRUPTED"
    assert last["message"]["content"] == words(3)
    assert last["problem"]["reason"] == "interrupted"
    assert len(provider.about(said)) == 1
    found = await read(second, generation)
    assert found["error"]["code"] == "interrupted"
    # it can be asked for again
    again = await sent(second, fresh(), "echo", conversation=await start(second))
    assert (await ended(second, again["generation"]["id"]))["status"] == "COMPLETE"


async def test_of_which_nothing_was_written_is_begun_anew_by_another(
    two: tuple[At, At], provider: FakeProvider
) -> None:
    first, second = two
    said = fresh()
    generation = (await sent(first, said, "gated-2"))["generation"]["id"]
    await until(lambda: provider.about(said))
    async with following(second.url, second, generation) as followed:
        kill(first)
        await until(lambda: len(provider.about(said)) == 2)
        provider.release(said, 3)
        last = await followed.to_the_end()
    assert last["message"]["status"] == "COMPLETE"
    assert last["message"]["content"] == words(2)


async def test_it_is_stopped_from_another_process(
    two: tuple[At, At], provider: FakeProvider
) -> None:
    first, second = two
    said = fresh()
    generation = (await sent(first, said))["generation"]["id"]
    provider.release(said, 2)
    async with following(first.url, first, generation) as followed:
        await followed.until(words(2))
        stopped = await asked_of(second, STOP, id=generation)
        assert stopped["message"]["content"] == words(2)
        assert (await followed.to_the_end())["message"]["status"] == "STOPPED"
    [asked] = provider.about(said)
    await until(lambda: asked.gone)


async def test_a_runner_that_slept_is_fenced_out(
    two: tuple[At, At], provider: FakeProvider
) -> None:
    first, second = two
    said = fresh()
    generation = (await sent(first, said))["generation"]["id"]
    provider.release(said, 2)
    async with following(second.url, second, generation) as followed:
        await followed.until(words(2))
        process = processes[first.url].process
        process.send_signal(signal.SIGSTOP)
        try:
            last = await followed.to_the_end()
            assert last["message"]["status"] == "INTERRUPTED"
            provider.release(said, 4)
        finally:
            process.send_signal(signal.SIGCONT)
    [asked] = provider.about(said)
    # it wakes, writes what came meanwhile, is refused and hangs up
    await until(lambda: asked.gone)
    found = await read(second, generation)
    assert found["status"] == "INTERRUPTED"
    assert found["assistantMessage"]["content"] == words(2)


async def test_a_server_that_is_told_to_end_keeps_what_was_written(
    two: tuple[At, At], provider: FakeProvider
) -> None:
    first, second = two
    said, quick, untouched = fresh(), fresh(), fresh()
    generation = (await sent(first, said))["generation"]["id"]
    soon = (await sent(first, quick, "gated-2"))["generation"]["id"]
    later = (await sent(first, untouched, "gated-2"))["generation"]["id"]
    provider.release(said, 2)
    provider.release(quick, 1)
    for generation_, text in ((generation, words(2)), (soon, words(1))):
        async with following(second.url, second, generation_) as followed:
            await followed.until(text)
    await until(lambda: provider.about(untouched))
    processes[first.url].process.send_signal(signal.SIGTERM)
    # within its time of grace this one ends by itself
    provider.release(quick, 2)
    assert (await ended(second, soon))["status"] == "COMPLETE"
    found = await ended(second, generation)
    assert (found["status"], found["error"]["code"]) == ("INTERRUPTED", "interrupted")
    assert found["assistantMessage"]["content"] == words(2)
    # and of this one nothing was written: the other server begins it anew
    await until(lambda: len(provider.about(untouched)) == 2)
    provider.release(untouched, 3)
    assert (await ended(second, later))["assistantMessage"]["content"] == words(2)
    assert processes[first.url].process.wait(timeout=10) is not None


async def test_a_server_that_starts_again_ends_what_it_left(
    start_server: StartServer, provider: FakeProvider
) -> None:
    only = start_server()
    account = await sign_up(only)
    at = At(account.url, account.token)
    processes[at.url] = only
    said = fresh()
    generation = (await sent(at, said))["generation"]["id"]
    provider.release(said, 2)
    async with following(at.url, at, generation) as followed:
        await followed.until(words(2))
    kill(at)
    again = start_server()
    at = At(f"{again.url}/graphql", account.token)
    async with following(at.url, at, generation, after=followed.seq) as followed:
        last = await followed.to_the_end()
    assert (last["message"]["status"], last["message"]["content"]) == ("INTERRUPTED", words(2))
