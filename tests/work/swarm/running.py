"""The servers and the worker processes of a swarm, and what becomes of them."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tests.processes import ROOT, Serving, environment
from tests.work.swarm.__main__ import Job


@dataclass
class WorkerProcess:
    """A process of workers."""

    job: Job
    process: asyncio.subprocess.Process

    @classmethod
    async def start(cls, job: Job, folder: Path) -> WorkerProcess:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.work.swarm", json.dumps(asdict(job))),
            cwd=ROOT,
            env=environment(folder),
            stdin=asyncio.subprocess.DEVNULL,
        )
        return cls(job, process)


class Swarm:
    """Servers on one database, and workers on them; `kill_…` replaces what it kills."""

    def __init__(self, database_url: str, folder: Path, seed: int) -> None:
        self._url = database_url
        self._folder = folder
        self._random = random.Random(seed)
        self._started = 0
        self.servers: list[Serving] = []
        self.workers: list[WorkerProcess] = []
        self.killed_workers = 0
        self.killed_servers = 0

    async def start_servers(self, many: int) -> list[str]:
        """Start servers; their addresses, which stay the same when they are replaced."""
        starting = (asyncio.to_thread(self._server) for _ in range(many))
        self.servers = list(await asyncio.gather(*starting))
        return [server.url for server in self.servers]

    def _server(self, **settings: str) -> Serving:
        return Serving(self._folder, DATABASE_URL=self._url, LOG_LEVEL="warning", **settings)

    async def start_workers(self, job: Job) -> None:
        """Start a process of workers."""
        self._started += 1
        ledger = str(self._folder / f"{self._started}.ledger")
        job = replace(job, ledger=ledger, seed=job.seed + self._started)
        self.workers.append(await WorkerProcess.start(job, self._folder))

    async def kill_workers(self) -> None:
        """Kill a process of workers, whatever they are at, and start another in its place."""
        living = [one for one in self.workers if one.process.returncode is None]
        if not living:
            return
        victim = self._random.choice(living)
        victim.process.kill()
        await victim.process.wait()
        self.killed_workers += 1
        await self.start_workers(replace(victim.job, late=False))

    async def kill_server(self) -> None:
        """Kill a server, whatever it is at, and start another in its place."""
        place = self._random.randrange(len(self.servers))
        victim = self.servers[place]
        await asyncio.to_thread(victim.kill)
        self.killed_servers += 1
        self.servers[place] = await asyncio.to_thread(self._server, PORT=str(victim.port))

    async def ended(self) -> list[int]:
        """The exit codes of the worker processes that were not killed, once they all ended."""
        codes = [await one.process.wait() for one in self.workers]
        return [code for code in codes if code != -9]

    def ledger(self) -> list[dict[str, Any]]:
        """All lines of all workers, in the order of time. A killed one's last may be half."""
        lines = [
            line
            for file in self._folder.glob("*.ledger")
            for line in file.read_text().splitlines()
            if line.endswith("}")
        ]
        return sorted(map(json.loads, lines), key=lambda line: float(line["at"]))

    async def stop(self) -> None:
        """End what still runs."""
        for one in self.workers:
            if one.process.returncode is None:
                one.process.kill()
                await one.process.wait()
        for server in self.servers:
            await asyncio.to_thread(server.kill)
