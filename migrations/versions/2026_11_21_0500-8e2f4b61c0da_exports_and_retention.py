"""Exports of accounts, and what sweeping needs."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import UserDefinedType

revision = "8e2f4b61c0da"
down_revision = "e454d019758e"
branch_labels = None
depends_on = None


class Xid8(UserDefinedType[int]):
    """PostgreSQL's 64-bit transaction id."""

    def get_col_spec(self, **_: object) -> str:
        """Its name in DDL."""
        return "XID8"


TABLES = ("account_exports", "account_export_parts", "swept_events")
FUNCTIONS = (
    "engram_due_exports(integer)",
    "engram_owners_to_sweep(uuid, integer, interval, interval)",
    "engram_sweep_events(interval, integer)",
)
CURRENT_OWNER = "(SELECT nullif(current_setting('app.owner_id', true), '')::uuid)"

# Whoever writes exports has no owner yet. Unfinished ones are few, and nothing but whose they are
# is said.
DUE_EXPORTS = """
CREATE FUNCTION public.engram_due_exports(most integer)
RETURNS TABLE (owner_id uuid, id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT account_exports.owner_id, account_exports.id
    FROM public.account_exports
    WHERE status IN ('pending', 'running') AND lease_expires_at <= now()
    ORDER BY lease_expires_at
    LIMIT most
$$
"""
# Looks at the next people one after the other, as each of them, and says who has something to be
# removed. Afterwards the session is its caller's again; a failure ends the transaction anyway.
OWNERS_TO_SWEEP = """
CREATE FUNCTION public.engram_owners_to_sweep(
    after uuid, most integer, logins interval, events interval
)
RETURNS TABLE (last_id uuid, due uuid[])
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    caller text := coalesce(current_setting('app.owner_id', true), '');
    one uuid;
    seen integer := 0;
BEGIN
    due := '{}';
    FOR one IN
        SELECT users.id FROM public.users
        WHERE after IS NULL OR users.id > after ORDER BY users.id LIMIT most
    LOOP
        seen := seen + 1;
        last_id := one;
        PERFORM set_config('app.owner_id', one::text, true);
        IF EXISTS (
            SELECT FROM public.login_sessions
            WHERE owner_id = one AND least(expires_at, revoked_at) < now() - logins
        ) OR EXISTS (
            SELECT FROM public.idempotency_keys WHERE owner_id = one AND expires_at < now()
        ) OR EXISTS (
            SELECT FROM public.account_exports WHERE owner_id = one AND expires_at < now()
        ) OR EXISTS (
            SELECT FROM public.audit_events
            WHERE owner_id = one AND created_at < now() - greatest(events, interval '30 days')
        ) THEN
            due := due || one;
        END IF;
    END LOOP;
    PERFORM set_config('app.owner_id', caller, true);
    IF seen < most THEN
        last_id := NULL;
    END IF;
    RETURN NEXT;
END $$
"""
# The application may not remove events. This removes those of the session's owner, and never young
# ones. An owner without events of their own setting has none to remove.
SWEEP_EVENTS = """
CREATE FUNCTION public.engram_sweep_events(events interval, most integer)
RETURNS integer
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    WITH mine AS MATERIALIZED (
        SELECT nullif(current_setting('app.owner_id', true), '')::uuid AS owner_id
    ), old AS MATERIALIZED (
        SELECT audit_events.id FROM public.audit_events
        WHERE audit_events.owner_id = (SELECT owner_id FROM mine)
            AND created_at < now() - greatest(events, interval '30 days')
        ORDER BY created_at, id
        LIMIT least(most, 10000)
    ), gone AS (
        DELETE FROM public.audit_events
        WHERE audit_events.owner_id = (SELECT owner_id FROM mine)
            AND audit_events.id = ANY (ARRAY(SELECT id FROM old))
        RETURNING audit_events.xid, audit_events.id
    ), noted AS (
        INSERT INTO public.swept_events (owner_id, xid, event_id)
        SELECT (SELECT owner_id FROM mine), gone.xid, gone.id FROM gone
        ORDER BY gone.xid DESC, gone.id DESC LIMIT 1
        ON CONFLICT (owner_id) DO UPDATE SET xid = excluded.xid, event_id = excluded.event_id
        WHERE (excluded.xid, excluded.event_id) > (swept_events.xid, swept_events.event_id)
    )
    SELECT count(*)::integer FROM gone
$$
"""


