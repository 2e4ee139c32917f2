"""What happened, as GraphQL shows it."""

import strawberry
from strawberry import auto

from db.models import journal
from schema import ids
from schema.derived import derived
from schema.mirror import mirror
from schema.node import Node
from schema.pages import Connection
from schema.relations import root

_ACTORS = {"user": "user", "key": "api_key", "worker": "worker"}
"""The type of the id of each kind of actor."""


@mirror(
    journal.AuditEvent,
    private={"xid", "actor_id", "entity_id"},
    order_by=("created_at",),
    default_order=("-created_at",),
    access="account",
)
class AuditEvent(Node):
    actor_kind: auto
    action: auto
    entity_type: auto
    before: auto
    after: auto
    request_id: auto
    created_at: auto

    actor_id: strawberry.ID = derived(
        lambda kind, identifier: ids.encode(_ACTORS[kind], identifier),
        "actor_kind",
        "actor_id",
        annotation=strawberry.ID,
        description="The user, API key or worker that made it.",
    )
    entity_id: strawberry.ID = derived(
        ids.encode,
        "entity_type",
        "entity_id",
        annotation=strawberry.ID,
        description="The id of what changed.",
    )


class JournalQuery:
    audit_events: Connection[AuditEvent] = root(
        journal.AuditEvent, description="Every change of the caller's rows, newest first."
    )
