"""Passwords are hashed with argon2id: off the event loop, a few at a time."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from secrets import token_urlsafe
from typing import ParamSpec, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHash

__all__ = ["Argon2Passwords"]

P = ParamSpec("P")
T = TypeVar("T")


class Argon2Passwords:
    """Hashes and verifies on threads of its own.

    One hash takes a core for some 50 ms and 64 MiB of memory. However many people log in at once,
    the rest wait in line and the event loop stays free.
    """

    def __init__(self, *, concurrency: int) -> None:
        self._hasher = PasswordHasher()
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="passwords")
        self._nobodys: asyncio.Task[str] | None = None

    async def hash(self, password: str) -> str:
        """The hash to store."""
        return await self._on_thread(self._hasher.hash, password)

    async def verify(self, password: str, password_hash: str | None) -> bool:
        """Whether the hash is of this password.

        Without a hash, as for an unknown person, it takes as long and is False: the time of the
        answer does not tell who has an account.
        """
        if password_hash is not None:
            return await self._on_thread(self._matches, password_hash, password)
        if self._nobodys is None:
            self._nobodys = asyncio.create_task(self.hash(token_urlsafe()))
        nobodys = await asyncio.shield(self._nobodys)
        await self._on_thread(self._matches, nobodys, password)
        return False

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False)

    async def _on_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        call = functools.partial(work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def _matches(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (Argon2Error, InvalidHash):
            return False
