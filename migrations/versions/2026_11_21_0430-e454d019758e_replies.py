"""Replies: generations, their deltas, citations."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "e454d019758e"
down_revision = "fbf81722fb08"
branch_labels = None
depends_on = None

# For all owners at once, hence as the owner of the table: it tells keys and nothing else.
ABANDONED = """
CREATE FUNCTION public.engram_abandoned_generations(most integer)
RETURNS TABLE (owner_id uuid, id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT generations.owner_id, generations.id
    FROM public.generations
    WHERE generations.status IN ('pending', 'streaming')
        AND generations.lease_expires_at < now() AND generations.deleted_at IS NULL
    ORDER BY generations.lease_expires_at
    LIMIT most
$$
"""


def upgrade() -> None:
    """Create the tables of generations, their deltas, and citations."""
    op.create_table(
        "citations",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("document_id", sa.Uuid(), nullable=True),
        sa.Column("chunk_id", sa.Uuid(), nullable=True),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("quote", sa.String(length=100000), nullable=False),
        sa.Column("start", sa.Integer(), nullable=False),
        sa.Column("end", sa.Integer(), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deletion_id", sa.Uuid(), nullable=True),
        sa.CheckConstraint('"end" >= 0', name=op.f("ck_citations_end")),
        sa.CheckConstraint('"end" >= start', name=op.f("ck_citations_span")),
        sa.CheckConstraint('"position" >= 0', name=op.f("ck_citations_position")),
        sa.CheckConstraint('"start" >= 0', name=op.f("ck_citations_start")),
        sa.CheckConstraint('char_length("quote") >= 1', name=op.f("ck_citations_quote")),
        sa.ForeignKeyConstraint(
            ["owner_id", "chunk_id"],
            ["chunks.owner_id", "chunks.id"],
            name="fk_citations_chunk_id",
            deferrable=True,
        ),
        sa.ForeignKeyConstraint(
            ["owner_id", "document_id"],
            ["documents.owner_id", "documents.id"],
            name="fk_citations_document_id",
            deferrable=True,
        ),
        sa.ForeignKeyConstraint(
            ["owner_id", "message_id"],
            ["messages.owner_id", "messages.id"],
            name="fk_citations_message_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("owner_id", "id", name=op.f("pk_citations")),
        sa.UniqueConstraint(
            "owner_id",
            "message_id",
            "position",
            name=op.f("uq_citations_owner_id_message_id_position"),
        ),
    )
    op.create_index(
        "ix_citations_chunk_id",
        "citations",
        [
            "owner_id",
            "chunk_id",
            sa.literal_column("created_at DESC"),
            sa.literal_column("id DESC"),
        ],
        unique=False,
    )
    op.create_index(
        "ix_citations_deletion",
        "citations",
        ["owner_id", "deletion_id"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.create_index(
        "ix_citations_document_id",
        "citations",
        [
            "owner_id",
            "document_id",
            sa.literal_column("created_at DESC"),
            sa.literal_column("id DESC"),
        ],
        unique=False,
    )
    op.create_index(
        "ix_citations_message_id",
        "citations",
        ["owner_id", "message_id", "position", "id"],
        unique=False,
    )
    op.create_table(
        "generations",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("instructions", sa.String(length=100000), nullable=True),
        sa.Column("temperature", sa.Double(), nullable=True),
        sa.Column("max_output_tokens", sa.Integer(), nullable=True),
        sa.Column(
            "tools",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("user_message_id", sa.Uuid(), nullable=False),
        sa.Column("assistant_message_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'pending'"), nullable=False),
        sa.Column("finish_reason", sa.String(length=64), nullable=True),
        sa.Column("input_tokens", sa.Integer(), nullable=True),
        sa.Column("output_tokens", sa.Integer(), nullable=True),
        sa.Column("last_seq", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "context", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True
        ),
        sa.Column(
            "error", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True
        ),
        sa.Column("first_delta_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stop_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("runner_id", sa.Uuid(), nullable=True),
        sa.Column("epoch", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deletion_id", sa.Uuid(), nullable=True),
        sa.CheckConstraint('"epoch" >= 1', name=op.f("ck_generations_epoch")),
        sa.CheckConstraint('"input_tokens" >= 0', name=op.f("ck_generations_input_tokens")),
        sa.CheckConstraint('"last_seq" >= 0', name=op.f("ck_generations_last_seq")),
        sa.CheckConstraint(
            '"max_output_tokens" >= 1 AND "max_output_tokens" <= 1000000',
            name=op.f("ck_generations_max_output_tokens"),
        ),
        sa.CheckConstraint('"output_tokens" >= 0', name=op.f("ck_generations_output_tokens")),
        sa.CheckConstraint(
            "\"status\" IN ('pending', 'streaming', 'complete', 'stopped', 'failed', 'interrupted')",
            name=op.f("ck_generations_status"),
        ),
        sa.CheckConstraint(
            '"temperature" >= 0.0 AND "temperature" <= 2.0', name=op.f("ck_generations_temperature")
        ),
        sa.CheckConstraint(
            'char_length("finish_reason") >= 1', name=op.f("ck_generations_finish_reason")
        ),
        sa.CheckConstraint(
            'char_length("instructions") >= 1', name=op.f("ck_generations_instructions")
        ),
        sa.CheckConstraint('char_length("model") >= 1', name=op.f("ck_generations_model")),
        sa.CheckConstraint(
            'jsonb_typeof("context") = \'object\' AND octet_length("context"::text) <= 262144 AND NOT jsonb_path_exists("context", \'$.**{33}\')',
            name=op.f("ck_generations_context"),
        ),
        sa.CheckConstraint(
            'jsonb_typeof("error") = \'object\' AND octet_length("error"::text) <= 8192 AND NOT jsonb_path_exists("error", \'$.**{33}\')',
            name=op.f("ck_generations_error"),
        ),
        sa.CheckConstraint(
            'jsonb_typeof("tools") = \'object\' AND octet_length("tools"::text) <= 131072 AND NOT jsonb_path_exists("tools", \'$.**{33}\')',
            name=op.f("ck_generations_tools"),
        ),
        sa.ForeignKeyConstraint(
            ["owner_id", "conversation_id", "assistant_message_id"],
            ["messages.owner_id", "messages.conversation_id", "messages.id"],
            name="fk_generations_assistant_message_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["owner_id", "conversation_id", "user_message_id"],
            ["messages.owner_id", "messages.conversation_id", "messages.id"],
            name="fk_generations_user_message_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["owner_id", "conversation_id"],
            ["conversations.owner_id", "conversations.id"],
            name="fk_generations_conversation_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("owner_id", "id", name=op.f("pk_generations")),
        sa.UniqueConstraint(
            "owner_id",
            "assistant_message_id",
            name=op.f("uq_generations_owner_id_assistant_message_id"),
        ),
    )
    op.create_index(
        "ix_generations_assistant_message_id",
        "generations",
        ["owner_id", "assistant_message_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_generations_conversation_id",
        "generations",
        [
            "owner_id",
            "conversation_id",
            sa.literal_column("created_at DESC"),
            sa.literal_column("id DESC"),
        ],
        unique=False,
    )
    op.create_index(
        "ix_generations_deletion",
        "generations",
        ["owner_id", "deletion_id"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.create_index(
        "ix_generations_running",
        "generations",
        ["owner_id", "id"],
        unique=False,
        postgresql_where=sa.text("status IN ('pending', 'streaming')"),
    )
    op.create_index(
        "ix_generations_user_message_id",
        "generations",
        ["owner_id", "user_message_id", "created_at", "id"],
        unique=False,
    )
    op.create_table(
        "generation_deltas",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("generation_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), server_default=sa.text("'text'"), nullable=False),
        sa.Column("text", sa.String(length=1000000), nullable=False),
        sa.CheckConstraint(
            "\"kind\" IN ('text', 'reasoning')", name=op.f("ck_generation_deltas_kind")
        ),
        sa.CheckConstraint('"seq" >= 1', name=op.f("ck_generation_deltas_seq")),
        sa.CheckConstraint('char_length("text") >= 1', name=op.f("ck_generation_deltas_text")),
        sa.ForeignKeyConstraint(
            ["owner_id", "generation_id"],
            ["generations.owner_id", "generations.id"],
            name="fk_generation_deltas_generation_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(
            "owner_id", "generation_id", "seq", name=op.f("pk_generation_deltas")
        ),
    )
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON public.citations TO engram_app")
    op.execute("ALTER TABLE public.citations ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE public.citations FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY owner_only ON public.citations USING (owner_id = (SELECT nullif(current_setting('app.owner_id', true), '')::uuid)) WITH CHECK (owner_id = (SELECT nullif(current_setting('app.owner_id', true), '')::uuid))"
    )
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON public.generations TO engram_app")
    op.execute("ALTER TABLE public.generations ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE public.generations FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY owner_only ON public.generations USING (owner_id = (SELECT nullif(current_setting('app.owner_id', true), '')::uuid)) WITH CHECK (owner_id = (SELECT nullif(current_setting('app.owner_id', true), '')::uuid))"
    )
    op.execute(
        "CREATE POLICY find_abandoned ON public.generations FOR SELECT TO CURRENT_USER USING (status IN ('pending', 'streaming'))"
    )
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON public.generation_deltas TO engram_app")
    op.execute("ALTER TABLE public.generation_deltas ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE public.generation_deltas FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY owner_only ON public.generation_deltas USING (owner_id = (SELECT nullif(current_setting('app.owner_id', true), '')::uuid)) WITH CHECK (owner_id = (SELECT nullif(current_setting('app.owner_id', true), '')::uuid))"
    )
    op.execute(ABANDONED)
    op.execute("REVOKE ALL ON FUNCTION public.engram_abandoned_generations(integer) FROM PUBLIC")
    op.execute(
        "GRANT EXECUTE ON FUNCTION public.engram_abandoned_generations(integer) TO engram_app"
    )


def downgrade() -> None:
    """Drop them."""
    op.execute("DROP FUNCTION public.engram_abandoned_generations(integer)")
    op.drop_table("generation_deltas")
    op.drop_table("generations")
    op.drop_table("citations")
