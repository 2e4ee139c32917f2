"""Logs are one line per event and never hold a secret."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from uuid import uuid4

import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from db.tokens import mint
from server import logs


@pytest.fixture
def restored() -> Iterator[None]:
    root = logging.getLogger()
    before, level, configured = root.handlers, root.level, structlog.get_config()
    yield
    root.handlers = before
    root.setLevel(level)
    structlog.configure(**configured)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("as_json", [True, False])
def test_secrets_are_hidden_wherever_they_come_from(
    capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    logs.configure(json=as_json)
    token = mint(uuid4()).token
    url = "postgresql://me:hunter2@host/base"
    structlog.get_logger("a").info("asked", header=f"Bearer {token}", nested={"url": url})
    logging.getLogger("uvicorn.error").warning("failed for %s at %s", token, url)
    try:
        raise ValueError(f"bad {token} {url}")
    except ValueError:
        logging.getLogger("b").exception("oops")
    written = capsys.readouterr().err
    assert "hunter2" not in written
    assert token not in written
    assert written.count("eg_[hidden]") >= 3
    if as_json:
        lines = [json.loads(line) for line in written.splitlines()]
        assert [line["event"].split()[0] for line in lines] == ["asked", "failed", "oops"]
        assert {line["level"] for line in lines} == {"info", "warning", "error"}


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("as_json", [True, False])
async def test_values_that_the_database_refuses_are_not_written(
    capsys: pytest.CaptureFixture[str], as_json: bool, owner_engine: AsyncEngine
) -> None:
    logs.configure(json=as_json)
    wrong: tuple[tuple[str, object], ...] = (
        ("SELECT CAST(:value AS int)", "confidential\nprivate"),
        ("SELECT CAST(CAST(:value AS text) AS uuid)", "confidential private"),
    )
    for statement, value in wrong:
        try:
            async with owner_engine.connect() as connection:
                await connection.execute(text(statement), {"value": value})
        except DBAPIError as error:
            structlog.get_logger("a").error("unexpected_error", exc_info=error)
            logging.getLogger("b").exception("oops")
    written = capsys.readouterr().err
    assert written.count("[hidden]") >= 4
    assert "confidential" not in written
    assert "private" not in written