def upgrade() -> None:
    """Create the tables of exports, the end of what was swept, and the functions that sweep."""
    op.create_table(
        "account_exports",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'pending'"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("rows", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "lease_expires_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint('"attempts" >= 0', name=op.f("ck_account_exports_attempts")),
        sa.CheckConstraint('"bytes" >= 0', name=op.f("ck_account_exports_bytes")),
        sa.CheckConstraint('"rows" >= 0', name=op.f("ck_account_exports_rows")),
        sa.CheckConstraint(
            "\"status\" IN ('pending', 'running', 'complete', 'failed')",
            name=op.f("ck_account_exports_status"),
        ),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["users.id"], name="fk_account_exports_owner_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("owner_id", "id", name=op.f("pk_account_exports")),
    )
    op.create_index(
        "ix_account_exports_by_created_at",
        "account_exports",
        ["owner_id", sa.literal_column("created_at DESC"), sa.literal_column("id DESC")],
    )
    op.create_index(
        "ix_account_exports_due",
        "account_exports",
        ["lease_expires_at"],
        postgresql_where=sa.text("status IN ('pending', 'running')"),
    )
    op.create_index(
        "uq_account_exports_unfinished",
        "account_exports",
        ["owner_id"],
        unique=True,
        postgresql_where=sa.text("status IN ('pending', 'running')"),
    )
    op.create_table(
        "account_export_parts",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("export_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint('"position" >= 0', name=op.f("ck_account_export_parts_position")),
        sa.CheckConstraint('"size" >= 1', name=op.f("ck_account_export_parts_size")),
        sa.CheckConstraint('"start" >= 0', name=op.f("ck_account_export_parts_start")),
        sa.CheckConstraint(
            'octet_length("content") >= 1 AND octet_length("content") <= 64000000',
            name=op.f("ck_account_export_parts_content"),
        ),
        sa.ForeignKeyConstraint(
            ["owner_id", "export_id"],
            ["account_exports.owner_id", "account_exports.id"],
            name="fk_account_export_parts_export_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("owner_id", "id", name=op.f("pk_account_export_parts")),
        sa.UniqueConstraint(
            "owner_id",
            "export_id",
            "position",
            name=op.f("uq_account_export_parts_owner_id_export_id_position"),
        ),
    )
    op.create_index(
        "ix_account_export_parts_export_id",
        "account_export_parts",
        ["owner_id", "export_id", "position", "id"],
    )
    op.create_table(
        "swept_events",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("xid", Xid8(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["users.id"], name="fk_swept_events_owner_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("owner_id", "id", name=op.f("pk_swept_events")),
        sa.UniqueConstraint("owner_id", name=op.f("uq_swept_events_owner_id")),
    )
    for table in TABLES:
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON public.{table} TO engram_app")
        op.execute(f"ALTER TABLE public.{table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE public.{table} FORCE ROW LEVEL SECURITY")
        own = f"owner_id = {CURRENT_OWNER}"
        op.execute(f"CREATE POLICY owner_only ON public.{table} USING ({own}) WITH CHECK ({own})")
    op.execute(
        "CREATE POLICY find_due ON public.account_exports FOR SELECT TO CURRENT_USER USING (true)"
    )
    for create in (DUE_EXPORTS, OWNERS_TO_SWEEP, SWEEP_EVENTS):
        op.execute(create)
    for function in FUNCTIONS:
        op.execute(f"REVOKE ALL ON FUNCTION public.{function} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION public.{function} TO engram_app")


def downgrade() -> None:
    """Undo it."""
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION public.{function}")
    op.drop_table("swept_events")
    op.drop_table("account_export_parts")
    op.drop_table("account_exports")
