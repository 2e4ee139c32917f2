"""What happened, as GraphQL shows it."""

import strawberry
from strawberry import auto

from db.models import journal
from schema import ids
from schema.mirror import mirror
from schema.node import Node
from schema.pages import Connection
from schema.relations import root
from schema.rows import Row

_ACTORS = {"user": "user", "key": "api_key", "worker": "worker"}
"""The type of the id of each kind of actor."""


@mirror(
    journal.AuditEvent,
    private={"xid", "actor_id", "entity_id"},
    always={"actor_kind", "entity_type"},
    order_by=("created_at",),
    default_order=("-created_at",),
)
class AuditEvent(Node):
    actor_kind: auto
    action: auto
    entity_type: auto
    before: auto
    after: auto
    request_id: auto
    created_at: auto

    @strawberry.field(name="actorId", description="The user, API key or worker that made it.")
    def actor(self) -> strawberry.ID:
        row: Row = self  # type: ignore[assignment]  # a mirrored type's values are rows
        return strawberry.ID(ids.encode(_ACTORS[row.actor_kind], row.actor_id))

    @strawberry.field(name="entityId", description="The id of what changed.")
    def entity(self) -> strawberry.ID:
        row: Row = self  # type: ignore[assignment]  # a mirrored type's values are rows
        return strawberry.ID(ids.encode(row.entity_type, row.entity_id))


class JournalQuery:
    audit_events: Connection[AuditEvent] = root(
        journal.AuditEvent, description="Every change of the caller's rows, newest first."
    )
