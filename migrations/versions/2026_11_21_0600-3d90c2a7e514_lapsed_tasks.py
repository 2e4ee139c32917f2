"""Whose tasks were given up without a word."""

from alembic import op

revision = "3d90c2a7e514"
down_revision = "4f0c9d2a7b31"
branch_labels = None
depends_on = None

# Whoever puts such tasks away has no owner yet. Tasks that are being done are few, and nothing but
# whose they are is said.
LAPSED = """
CREATE FUNCTION public.engram_lapsed_tasks(most integer)
RETURNS TABLE (owner_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT DISTINCT tasks.owner_id
    FROM public.tasks
    WHERE tasks.deleted_at IS NULL AND tasks.status = 'in_progress'
        AND tasks.lease_expires_at < now() AND tasks.attempts >= tasks.max_attempts
    LIMIT most
$$
"""


def upgrade() -> None:
    """Let the application find them."""
    op.execute(
        "CREATE POLICY find_lapsed ON public.tasks FOR SELECT TO CURRENT_USER"
        " USING (status = 'in_progress')"
    )
    op.execute(LAPSED)
    op.execute("REVOKE ALL ON FUNCTION public.engram_lapsed_tasks(integer) FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION public.engram_lapsed_tasks(integer) TO engram_app")


def downgrade() -> None:
    """Undo it."""
    op.execute("DROP FUNCTION public.engram_lapsed_tasks(integer)")
    op.execute("DROP POLICY find_lapsed ON public.tasks")
