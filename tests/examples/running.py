"""Examples as people run them: a process of its own, beside a real server."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from tests.processes import ROOT, Serving, environment

LIMIT_SECONDS = 60
"""How long an example may take to say what it should."""

SIGN_UP = "mutation($input: SignUpInput!) { signUp(input: $input) { token problems { message } } }"


@dataclass(frozen=True)
class Account:
    """Someone who signed up at a server, and asks it as an outsider does."""

    url: str
    token: str

    async def ask(self, document: str, **variables: Any) -> dict[str, Any]:
        """The data of an answer without errors and problems."""
        async with httpx.AsyncClient(timeout=30) as client:
            response = await client.post(
                self.url,
                json={"query": document, "variables": variables},
                headers={"authorization": f"Bearer {self.token}"} if self.token else {},
            )
        answer = response.json()
        assert "errors" not in answer, answer["errors"]
        data: dict[str, Any] = answer["data"]
        for payload in data.values():
            assert not isinstance(payload, dict) or not payload.get("problems"), payload
        return data


async def sign_up(server: Serving) -> Account:
    """A new account."""
    url, name = f"{server.url}/graphql", f"n{uuid4().hex}"
    given = {"username": name, "email": f"{name}@example.org", "password": f"{name} {name}"}
    data = await Account(url, "").ask(SIGN_UP, input=given)
    return Account(url, data["signUp"]["token"])


class Example:
    """A script of `examples/` that runs as somebody: `async with Example(...) as example`."""

    def __init__(
        self, script: str, account: Account, *arguments: str, data: Path, **settings: str
    ) -> None:
        self._command = [sys.executable, f"examples/{script}", *arguments]
        self._environment = environment(
            data, ENGRAM_URL=account.url, ENGRAM_TOKEN=account.token, **settings
        )
        self._process: asyncio.subprocess.Process
        self.lines: list[str] = []
        """What it has said so far, as far as it was read."""

    async def __aenter__(self) -> Example:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            cwd=ROOT,
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def says(self, pattern: str) -> re.Match[str]:
        """Read on until something is said that matches. Fails when it ends without."""
        assert self._process.stdout is not None
        async with asyncio.timeout(LIMIT_SECONDS):
            while line := (await self._process.stdout.readline()).decode():
                self.lines.append(line.rstrip("\n"))
                if found := re.search(pattern, line):
                    return found
        raise AssertionError(f"It ended and never said {pattern}: {self.lines}")

    async def hears(self, line: str) -> None:
        """Type a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        await self._process.stdin.drain()

    def signal(self, name: signal.Signals) -> None:
        """Send a signal: SIGINT is Ctrl-C."""
        self._process.send_signal(name)

    async def ends(self) -> int:
        """Read on to the end; the exit code."""
        assert self._process.stdout is not None
        async with asyncio.timeout(LIMIT_SECONDS):
            while line := (await self._process.stdout.readline()).decode():
                self.lines.append(line.rstrip("\n"))
            return await self._process.wait()
