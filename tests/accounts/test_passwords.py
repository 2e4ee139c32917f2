"""The service that hashes passwords."""

import asyncio
from threading import active_count

import pytest

from server.passwords import MAX_BYTES, Argon2Passwords


async def test_a_hash_is_argon2id_and_verifies(passwords: Argon2Passwords) -> None:
    first, second = await passwords.hash("a password"), await passwords.hash("a password")
    assert first != second
    assert first.startswith("$argon2id$v=19$m=8192,t=1,p=1$")
    assert await passwords.verify("a password", first)
    assert not await passwords.verify("a passwore", first)
    assert not await passwords.verify("a password", None)
    assert not await passwords.verify("a password", "none")
    assert await passwords.verify("pass\U0001f511word", await passwords.hash("pass\U0001f511word"))


async def test_production_parameters_are_those_of_rfc_9106(passwords: Argon2Passwords) -> None:
    production = Argon2Passwords()
    hashed = await production.hash("a password")
    assert hashed.startswith("$argon2id$v=19$m=65536,t=3,p=1$")
    cheap = await passwords.hash("a password")
    assert production.outdated(cheap)
    assert not production.outdated(hashed)
    assert not passwords.outdated(cheap)
    production.close()


async def test_what_is_too_long_is_not_hashed(passwords: Argon2Passwords) -> None:
    assert await passwords.hash("é" * (MAX_BYTES // 2))
    for text in ("x" * (MAX_BYTES + 1), "é" * (MAX_BYTES // 2) + "x"):
        with pytest.raises(ValueError, match="1024"):
            await passwords.hash(text)
        with pytest.raises(ValueError, match="1024"):
            await passwords.verify(text, None)


async def test_no_more_than_the_bound_run_at_once() -> None:
    passwords = Argon2Passwords(concurrency=2, time_cost=1, memory_kib=8_192)
    before = active_count()
    hashes = await asyncio.gather(*(passwords.hash(f"password {n}") for n in range(20)))
    assert len(set(hashes)) == 20
    assert active_count() - before <= 2
    passwords.close()


async def test_who_gives_up_leaves_the_line(passwords: Argon2Passwords) -> None:
    waiting = [asyncio.create_task(passwords.hash("a password")) for _ in range(20)]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert all(task.cancelled() for task in waiting)
    assert await passwords.verify("a password", await passwords.hash("a password"))
