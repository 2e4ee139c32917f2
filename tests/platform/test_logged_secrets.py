"""The watch over what is logged sees what it is for; its own finds are not the suite's."""

import logging
from uuid import uuid4

import pytest
import structlog

from db.tokens import mint
from tests import logged_secrets


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    own: dict[str, str] = {}
    monkeypatch.setattr(logged_secrets, "found", own)
    return own


def test_a_secret_in_an_event_a_record_or_an_error_is_found(found: dict[str, str]) -> None:
    log = structlog.get_logger("test")
    log.warning("harmless", url="postgresql://me:[hidden]@host/base", note="a header: Bearer")
    assert not found
    log.warning("asked", nested={"header": f"Bearer {mint(uuid4()).token}"})
    logging.getLogger("test").warning("connecting to %s", "redis://:hunter2@host")
    try:
        raise ValueError("$argon2id$v=19$m=8192")
    except ValueError as error:
        log.error("unexpected_error", exc_info=error)
    kinds = {name.partition(",")[0] for name in found}
    assert kinds == {"a token", "a header", "a password in a URL", "a hash of a password"}
