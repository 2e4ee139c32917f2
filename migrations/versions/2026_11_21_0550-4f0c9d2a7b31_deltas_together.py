"""Deltas of many replies are appended in one transaction."""

from alembic import op

revision = "4f0c9d2a7b31"
down_revision = "b83f6e1d2c07"
branch_labels = None
depends_on = None

# As whoever calls it: row-level security binds each reply's rows to its owner, who is set in turn.
# One whose row is locked by somebody else must not keep the others waiting.
APPEND = """
CREATE FUNCTION public.engram_append_deltas(
    owners uuid[], generations uuid[], epochs integer[], seqs integer[], kinds text[],
    texts text[], notices text[]
)
RETURNS TABLE (place integer, outcome text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog
AS $$
DECLARE
    mine public.generations;
    before text := coalesce(current_setting('app.owner_id', true), '');
BEGIN
    FOR i IN 1 .. cardinality(owners) LOOP
        PERFORM set_config('app.owner_id', owners[i]::text, true);
        place := i;
        SELECT * INTO mine FROM public.generations AS g
        WHERE g.owner_id = owners[i] AND g.id = generations[i] AND g.epoch = epochs[i]
            AND g.status IN ('pending', 'streaming') AND g.deleted_at IS NULL
        FOR SHARE SKIP LOCKED;
        IF FOUND THEN
            INSERT INTO public.generation_deltas (owner_id, generation_id, seq, kind, text)
            SELECT owners[i], generations[i], seqs[i], kinds[i], texts[i]
            WHERE NOT EXISTS (
                SELECT FROM public.generation_deltas AS d
                WHERE d.owner_id = owners[i] AND d.generation_id = generations[i]
                    AND d.seq = seqs[i]
            );
            IF notices[i] <> '' THEN
                PERFORM pg_notify('engram_changes', notices[i]);
            END IF;
            outcome := 'stored';
        ELSE
            PERFORM FROM public.generations AS g
            WHERE g.owner_id = owners[i] AND g.id = generations[i] AND g.epoch = epochs[i]
                AND g.status IN ('pending', 'streaming') AND g.deleted_at IS NULL;
            outcome := CASE WHEN FOUND THEN 'busy' ELSE 'fenced' END;
        END IF;
        RETURN NEXT;
    END LOOP;
    PERFORM set_config('app.owner_id', before, true);
END $$
"""
NAME = "public.engram_append_deltas(uuid[], uuid[], integer[], integer[], text[], text[], text[])"


def upgrade() -> None:
    """Create the function that appends deltas of many owners."""
    op.execute(APPEND)
    op.execute(f"REVOKE ALL ON FUNCTION {NAME} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {NAME} TO engram_app")


def downgrade() -> None:
    """Drop it."""
    op.execute(f"DROP FUNCTION {NAME}")
