"""Which server's transactions the change feed's positions are made of; `db.feed_origin` says it."""

from alembic import op

revision = "b83f6e1d2c07"
down_revision = "8e2f4b61c0da"
branch_labels = None
depends_on = None

ORIGIN = """
CREATE FUNCTION public.engram_feed_origin() RETURNS text
LANGUAGE sql IMMUTABLE
RETURN ''
"""


def upgrade() -> None:
    """Change the schema."""
    op.execute(ORIGIN)


def downgrade() -> None:
    """Undo it."""
    op.execute("DROP FUNCTION public.engram_feed_origin()")
