"""Running generations: a reader of the provider, a writer of what it says, a lease.

The writer stores the first of a reply at once and then what has gathered, a few times a second.
Whoever follows reads it from there, on whatever process; so a client that goes away changes
nothing, and what was shown to anybody is stored.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any

import structlog

from db.models.conversations import MAX_CONTENT, MessageStatus, PartType
from db.models.conversations_generations import DeltaKind
from db.repositories.conversations_runs import Delta, Fenced, Outcome
from server.replies.calls import Calls
from server.replies.prompt import CHARS_PER_TOKEN, Prompt, assemble
from server.replies.provider import (
    End,
    Piece,
    Provider,
    ProviderError,
    Reasoning,
    Text,
    ToolCall,
    Usage,
    clean,
)
from server.replies.store import Job, Store

log = structlog.get_logger("engram.replies")

GATHER_SECONDS = 0.16
"""How long text gathers before it is stored, at most; what nobody waits for is stored at once."""
GATHER_CHARS = 1_000
PACE_SECONDS = 0.025
"""How long what the provider sends may lie in the socket: many words are then taken in one go."""
BURST_SECONDS = 0.002
QUIET_SECONDS = 1.0
WAITING_CHARS = 200_000
"""How much may wait for a database that is away before the provider is read no further."""
STOPPED = {"code": "interrupted", "message": "The server was stopped while it was written."}


class Run:
    """One run of one generation."""

    def __init__(
        self,
        job: Job,
        store: Store,
        provider: Provider,
        *,
        context_tokens: int,
        longest_seconds: float,
        stored: Callable[[Sequence[Delta]], None],
    ) -> None:
        """`stored` is told of deltas once they are committed."""
        self.job = job
        self._store = store
        self._provider = provider
        self._most_chars = context_tokens * CHARS_PER_TOKEN
        self._longest_seconds = longest_seconds
        self._stored = stored
        self._prompt: Prompt | None = None
        self._waiting: list[tuple[DeltaKind, str]] = []
        self._waiting_chars = 0
        self._chars = 0
        self._news = asyncio.Event()
        self._due = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._seq = 0
        self._calls = Calls()
        self._facts: dict[str, Any] = {}
        self._stopping = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self.fenced = False
        self.status = "lost"
        """How the run ended."""
        self._wrote_at = self._held_at = time.monotonic()

    async def run(self) -> None:
        """Ask, write, end. Raises nothing but cancellation."""
        started = time.monotonic()
        try:
            self.status = await self._run()
        except Fenced:
            self.status = "fenced"
        except Exception:
            # Its lease expires, and the next sweep ends it.
            log.exception("reply_lost", generation_id=str(self.job.id))
        finally:
            log.info(
                "reply",
                generation_id=str(self.job.id),
                model=self.job.model,
                status=self.status,
                deltas=self._seq,
                characters=self._chars,
                seconds=round(time.monotonic() - started, 3),
            )

    @property
    def quiet(self) -> bool:
        """Whether the next write, which would learn of a fence, is not to be expected soon."""
        return time.monotonic() - max(self._wrote_at, self._held_at) > QUIET_SECONDS

    def fence(self) -> None:
        """It was stopped, deleted or taken over: write nothing more."""
        self.fenced = True
        self._leave()

    def interrupt(self) -> None:
        """The process ends: keep what there is."""
        self._stopping.set()
        self._leave()

    async def hold(self) -> None:
        """Say that this run is alive; learn whether it still may be."""
        try:
            await self._store.hold(self.job)
            self._held_at = time.monotonic()
        except Fenced:
            self.fence()

    def _leave(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._due.set()

    async def _run(self) -> str:
        job = self.job
        branch, passages = await self._store.material(job, self._most_chars)
        self._prompt = assemble(branch, passages, job.instructions)
        self._reader = asyncio.create_task(self._read())
        if self.fenced or self._stopping.is_set():
            self._leave()
        self._reader.add_done_callback(lambda _: self._wake())
        try:
            await self._write(self._reader)
        finally:
            self._reader.cancel()
            await asyncio.wait({self._reader})
            if not self._reader.cancelled():
                self._reader.exception()  # seen, whatever else has failed
        if self.fenced:
            raise Fenced
        return await self._end(self._reader)

    # Reading.

    async def _read(self) -> None:
        """Take in what the provider says. Raises ProviderError."""
        job = self.job
        assert self._prompt is not None
        pieces = self._provider.stream(
            job.model,
            self._prompt.messages,
            temperature=job.temperature,
            max_output_tokens=job.max_output_tokens,
            tools=job.tools,
        )
        try:
            async with asyncio.timeout(self._longest_seconds), aclosing(pieces):  # type: ignore[type-var]  # an async generator
                awake = time.monotonic()
                async for piece in pieces:
                    self._take(piece)
                    if self._waiting_chars > WAITING_CHARS:
                        self._room.clear()
                        await self._room.wait()
                    # What has arrived is taken without waiting; then the rest may gather.
                    if self._seq and time.monotonic() - awake > BURST_SECONDS:
                        await asyncio.sleep(PACE_SECONDS)
                        awake = time.monotonic()
        except TimeoutError:
            raise ProviderError("timeout", "The reply took too long.") from None

    def _take(self, piece: Piece) -> None:
        match piece:
            case Text():
                self._gather(DeltaKind.TEXT, piece.text)
            case Reasoning():
                self._gather(DeltaKind.REASONING, piece.text)
            case ToolCall():
                self._calls.take(piece)
            case Usage():
                self._facts["input_tokens"] = piece.input_tokens
                self._facts["output_tokens"] = piece.output_tokens
            case End():
                self._facts["finish_reason"] = piece.reason

    def _gather(self, kind: DeltaKind, text: str) -> None:
        if self._chars + len(text) > MAX_CONTENT:
            raise ProviderError("too_long", "The reply is longer than a message can be.")
        self._waiting.append((kind, text))
        self._chars += len(text)
        self._waiting_chars += len(text)
        self._news.set()
        if self._waiting_chars >= GATHER_CHARS:
            self._due.set()

    # Writing.

    async def _write(self, reader: asyncio.Task[None]) -> None:
        """Store what gathers until the reader is done, but for the last of it. Raises Fenced."""
        while True:
            await self._news.wait()
            self._news.clear()
            if reader.done() or self.fenced:
                return
            if not self._waiting:
                continue
            left = self._wrote_at + GATHER_SECONDS - time.monotonic() if self._seq else 0.0
            if left > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self._due.wait()
            if reader.done() or self.fenced:
                return
            begun = self._begun() if not self._seq else None
            deltas = self._taken(whole=False)
            if not deltas:
                continue
            await self._store.append(self.job, deltas, begun)
            self._wrote_at = time.monotonic()
            self._stored(deltas)

    def _begun(self) -> dict[str, Any]:
        assert self._prompt is not None
        return {"context": self._prompt.context}

    def _taken(self, *, whole: bool = True) -> list[Delta]:
        """What has gathered, as deltas: neighbours of one kind are one.

        Unless it is the whole, half of a character waits for its other half.
        """
        joined: list[tuple[DeltaKind, list[str]]] = []
        for kind, text in self._waiting:
            if not joined or joined[-1][0] != kind:
                joined.append((kind, []))
            joined[-1][1].append(text)
        self._waiting = []
        if joined and not whole and "\ud800" <= joined[-1][1][-1][-1] <= "\udbff":
            kind, texts = joined[-1]
            self._waiting = [(kind, texts[-1][-1])]
            texts[-1] = texts[-1][:-1]
        self._waiting_chars = len(self._waiting)
        self._due.clear()
        self._room.set()
        deltas = []
        for kind, texts in joined:
            if text := clean("".join(texts)):
                self._seq += 1
                deltas.append(Delta(self._seq, kind, text))
        return deltas

    # Ending.

    async def _end(self, reader: asyncio.Task[None]) -> str:
        """Write the outcome. Raises Fenced."""
        begun = self._begun() if not self._seq else {}
        facts = {**begun, **self._facts}
        status, parts = MessageStatus.COMPLETE, self._tools()
        if reader.cancelled():
            if not self._seq and not self._waiting:
                await self._store.release(self.job)
                return "released"
            status, facts["error"], parts = MessageStatus.INTERRUPTED, STOPPED, []
        elif (error := reader.exception()) is not None:
            if not isinstance(error, ProviderError):
                log.error("reply_broken", exc_info=error, generation_id=str(self.job.id))
                error = ProviderError("internal", "The server failed while it was written.")
            status, facts["error"], parts = MessageStatus.FAILED, error.facts, []
            facts.pop("finish_reason", None)
        await self._store.finish(self.job, self._taken(), Outcome(status, parts, facts))
        return status.value

    def _tools(self) -> Sequence[dict[str, Any]]:
        return [
            {
                "type": PartType.TOOL_CALL.value,
                "tool_call_id": clean(call.id)[:200] or f"call_{self.job.id.hex}_{number}",
                "data": {
                    "name": clean(call.name)[:200],
                    "arguments": clean("".join(call.arguments)),
                },
            }
            for number, call in enumerate(self._calls)
        ]
