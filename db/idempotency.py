"""Done once: the answer to a write is stored with the write, under the key its caller chose.

The key is claimed first, inside the transaction of the write. A second request with the same key
waits for the first one at the unique index: if that commits, its answer is found; if it rolls back,
the second one claims the key and does the work itself.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Row, and_, bindparam, delete, func, update
from sqlalchemy.dialects.postgresql import insert

from db import scope
from db.models.journal import IdempotencyKey
from db.refusals import KeyReused
from db.session import Session

LIFETIME = timedelta(days=1)
"""How long an answer is kept at least, as clients are told."""

_KEYS = IdempotencyKey.__table__


_NAMED = and_(
    _KEYS.c.owner_id == scope.OWNER,
    _KEYS.c.operation == bindparam("operation"),
    _KEYS.c.key == bindparam("key"),
)
_GIVEN = {
    "request_sha256": bindparam("request_sha256", type_=_KEYS.c.request_sha256.type),
    "expires_at": bindparam("expires_at", type_=_KEYS.c.expires_at.type),
}
_EXPIRED = delete(_KEYS).where(
    _KEYS.c.owner_id == scope.OWNER,
    _KEYS.c.expires_at < func.now(),
    ~and_(_KEYS.c.operation == bindparam("operation"), _KEYS.c.key == bindparam("key")),
)
_CLAIM = (
    insert(_KEYS)
    .values(owner_id=scope.OWNER, operation=bindparam("operation"), key=bindparam("key"), **_GIVEN)
    .on_conflict_do_update(
        index_elements=["owner_id", "operation", "key"],
        set_={**_GIVEN, "response": None, "secrets_hash": None},
        where=_KEYS.c.expires_at < func.now(),
    )
    .returning(_KEYS.c.id)
    .add_cte(_EXPIRED.cte("expired"))
)
_KEPT = scope.readable(_KEYS, _KEYS.c.request_sha256, _KEYS.c.response, _KEYS.c.secrets_hash).where(
    _KEYS.c.operation == bindparam("operation"), _KEYS.c.key == bindparam("key")
)
_RECALL = _KEPT.where(_KEYS.c.expires_at >= func.now())
_KEEP = (
    update(_KEYS)
    .where(_NAMED)
    .values(
        response=bindparam("response", type_=_KEYS.c.response.type),
        secrets_hash=bindparam("kept_secrets_hash", type_=_KEYS.c.secrets_hash.type),
    )
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
    claimed = await session.execute(_CLAIM, {**names, **given})
    if claimed:
        return None
    found = (await session.execute(_KEPT, names))[0]
    return _answer(found, request_sha256).response


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
    response: Mapping[str, Any],
    *,
    secrets_hash: str | None = None,
) -> None:
    """Store the answer of the write that claimed the key.

    `secrets_hash` tells a later caller's secrets from those that were asked with, which are in no
    fingerprint: as slow to guess from as any password's hash.
    """
    names = {"operation": operation, "key": key}
    kept = {"response": dict(response), "kept_secrets_hash": secrets_hash}
    await session.execute(_KEEP, {**names, **kept})
