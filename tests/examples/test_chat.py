"""`examples/chat.py`: a reply is shown once, from end to end, whoever broke off in between."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.edge.waiting import until
from tests.examples.running import Account, Example, sign_up
from tests.processes import Serving, serving
from tests.provider import FakeProvider, providing, words


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with providing() as provider:
        yield provider


@pytest_asyncio.fixture
async def answering(
    database_url: str, provider: FakeProvider, tmp_path: Path
) -> AsyncIterator[Serving]:
    """A server that asks the provider."""
    given = {"DATABASE_URL": database_url, "LOG_LEVEL": "warning"}
    model = {"LLM_BASE_URL": provider.url, "LLM_MODEL": "gated"}
    with serving(tmp_path, **given, **model, LLM_LEASE_SECONDS="2") as served:
        yield served


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the chat keeps its place."""
    return tmp_path / "chat.json"


def shown(place: Path) -> int:
    """How many characters of the reply were shown."""
    return int(json.loads(place.read_text()).get("shown", 0)) if place.exists() else 0


def chat(account: Account, place: Path, *arguments: str) -> Example:
    file = str(place)
    return Example("chat.py", account, *arguments, data=place.parent, ENGRAM_CHAT_FILE=file)


async def test_an_answer_goes_on_after_ctrl_c(
    answering: Serving, provider: FakeProvider, place: Path
) -> None:
    account = await sign_up(answering)
    async with chat(account, place) as first:
        await first.hears("Tell me")
        await until(lambda: provider.about("Tell me"))
        provider.release("Tell me", 3)
        await until(lambda: shown(place) == len(words(3)))
        first.signal(signal.SIGINT)
        assert await first.ends() == 0
    assert words(3).strip() in first.lines[0]
    assert first.lines[-1] == "The reply goes on without you."
    provider.release("Tell me", 2)
    async with chat(account, place) as second:
        await until(lambda: shown(place) == len(words(5)))
        [asked] = provider.about("Tell me")
        assert not asked.gone
        second.signal(signal.SIGINT)
        await second.ends()
    assert second.lines[0].strip() == words(5)[len(words(3)) :].strip()
    provider.release("Tell me", 1)
    async with chat(account, place, "--stop") as third:
        await third.says(r"\[stopped\]")
        await third.hears("/quit")
        assert await third.ends() == 0
    assert len(provider.about("Tell me")) == 1
    await until(lambda: asked.gone)


async def test_a_lost_server_loses_nothing(
    answering: Serving, provider: FakeProvider, place: Path, tmp_path: Path, database_url: str
) -> None:
    account = await sign_up(answering)
    async with chat(account, place) as talk:
        await talk.hears("Once")
        await until(lambda: provider.about("Once"))
        provider.release("Once", 3)
        await until(lambda: shown(place) == len(words(3)))
        answering.process.send_signal(signal.SIGKILL)
        answering.process.communicate()
        with serving(
            tmp_path, DATABASE_URL=database_url, PORT=str(answering.port), LOG_LEVEL="warning",
            LLM_BASE_URL=provider.url, LLM_MODEL="echo", LLM_LEASE_SECONDS="2",
        ):  # fmt: skip
            found = await talk.says(r"\[interrupted\]")
            assert words(3).strip() in talk.lines[-1], found
            await talk.hears("/again")
            await talk.says("You said: Once")
            await talk.hears("And now?")
            await talk.says("You said: And now")
            await talk.hears("/quit")
            assert await talk.ends() == 0
    assert len(provider.about("Once")) == 2
