"""What happened, as GraphQL shows it."""

from strawberry import auto

from db.models import journal
from schema.mirror import mirror
from schema.node import Node
from schema.pages import Connection
from schema.relations import root


@mirror(
    journal.AuditEvent, private={"xid"}, order_by=("created_at",), default_order=("-created_at",)
)
class AuditEvent(Node):
    actor_kind: auto
    actor_id: auto
    action: auto
    entity_type: auto
    entity_id: auto
    before: auto
    after: auto
    request_id: auto
    created_at: auto


class JournalQuery:
    audit_events: Connection[AuditEvent] = root(
        journal.AuditEvent, description="Every change of the caller's rows, newest first."
    )
