"""An owner's vectors are read by their index, however many there are."""

from alembic import op

revision = "c57e1f0a92d6"
down_revision = "3d90c2a7e514"
branch_labels = None
depends_on = None

SCANS = (
    "engram_vector_chunks(text, halfvec, uuid[], integer, integer, float8)",
    "engram_vector_messages(text, halfvec, uuid[], integer, integer, float8)",
)


def upgrade() -> None:
    """From a twelfth of all vectors on PostgreSQL reads the whole table: 150 ms instead of 40."""
    for scan in SCANS:
        op.execute(f"ALTER FUNCTION public.{scan} SET enable_seqscan = off")


def downgrade() -> None:
    """Let it choose again."""
    for scan in SCANS:
        op.execute(f"ALTER FUNCTION public.{scan} RESET enable_seqscan")
