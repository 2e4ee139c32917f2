"""Behind PgBouncer in transaction mode, where there is one.

Each transaction may meet another server connection, so nothing may be left on one.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import insert, text
from sqlalchemy.engine import make_url

import db.notifications
from db.embedded import EmbeddedServer
from db.engine import create_engine
from db.models.work import Project
from db.notifications import Listener
from db.scope import OWNER, readable
from db.security import verify_row_security
from db.session import Session
from schema.context import Services
from tests.changes.feed import following, next_change
from tests.conftest import NewOwner, NewPerson
from tests.conversations.talks import start

PROJECTS = Project.__table__
PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed")


@pytest.fixture
def pooled_url(server: EmbeddedServer, database_url: str) -> Iterator[str]:
    """The worker's database through a pooler with 3 server connections."""
    assert PGBOUNCER is not None
    folder = Path(tempfile.mkdtemp(prefix="engram-pooler-"))
    owner = server.socket.parent.stat()
    database = make_url(database_url).database
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n{database} = host={server.socket.parent} user=engram_owner\n"
        "[pgbouncer]\nlisten_addr =\npool_mode = transaction\nauth_type = any\n"
        f"unix_socket_dir = {folder}\ndefault_pool_size = 3\nmax_client_conn = 100\n"
        f"logfile = {folder}/log\n"
    )
    for path in (folder, config):
        os.chown(path, owner.st_uid, owner.st_gid)
    process = subprocess.Popen(
        [PGBOUNCER, "-q", str(config)],
        user=owner.st_uid if os.geteuid() == 0 else None,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (folder / ".s.PGSQL.6432").exists():
        assert process.poll() is None
        time.sleep(0.02)
    yield f"postgresql://engram_owner@/{database}?host={folder}&port=6432"
    process.terminate()
    process.wait()
    shutil.rmtree(folder)


async def test_changes_are_found_through_the_pooler(
    pooled_url: str, services: Services, new_person: NewPerson, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db.notifications, "HEARD_SECONDS", 0.5)
    engine = create_engine(pooled_url, pooler="transaction", pool_size=5)
    misled = create_engine(pooled_url, pooler="transaction", pooled=False)
    person = replace(await new_person(), services=replace(services, engine=engine))
    # One that was told where to listen, and hears nothing there; one that was not told.
    for listener in (
        Listener(misled, reading=engine, poll_seconds=0.05),
        Listener(None, reading=engine, poll_seconds=0.05),
    ):
        await listener.start(seconds=1)
        assert not listener.connected
        async with following(person, listener) as watch:
            for n in range(5):
                conversation = await start(person, title=f"{n}")
                assert (await next_change(watch))["entityId"] == conversation
        await listener.stop()
    await misled.dispose()
    await engine.dispose()


async def test_no_request_fails_and_no_owner_is_mixed_up(
    pooled_url: str, new_owner: NewOwner
) -> None:
    engine = create_engine(pooled_url, pooler="transaction", pool_size=20)
    await verify_row_security(engine)
    owners = [await new_owner() for _ in range(5)]

    async def request(number: int) -> None:
        owner: UUID = owners[number % 5]
        async with Session(engine, owner) as session:
            seen = await session.scalar(text("SELECT current_setting('app.owner_id')"))
            assert seen == str(owner)
            async with session.transaction():
                key = f"K{number}"
                await session.execute(
                    insert(PROJECTS).values(owner_id=OWNER, key=key, name=key, next_number=1)
                )
            rows = await session.execute(readable(PROJECTS, PROJECTS.c.owner_id))
            assert {row.owner_id for row in rows} == {owner}

    for first in range(0, 300, 60):
        await asyncio.gather(*(request(number) for number in range(first, first + 60)))
    async with Session(engine, owners[0]) as session:
        assert len(await session.execute(readable(PROJECTS))) == 60
    await engine.dispose()
