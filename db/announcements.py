"""What a commit tells those who listen: which rows of which scope have changed.

It travels with the commit itself, so it is told if and when the rows are there to be read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Literal
from uuid import UUID

CHANNEL = "engram_changes"
IDS_PER_PAYLOAD = 200  # 35 bytes each; PostgreSQL refuses payloads of 8,000 bytes
Operation = Literal["insert", "update", "delete", "restore"]


class Announcements:
    """Rows that a transaction changed, to be told of with its commit."""

    def __init__(self) -> None:
        self._changes: dict[tuple[str, UUID, Operation], list[UUID]] = {}
        self.recorded = False
        """Whether the transaction has audit events, of which the change feed's readers are told."""

    def __bool__(self) -> bool:
        """Whether there are changed rows to tell of."""
        return bool(self._changes)

    def add(
        self, entity_type: str, scope_id: UUID, ids: Sequence[UUID], operation: Operation
    ) -> None:
        """Rows of one scope."""
        self._changes.setdefault((entity_type, scope_id, operation), []).extend(ids)

    def script(self, owner_id: UUID | None) -> str:
        """The statements that tell of them, to be run before COMMIT."""
        return "".join(
            f"SELECT pg_notify('{CHANNEL}','{payload}');"
            for payload in _payloads(owner_id, self._changes, self.recorded)
        )


def _payloads(
    owner_id: UUID | None,
    changes: Mapping[tuple[str, UUID, Operation], Sequence[UUID]],
    recorded: bool,
) -> list[str]:
    """NOTIFY payloads below PostgreSQL's limit. They hold ids only: NOTIFY knows no rights."""
    if owner_id and recorded and not changes:
        return [json.dumps({"o": owner_id.hex})]
    payloads = []
    for (entity_type, scope_id, operation), ids in changes.items():
        distinct = list(dict.fromkeys(identifier.hex for identifier in ids))
        for start in range(0, len(distinct), IDS_PER_PAYLOAD):
            some = distinct[start : start + IDS_PER_PAYLOAD]
            payload = notice(owner_id, entity_type, scope_id, some, operation)
            payloads.append(payload.replace("'", "''"))
    return payloads


def notice(
    owner_id: UUID | None,
    entity_type: str,
    scope_id: UUID,
    ids: Sequence[str],
    operation: Operation,
) -> str:
    """What listeners are told of some changed rows, whose ids are 32 hex digits each."""
    payload = {
        "o": owner_id.hex if owner_id else "",
        "t": entity_type,
        "s": scope_id.hex,
        "op": operation,
        "ids": ids,
    }
    return json.dumps(payload, separators=(",", ":"))
