"""Writes exports of accounts: one at a time, all of it in one snapshot, a part at a time.

The file is JSON Lines, compressed. Each part is a whole member of a gzip file (RFC 1952, 2.2), so
that the parts one after the other are the file, and a part can be written without the others. A
snapshot ends with its process: whoever goes on with an export that was interrupted begins anew.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Table, text
from sqlalchemy.ext.asyncio import AsyncEngine

from db import exports as lines
from db.connection import uninterrupted
from db.repositories import exports
from db.repositories.exports import Attempt, Overtaken, Part
from db.session import Author, Session, SessionOptions

__all__ = ["Exporter"]

log = structlog.get_logger("engram.server")

PART_BYTES = 4 * 1024 * 1024
"""How much text a part holds, give or take a page of rows."""
DUE_AT_ONCE = 10
# The statement that takes the snapshot says of when it is.
_MOMENT = text("SELECT statement_timestamp() AS moment, version_num FROM public.alembic_version")


class Exporter:
    """Finds exports that nobody writes, and writes them."""

    def __init__(
        self,
        engine: AsyncEngine,
        options: SessionOptions,
        *,
        keep: timedelta,
        part_bytes: int = PART_BYTES,
        asking: AsyncEngine | None = None,
    ) -> None:
        """``keep`` is how long a finished export can be downloaded.

        What is due is asked by ``asking``: an engine whose connections need not be made each time.
        """
        self._engine = engine
        self._asking = asking or engine
        self._options = options
        self._keep = keep
        self._part_bytes = part_bytes

    async def run(self) -> int:
        """Write what is due, and say how many were finished. Raises DatabaseUnavailable."""
        async with Session(self._asking, None, self._options) as session:
            due = await exports.due(session, DUE_AT_ONCE)
        return sum([await self._take(owner_id, export_id) for owner_id, export_id in due])

    async def _take(self, owner_id: UUID, export_id: UUID) -> bool:
        author = Author("user", owner_id, f"export {export_id}")
        async with Session(self._engine, owner_id, self._options, author=author) as writer:
            async with writer.transaction():
                attempt = await exports.claim(writer, export_id)
            if attempt is None:
                return False
            try:
                await self._write(owner_id, writer, attempt)
            except Overtaken:
                log.warning("export_overtaken", export_id=str(export_id))
                return False
            except BaseException:
                # Another process need not wait for the lease to end.
                await uninterrupted(self._release(owner_id, attempt))
                raise
        log.info("export_written", export_id=str(export_id), attempt=attempt.number)
        return True

    async def _release(self, owner_id: UUID, attempt: Attempt) -> None:
        session = Session(self._engine, owner_id, self._options)
        async with session, session.transaction():
            await exports.release(session, attempt)

    async def _write(self, owner_id: UUID, writer: Session, attempt: Attempt) -> None:
        removed = 1
        while removed:
            async with writer.transaction():
                removed = await exports.remove_parts(writer, attempt.export_id)
        file = _File(writer, attempt)
        async with Session(self._engine, owner_id, self._options) as reader:
            (opening,) = await reader.execute(_MOMENT)
            taken_at: datetime = opening.moment
            file.add({"export": _head(owner_id, taken_at, opening.version_num)})
            counts: dict[str, int] = {}
            for table in lines.tables():
                counts[table.name] = 0
                async for page in pages(reader, table):
                    counts[table.name] += len(page)
                    file.add_rows(table.name, page)
                    if file.waiting >= self._part_bytes:
                        await file.flush()
                stored = await reader.scalar(lines.count(table))
                if counts[table.name] != stored:
                    raise RuntimeError(f"{counts[table.name]} of {stored} rows of {table.name}")
        file.add({"end": {"rows": counts}})
        await file.flush()
        async with writer.transaction():
            await exports.complete(writer, attempt, taken_at, self._keep)


async def pages(reader: Session, table: Table) -> AsyncIterator[list[str]]:
    """The lines of an owner's rows in a table, in the snapshot of the session."""
    keys = len(lines.key(table))
    last: tuple[Any, ...] | None = None
    while True:
        statement = lines.page(table, first=last is None)
        rows = await reader.execute(statement, lines.last_parameters(last))
        if not rows:
            return
        yield [row.line for row in rows]
        last = tuple(rows[-1][:keys])


class _File:
    """The file of an attempt: lines are collected, and written as parts."""

    def __init__(self, writer: Session, attempt: Attempt) -> None:
        self._writer = writer
        self._attempt = attempt
        self._lines: list[str] = []
        self._rows = 0
        self._next = Part(0, 0, 0)
        self.waiting = 0
        """About how many bytes are waiting for the next part."""

    def add(self, value: object) -> None:
        """A line that is no row."""
        self._lines.append(json.dumps(value, separators=(",", ":")))

    def add_rows(self, table: str, rows: list[str]) -> None:
        """Lines of rows, each as PostgreSQL wrote it."""
        self._lines += [f'{{"table":"{table}","row":{row}}}' for row in rows]
        self._rows += len(rows)
        self.waiting += sum(map(len, rows))

    async def flush(self) -> None:
        """Write a part. Raises Overtaken."""
        collected, self._lines, self.waiting = self._lines, [], 0
        content = await asyncio.to_thread(_compressed, collected)
        part = Part(self._next.position, self._next.start, len(content))
        async with self._writer.transaction():
            await exports.append(self._writer, self._attempt, part, content, self._rows)
        self._next = Part(part.position + 1, part.start + part.size, 0)


def _compressed(collected: list[str]) -> bytes:
    return gzip.compress("".join(f"{line}\n" for line in collected).encode(), 6, mtime=0)


def _head(owner_id: UUID, taken_at: datetime, revision: str) -> dict[str, object]:
    return {
        "format": lines.FORMAT,
        "owner_id": str(owner_id),
        "taken_at": taken_at.isoformat(),
        "revision": revision,
    }
