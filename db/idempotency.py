"""Done once: the answer to a write is stored with the write, under the key its caller chose.

The key is claimed first, inside the transaction of the write. A second request with the same key
waits for the first one at the unique index: if that commits, its answer is found; if it rolls back,
the second one claims the key and does the work itself.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Column, ColumnElement, Row, bindparam, case, func, null
from sqlalchemy.dialects.postgresql import insert

from db import scope
from db.models.journal import IdempotencyKey
from db.refusals import KeyReused
from db.session import Session

LIFETIME = timedelta(days=1)
"""How long an answer is kept at least, as clients are told."""

_KEYS = IdempotencyKey.__table__
_NAMED = {"owner_id": scope.OWNER, "operation": bindparam("operation"), "key": bindparam("key")}
_UNIQUE = ("owner_id", "operation", "key")
_GIVEN = {
    "request_sha256": bindparam("request_sha256", type_=_KEYS.c.request_sha256.type),
    "expires_at": bindparam("expires_at", type_=_KEYS.c.expires_at.type),
}
_COLUMNS = (_KEYS.c.request_sha256, _KEYS.c.response, _KEYS.c.secrets_hash)


def _unless_expired(column: Column[Any], new: object) -> ColumnElement[Any]:
    return case((_KEYS.c.expires_at < func.now(), new), else_=column)


# What was answered comes with the refusal of the claim. Statements that look for the key are at the
# mercy of statistics: with those of a table that was empty, as it is when all keys were swept,
# PostgreSQL reads all keys of the owner. ON CONFLICT names its index.
_CLAIM = (
    insert(_KEYS)
    .values({**_NAMED, **_GIVEN})
    .on_conflict_do_update(
        index_elements=_UNIQUE,
        set_={
            "request_sha256": _unless_expired(_KEYS.c.request_sha256, _GIVEN["request_sha256"]),
            "response": _unless_expired(_KEYS.c.response, null()),
            "secrets_hash": _unless_expired(_KEYS.c.secrets_hash, null()),
            "expires_at": _unless_expired(_KEYS.c.expires_at, _GIVEN["expires_at"]),
        },
    )
    .returning(*_COLUMNS)
)
_RECALL = scope.readable(_KEYS, *_COLUMNS).where(
    _KEYS.c.operation == _NAMED["operation"],
    _KEYS.c.key == _NAMED["key"],
    _KEYS.c.expires_at >= func.now(),
)
# The claim is there, so this updates it.
_STORING = insert(_KEYS).values(
    {
        **_NAMED,
        "request_sha256": _GIVEN["request_sha256"],
        "expires_at": func.now(),
        "response": bindparam("response", type_=_KEYS.c.response.type),
        "secrets_hash": bindparam("secrets_hash", type_=_KEYS.c.secrets_hash.type),
    }
)
_KEEP = _STORING.on_conflict_do_update(
    index_elements=_UNIQUE,
    set_={name: _STORING.excluded[name] for name in ("response", "secrets_hash")},
)


class Answer(NamedTuple):
    """What was answered, and the hash of the secrets that were asked with."""

    response: Mapping[str, Any]
    secrets_hash: str | None


async def claim(
    session: Session,
    operation: str,
    key: str,
    request_sha256: bytes,
    lifetime: timedelta = LIFETIME,
) -> Mapping[str, Any] | None:
    """Claim a key for the write of this transaction: None, or the answer that it already has.

    The answer is kept for `lifetime`.

    Raises:
        KeyReused: another request has it.
    """
    names = {"operation": operation, "key": key}
    given = {"request_sha256": request_sha256, "expires_at": datetime.now(UTC) + lifetime}
    (found,) = await session.execute(_CLAIM, {**names, **given})
    # A claim has its answer when it is committed, so one without is this transaction's own.
    return None if found.response is None else _answer(found, request_sha256).response


async def recall(
    session: Session, operation: str, key: str, request_sha256: bytes
) -> Answer | None:
    """The answer that a key has already; None while it has none, and nothing is claimed.

    Raises:
        KeyReused: another request has it.
    """
    rows = await session.execute(_RECALL, {"operation": operation, "key": key})
    return _answer(rows[0], request_sha256) if rows else None


def _answer(found: Row[*tuple[Any, ...]], request_sha256: bytes) -> Answer:
    if found.request_sha256 != request_sha256:
        raise KeyReused("This idempotency key was used for another request.")
    return Answer(found.response, found.secrets_hash)


async def keep(
    session: Session,
    operation: str,
    key: str,
    request_sha256: bytes,
    response: Mapping[str, Any],
    *,
    secrets_hash: str | None = None,
) -> None:
    """Store the answer of the write that claimed the key.

    `secrets_hash` tells a later caller's secrets from those that were asked with, which are in no
    fingerprint: as slow to guess from as any password's hash.
    """
    claimed = {"operation": operation, "key": key, "request_sha256": request_sha256}
    kept = {"response": dict(response), "secrets_hash": secrets_hash}
    await session.execute(_KEEP, {**claimed, **kept})
