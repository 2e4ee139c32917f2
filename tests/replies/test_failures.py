"""Whatever the provider does wrong, the reply ends and says why, and nobody reads the key."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.edge.conftest import Served
from tests.edge.waiting import until
from tests.edge.whole import Someone, sign_up
from tests.provider import KEY, FakeProvider, words
from tests.replies.chats import STOP, ask, ended, following, fresh, sent

FAILURES = [
    ("status-400", "rejected", "", 400),
    ("status-401", "unauthorized", "", 401),
    ("status-403", "unauthorized", "", 403),
    ("status-404", "not_found", "", 404),
    ("status-422", "rejected", "", 422),
    ("broke", "rate_limited", "", 429),
    ("busy-long", "rate_limited", "", 429),
    ("breaks-3", "disconnected", words(3), None),
    ("ends-3", "disconnected", words(3), None),
    ("ends-0", "disconnected", "", None),
    ("hangs-3", "timeout", words(3), None),
    ("hangs-0", "timeout", "", None),
    ("silent", "timeout", "", None),
    ("malformed", "malformed", words(3), None),
    ("malformed-shape", "malformed", words(3), None),
    ("malformed-number", "malformed", words(3), None),
    ("fails", "provider_error", words(3), None),
    ("endless", "too_long", words(1), None),
]


@pytest.mark.parametrize(("model", "code", "text", "status"), FAILURES)
async def test_a_failure_is_told_and_keeps_what_was_written(
    replying: Served,
    impatient: Served,
    provider: FakeProvider,
    capfd: pytest.CaptureFixture[str],
    model: str,
    code: str,
    text: str,
    status: int | None,
) -> None:
    said = fresh()
    server = impatient if code == "timeout" else replying
    someone = await sign_up(server)
    generation = (await sent(someone, said, model))["generation"]["id"]
    async with following(server.url, someone, generation) as followed:
        last = await followed.to_the_end()
    assert last["problem"]["code"] == "PROVIDER_UNAVAILABLE"
    assert last["problem"]["reason"] == code
    assert last["message"]["status"] == "FAILED"
    assert last["message"]["content"] == text
    found = await ended(someone, generation)
    assert (found["status"], found["finishReason"]) == ("FAILED", None)
    assert found["error"]["code"] == code
    assert found["error"].get("status") == status
    assert found["error"]["message"] == last["problem"]["message"]
    assert len(provider.about(said)) == 1
    told = json.dumps(found) + json.dumps(last) + "".join(capfd.readouterr())
    for secret in (KEY, str(provider.port), "127.0.0.1:" + str(provider.port)):
        assert secret not in told.replace(server.url, "")


async def test_a_provider_that_is_busy_is_asked_again(
    someone: Someone, provider: FakeProvider
) -> None:
    said = fresh()
    found = await ended(someone, (await sent(someone, said, "busy-2"))["generation"]["id"])
    assert found["status"] == "COMPLETE"
    assert len(provider.about(said)) == 3
    said = fresh()
    found = await ended(someone, (await sent(someone, said, "busy-9"))["generation"]["id"])
    assert (found["status"], found["error"]["code"]) == ("FAILED", "rate_limited")
    assert found["error"]["retryAfterSeconds"] == 1
    assert len(provider.about(said)) == 4


async def test_a_provider_that_fails_is_asked_again(
    someone: Someone, provider: FakeProvider
) -> None:
    said = fresh()
    found = await ended(someone, (await sent(someone, said, "status-503"))["generation"]["id"])
    assert (found["status"], found["error"]["code"]) == ("FAILED", "provider_error")
    assert len(provider.about(said)) == 4


async def test_what_is_cut_at_the_limit_says_so(someone: Someone, provider: FakeProvider) -> None:
    said = fresh()
    payload = await sent(someone, said, "cut", reply={"maxOutputTokens": 3})
    found = await ended(someone, payload["generation"]["id"])
    assert (found["status"], found["finishReason"]) == ("COMPLETE", "length")
    assert provider.about(said)[0].body["max_tokens"] == 3


async def test_what_cannot_be_stored_is_replaced(someone: Someone) -> None:
    found = await ended(someone, (await sent(someone, fresh(), "odd"))["generation"]["id"])
    content: Any = found["assistantMessage"]["content"]
    assert content.startswith("a�b")
    assert content.endswith("�!")
    assert "\0" not in content


async def test_halves_of_a_character_meet_however_late_the_second_comes(
    someone: Someone,
) -> None:
    found = await ended(someone, (await sent(someone, fresh(), "halves"))["generation"]["id"])
    assert found["assistantMessage"]["content"] == "ab😀c�"
    assert (found["status"], found["finishReason"]) == ("COMPLETE", "st�p�")


async def test_a_silent_provider_can_be_stopped(
    someone: Someone, replying: Served, provider: FakeProvider
) -> None:
    said = fresh()
    generation = (await sent(someone, said, "hangs-0"))["generation"]["id"]
    await until(lambda: provider.about(said))
    stopped = await ask(someone, STOP, id=generation)
    assert stopped["message"]["status"] == "STOPPED"
    [asked] = provider.about(said)
    await until(lambda: asked.gone)
