"""Passwords are hashed with argon2id: off the event loop, a few at a time."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from secrets import token_bytes
from typing import TypeVar

from argon2 import (
    DEFAULT_HASH_LENGTH,
    DEFAULT_RANDOM_SALT_LENGTH,
    PasswordHasher,
    Type,
)
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError
from argon2.low_level import ARGON2_VERSION

__all__ = ["MAX_BYTES", "Argon2Passwords"]

T = TypeVar("T")

MAX_BYTES = 1_024
"""The longest password that is hashed, in UTF-8."""


class Argon2Passwords:
    """Hashes and verifies on threads of its own; implements `schema.context.Passwords`.

    With the parameters that are set here one hash takes a core for about 0.1 s and 64 MiB of
    memory, above what OWASP asks for. However many people log in at once, the rest wait in line and
    the event loop stays free.
    """

    def __init__(
        self, *, concurrency: int = 2, time_cost: int = 3, memory_kib: int = 65_536
    ) -> None:
        # One lane: more would take the cores that the event loop needs.
        self._hasher = PasswordHasher(
            time_cost=time_cost, memory_cost=memory_kib, parallelism=1, type=Type.ID
        )
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="passwords")
        # The line is on the event loop, where whoever gives up leaves it.
        self._turns = asyncio.Semaphore(concurrency)
        # Of no password: a salt and a digest by chance.
        self._nobodys = (
            f"$argon2id$v={ARGON2_VERSION}$m={memory_kib},t={time_cost},p=1"
            f"${_base64(DEFAULT_RANDOM_SALT_LENGTH)}${_base64(DEFAULT_HASH_LENGTH)}"
        )

    async def hash(self, password: str) -> str:
        """The hash to store. Raises ValueError for more than `MAX_BYTES`."""
        secret = _encoded(password)
        return await self._on_thread(lambda: self._hasher.hash(secret))

    async def verify(self, password: str, password_hash: str | None) -> bool:
        """Whether the hash is of this password. Raises ValueError for more than `MAX_BYTES`.

        Without a hash, as for an unknown person, it takes as long and is False: the time of the
        answer does not tell who has an account.
        """
        secret = _encoded(password)
        return await self._on_thread(lambda: self._matches(secret, password_hash))

    def outdated(self, password_hash: str) -> bool:
        """Whether the hash was made with other parameters than a new one would be."""
        return self._hasher.check_needs_rehash(password_hash)

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False)

    async def _on_thread(self, work: Callable[[], T]) -> T:
        async with self._turns:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _matches(self, secret: bytes, password_hash: str | None) -> bool:
        if password_hash is not None:
            try:
                return self._hasher.verify(password_hash, secret)
            except VerificationError:
                return False
            except InvalidHashError:
                pass  # an account without a password: as slow as any other
        with suppress(VerifyMismatchError):
            self._hasher.verify(self._nobodys, secret)
        return False


def _base64(length: int) -> str:
    return b64encode(token_bytes(length)).decode().rstrip("=")


def _encoded(password: str) -> bytes:
    secret = password.encode()
    if len(secret) > MAX_BYTES:
        raise ValueError(f"A password has at most {MAX_BYTES} bytes.")
    return secret
