"""Where a change stands in the change feed: after whatever had ended when it was written."""

from alembic import op

revision = "5c1d0a7be9f4"
down_revision = "907a6b9c4872"
branch_labels = None
depends_on = None

# Added to transaction ids, so that positions go on rising when a dump is restored on a server that
# has counted fewer transactions; `python -m server migrate` then makes it larger.
OFFSET = """
CREATE FUNCTION public.engram_feed_offset() RETURNS bigint
LANGUAGE sql IMMUTABLE
RETURN 0
"""
# Not the transaction's own id alone: of two transactions that change one row after another, the
# second may have the lower id, as ids are given at a transaction's first write. The newest
# transaction that has ended is asked for here, after the row's lock was waited for. A statement's
# own snapshot is older than that; in plpgsql each expression of a volatile function has its own.
POSITION = """
CREATE FUNCTION public.engram_feed_position() RETURNS xid8
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog
AS $$
BEGIN
    RETURN (
        greatest(
            pg_current_xact_id()::text::bigint,
            pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1
        ) + public.engram_feed_offset()
    )::text::xid8;
END
$$
"""
# All transactions whose changes stand before this position have ended.
HORIZON = """
CREATE FUNCTION public.engram_feed_horizon() RETURNS xid8
LANGUAGE sql STABLE
RETURN (
    pg_snapshot_xmin(pg_current_snapshot())::text::bigint + public.engram_feed_offset()
)::text::xid8
"""


def upgrade() -> None:
    """Change the schema."""
    for function in (OFFSET, POSITION, HORIZON):
        op.execute(function)
    op.execute(
        "ALTER TABLE audit_events ALTER COLUMN xid SET DEFAULT public.engram_feed_position()"
    )


def downgrade() -> None:
    """Undo it."""
    op.execute("ALTER TABLE audit_events ALTER COLUMN xid SET DEFAULT pg_current_xact_id()")
    for name in ("horizon", "position", "offset"):
        op.execute(f"DROP FUNCTION public.engram_feed_{name}()")
