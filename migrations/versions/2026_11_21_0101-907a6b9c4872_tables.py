"""The tables of accounts, conversations, knowledge, work and the journal."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import UserDefinedType

revision = "907a6b9c4872"
down_revision = None
branch_labels = None
depends_on = None


class Xid8(UserDefinedType[int]):
    """PostgreSQL's 64-bit transaction id."""

    def get_col_spec(self, **_: object) -> str:
        """Its name in DDL."""
        return "XID8"


# The application works as this role, whichever role logs in: it owns nothing, and row-level
# security binds it. One cluster may hold several databases that share the role.
ROLE = """
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'engram_app') THEN
        CREATE ROLE engram_app NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL; -- another database was quicker
END $$
"""
# A login role that is not a superuser may become the application role only when it is told so.
MEMBER = """
DO $$
BEGIN
    IF NOT pg_has_role(current_user, 'engram_app', 'SET') THEN
        GRANT engram_app TO CURRENT_USER WITH SET TRUE, INHERIT FALSE;
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'role % cannot become engram_app: serve as a role that can', current_user;
END $$
"""
OWNED = (
    "api_keys",
    "audit_events",
    "chunks",
    "conversations",
    "documents",
    "idempotency_keys",
    "login_sessions",
    "message_parts",
    "messages",
    "projects",
    "task_dependencies",
    "tasks",
    "workers",
)
# The setting is '' after the transaction that set it, and '' is no uuid.
CURRENT_OWNER = "(SELECT nullif(current_setting('app.owner_id', true), '')::uuid)"
# Whoever logs in has no owner yet. The function runs as the owner of the tables, whom FORCE binds
# too unless it is a superuser: hence its own policy.
FIND_LOGIN = """
CREATE FUNCTION public.engram_find_login(identifier text)
RETURNS TABLE (id uuid, password_hash text, is_active boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT users.id, users.password_hash::text, users.is_active
    FROM public.users
    WHERE lower(users.email) = lower(identifier) OR lower(users.username) = lower(identifier)
$$
"""


def upgrade() -> None:
    """Create the tables of accounts, conversations, knowledge, work and the journal."""
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("username", sa.String(length=64), nullable=False),
        sa.Column("email", sa.String(length=254), nullable=False),
        sa.Column("display_name", sa.String(length=200), nullable=True),
        sa.Column(
            "settings",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("password_hash", sa.String(length=255), nullable=False),
        sa.Column("is_active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
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
        sa.CheckConstraint('char_length("display_name") >= 1', name=op.f("ck_users_display_name")),
        sa.CheckConstraint(
            'char_length("email") >= 3 AND "email" ~ \'^[^@\\s]+@[^@\\s]+$\'',
            name=op.f("ck_users_email"),
        ),
        sa.CheckConstraint(
            'char_length("username") >= 3 AND "username" ~ \'^[A-Za-z0-9][A-Za-z0-9._-]*$\'',
            name=op.f("ck_users_username"),
        ),
        sa.CheckConstraint(
            'jsonb_typeof("settings") = \'object\' AND octet_length("settings"::text) <= 65536 AND NOT jsonb_path_exists("settings", \'$.**{33}\')',
            name=op.f("ck_users_settings"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
    )
    op.create_index("uq_users_email", "users", [sa.literal_column("lower(email)")], unique=True)
    op.create_index(
        "uq_users_username", "users", [sa.literal_column("lower(username)")], unique=True
    )
    op.create_table(
        "api_keys",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("scopes", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("prefix", sa.String(length=64), nullable=False),
        sa.Column("key_hash", sa.LargeBinary(), nullable=False),
        sa.Column("key_salt", sa.LargeBinary(), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            'CASE WHEN jsonb_typeof("scopes") = \'array\' THEN jsonb_array_length("scopes") BETWEEN 1 AND 3 AND "scopes" <@ \'["read", "write", "account"]\'::jsonb ELSE false END',
            name=op.f("ck_api_keys_scopes"),
        ),
        sa.CheckConstraint('char_length("name") >= 1', name=op.f("ck_api_keys_name")),
        sa.CheckConstraint('char_length("prefix") >= 1', name=op.f("ck_api_keys_prefix")),
        sa.CheckConstraint(
            'octet_length("key_hash") >= 32 AND octet_length("key_hash") <= 32',
            name=op.f("ck_api_keys_key_hash"),
        ),
        sa.CheckConstraint(
            'octet_length("key_salt") >= 32 AND octet_length("key_salt") <= 32',
            name=op.f("ck_api_keys_key_salt"),
        ),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["users.id"], name="fk_api_keys_owner_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("owner_id", "id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("owner_id", "key_hash", name=op.f("uq_api_keys_owner_id_key_hash")),
    )
    op.create_index(
        "ix_api_keys_by_created_at",
        "api_keys",
        ["owner_id", sa.literal_column("created_at DESC"), sa.literal_column("id DESC")],
    )
    op.create_table(
        "audit_events",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("xid", Xid8(), server_default=sa.text("pg_current_xact_id()"), nullable=False),
        sa.Column("actor_kind", sa.Text(), nullable=False),
        sa.Column("actor_id", sa.Uuid(), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("entity_type", sa.String(length=64), nullable=False),
        sa.Column("entity_id", sa.Uuid(), nullable=False),
        sa.Column("before", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("after", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("request_id", sa.String(length=200), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "\"actor_kind\" IN ('user', 'key', 'worker')", name=op.f("ck_audit_events_actor_kind")
        ),
        sa.CheckConstraint('char_length("action") >= 1', name=op.f("ck_audit_events_action")),
        sa.CheckConstraint(
            'char_length("entity_type") >= 1', name=op.f("ck_audit_events_entity_type")
        ),
        sa.CheckConstraint(
            'char_length("request_id") >= 1', name=op.f("ck_audit_events_request_id")
        ),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["users.id"], name="fk_audit_events_owner_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("owner_id", "id", name=op.f("pk_audit_events")),
    )
    op.create_index(
        "ix_audit_events_by_created_at",
        "audit_events",
        ["owner_id", sa.literal_column("created_at DESC"), sa.literal_column("id DESC")],
    )
    op.create_index(
        "ix_audit_events_entity",
        "audit_events",
        [
            "owner_id",
            "entity_type",
            "entity_id",
            sa.literal_column("created_at DESC"),
            sa.literal_column("id DESC"),
        ],
    )
    op.create_index("ix_audit_events_feed", "audit_events", ["owner_id", "xid", "id"])
    op.create_table(
        "conversations",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("title", sa.String(length=255), nullable=True),
        sa.Column(
            "metadata",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "tags",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column("pinned_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("archived_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "last_message_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("active_leaf_id", sa.Uuid(), nullable=True),
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
        sa.CheckConstraint(
            'CASE WHEN jsonb_typeof("tags") = \'array\' THEN jsonb_array_length("tags") BETWEEN 0 AND 50 AND NOT jsonb_path_exists("tags", \'$[*] ? (@.type() != "string" || !(@ like_regex "^.{1,100}$" flag "s"))\') ELSE false END',
            name=op.f("ck_conversations_tags"),
        ),
        sa.CheckConstraint('char_length("title") >= 1', name=op.f("ck_conversations_title")),
        sa.CheckConstraint(
            'jsonb_typeof("metadata") = \'object\' AND octet_length("metadata"::text) <= 65536 AND NOT jsonb_path_exists("metadata", \'$.**{33}\')',
            name=op.f("ck_conversations_metadata"),
        ),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["users.id"], name="fk_conversations_owner_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("owner_id", "id", name=op.f("pk_conversations")),
    )
    op.create_index(
        "ix_conversations_active_leaf_id", "conversations", ["owner_id", "active_leaf_id", "id"]
    )
    op.create_index(
        "ix_conversations_by_last_message_at",
        "conversations",
        ["owner_id", sa.literal_column("last_message_at DESC"), sa.literal_column("id DESC")],
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        "ix_conversations_deletion",
        "conversations",
        ["owner_id", "deletion_id"],
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.create_index(
        "ix_conversations_tags",
        "conversations",
        ["tags"],
        postgresql_using="gin",
        postgresql_ops={"tags": "jsonb_path_ops"},
    )
    op.create_table(
        "documents",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("title", sa.String(length=500), nullable=False),
        sa.Column("kind", sa.Text(), server_default=sa.text("'note'"), nullable=False),
        sa.Column(
            "content", sa.String(length=5000000), server_default=sa.text("''"), nullable=False
        ),
        sa.Column("source_uri", sa.String(length=2048), nullable=True),
        sa.Column("mime_type", sa.String(length=255), nullable=True),
        sa.Column("author", sa.String(length=200), nullable=True),
        sa.Column(
            "metadata",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("content_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'pending'"), nullable=False),
        sa.Column("revision", sa.Integer(), server_default=sa.text("1"), nullable=False),
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
        sa.CheckConstraint(
            "\"kind\" IN ('file', 'note', 'post', 'web')", name=op.f("ck_documents_kind")
        ),
        sa.CheckConstraint('"revision" >= 1', name=op.f("ck_documents_revision")),
        sa.CheckConstraint(
            "\"status\" IN ('pending', 'ready', 'failed')", name=op.f("ck_documents_status")
        ),
        sa.CheckConstraint('char_length("author") >= 1', name=op.f("ck_documents_author")),
        sa.CheckConstraint('char_length("mime_type") >= 1', name=op.f("ck_documents_mime_type")),
        sa.CheckConstraint('char_length("source_uri") >= 1', name=op.f("ck_documents_source_uri")),
        sa.CheckConstraint('char_length("title") >= 1', name=op.f("ck_documents_title")),
        sa.CheckConstraint(
            'jsonb_typeof("metadata") = \'object\' AND octet_length("metadata"::text) <= 65536 AND NOT jsonb_path_exists("metadata", \'$.**{33}\')',
            name=op.f("ck_documents_metadata"),
        ),
        sa.CheckConstraint(
            'octet_length("content_sha256") >= 32 AND octet_length("content_sha256") <= 32',
            name=op.f("ck_documents_content_sha256"),
        ),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["users.id"], name="fk_documents_owner_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("owner_id", "id", name=op.f("pk_documents")),
    )
    op.create_index(
        "ix_documents_by_updated_at",
        "documents",
        ["owner_id", sa.literal_column("updated_at DESC"), sa.literal_column("id DESC")],
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        "ix_documents_deletion",
        "documents",
        ["owner_id", "deletion_id"],
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("operation", sa.String(length=200), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("request_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("response", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("secrets_hash", sa.String(length=255), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint('char_length("key") >= 1', name=op.f("ck_idempotency_keys_key")),
        sa.CheckConstraint(
            'char_length("operation") >= 1', name=op.f("ck_idempotency_keys_operation")
        ),
        sa.CheckConstraint(
            'octet_length("request_sha256") >= 32 AND octet_length("request_sha256") <= 32',
            name=op.f("ck_idempotency_keys_request_sha256"),
        ),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["users.id"], name="fk_idempotency_keys_owner_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("owner_id", "id", name=op.f("pk_idempotency_keys")),
        sa.UniqueConstraint(
            "owner_id", "operation", "key", name=op.f("uq_idempotency_keys_owner_id_operation_key")
        ),
    )
    op.create_index(
        "ix_idempotency_keys_by_expires_at", "idempotency_keys", ["owner_id", "expires_at"]
    )
    op.create_table(
        "login_sessions",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("device_name", sa.String(length=200), nullable=True),
        sa.Column("user_agent", sa.String(length=500), nullable=True),
        sa.Column("ip", postgresql.INET(), nullable=True),
        sa.Column(
            "last_seen_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            'char_length("device_name") >= 1', name=op.f("ck_login_sessions_device_name")
        ),
        sa.CheckConstraint(
            'octet_length("token_hash") >= 32 AND octet_length("token_hash") <= 32',
            name=op.f("ck_login_sessions_token_hash"),
        ),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["users.id"], name="fk_login_sessions_owner_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("owner_id", "id", name=op.f("pk_login_sessions")),
        sa.UniqueConstraint(
            "owner_id", "token_hash", name=op.f("uq_login_sessions_owner_id_token_hash")
        ),
    )
    op.create_index(
        "ix_login_sessions_by_created_at",
        "login_sessions",
        ["owner_id", sa.literal_column("created_at DESC"), sa.literal_column("id DESC")],
    )
    op.create_table(
        "projects",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("key", sa.String(length=10), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column(
            "description", sa.String(length=10000), server_default=sa.text("''"), nullable=False
        ),
        sa.Column("next_number", sa.Integer(), server_default=sa.text("1"), nullable=False),
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
        sa.CheckConstraint("\"key\" ~ '^[A-Z][A-Z0-9]*$'", name=op.f("ck_projects_key")),
        sa.CheckConstraint('"next_number" >= 1', name=op.f("ck_projects_next_number")),
        sa.CheckConstraint('char_length("name") >= 1', name=op.f("ck_projects_name")),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["users.id"], name="fk_projects_owner_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("owner_id", "id", name=op.f("pk_projects")),
        sa.UniqueConstraint("owner_id", "key", name=op.f("uq_projects_owner_id_key")),
    )
    op.create_index(
        "ix_projects_by_created_at",
        "projects",
        ["owner_id", sa.literal_column("created_at DESC"), sa.literal_column("id DESC")],
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        "ix_projects_deletion",
        "projects",
        ["owner_id", "deletion_id"],
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.create_table(
        "workers",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column(
            "capabilities",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column("kind", sa.Text(), server_default=sa.text("'agent'"), nullable=False),
        sa.Column("last_heartbeat_at", sa.DateTime(timezone=True), nullable=True),
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
        sa.CheckConstraint("\"kind\" IN ('human', 'agent')", name=op.f("ck_workers_kind")),
        sa.CheckConstraint(
            'CASE WHEN jsonb_typeof("capabilities") = \'array\' THEN jsonb_array_length("capabilities") BETWEEN 0 AND 50 AND NOT jsonb_path_exists("capabilities", \'$[*] ? (@.type() != "string" || !(@ like_regex "^.{1,100}$" flag "s"))\') ELSE false END',
            name=op.f("ck_workers_capabilities"),
        ),
        sa.CheckConstraint('char_length("name") >= 1', name=op.f("ck_workers_name")),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["users.id"], name="fk_workers_owner_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("owner_id", "id", name=op.f("pk_workers")),
    )
    op.create_index(
        "ix_workers_by_name",
        "workers",
        ["owner_id", "name", "id"],
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        "ix_workers_deletion",
        "workers",
        ["owner_id", "deletion_id"],
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.create_index(
        "uq_workers_human",
        "workers",
        ["owner_id"],
        unique=True,
        postgresql_where=sa.text("kind = 'human'"),
    )
    op.create_table(
        "chunks",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("document_id", sa.Uuid(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("start", sa.Integer(), nullable=False),
        sa.Column("end", sa.Integer(), nullable=False),
        sa.Column("token_count", sa.Integer(), nullable=False),
        sa.Column("content", sa.String(length=100000), nullable=False),
        sa.Column("content_sha256", sa.LargeBinary(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deletion_id", sa.Uuid(), nullable=True),
        sa.Column(
            "search",
            postgresql.TSVECTOR(),
            sa.Computed(
                "to_tsvector('simple'::regconfig, \"left\"((content)::text, 100000))",
                persisted=True,
            ),
            nullable=True,
        ),
        sa.CheckConstraint('"end" >= 0', name=op.f("ck_chunks_end")),
        sa.CheckConstraint('"end" >= start', name=op.f("ck_chunks_span")),
        sa.CheckConstraint('"position" >= 0', name=op.f("ck_chunks_position")),
        sa.CheckConstraint('"revision" >= 1', name=op.f("ck_chunks_revision")),
        sa.CheckConstraint('"start" >= 0', name=op.f("ck_chunks_start")),
        sa.CheckConstraint('"token_count" >= 0', name=op.f("ck_chunks_token_count")),
        sa.CheckConstraint('char_length("content") >= 1', name=op.f("ck_chunks_content")),
        sa.CheckConstraint(
            'octet_length("content_sha256") >= 32 AND octet_length("content_sha256") <= 32',
            name=op.f("ck_chunks_content_sha256"),
        ),
        sa.ForeignKeyConstraint(
            ["owner_id", "document_id"],
            ["documents.owner_id", "documents.id"],
            name="fk_chunks_document_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("owner_id", "id", name=op.f("pk_chunks")),
        sa.UniqueConstraint(
            "owner_id",
            "document_id",
            "revision",
            "position",
            name=op.f("uq_chunks_owner_id_document_id_revision_position"),
        ),
    )
    op.create_index(
        "ix_chunks_deletion",
        "chunks",
        ["owner_id", "deletion_id"],
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.create_index(
        "ix_chunks_document_id", "chunks", ["owner_id", "document_id", "position", "id"]
    )
    op.create_index("ix_chunks_search", "chunks", ["search"], postgresql_using="gin")
    op.create_table(
        "messages",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column(
            "content", sa.String(length=1000000), server_default=sa.text("''"), nullable=False
        ),
        sa.Column(
            "metadata",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("model", sa.String(length=200), nullable=True),
        sa.Column("input_tokens", sa.Integer(), nullable=True),
        sa.Column("output_tokens", sa.Integer(), nullable=True),
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("parent_id", sa.Uuid(), nullable=True),
        sa.Column("depth", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'complete'"), nullable=False),
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
        sa.Column(
            "search",
            postgresql.TSVECTOR(),
            sa.Computed(
                "to_tsvector('simple'::regconfig, \"left\"((content)::text, 100000))",
                persisted=True,
            ),
            nullable=True,
        ),
        sa.CheckConstraint('"depth" >= 0', name=op.f("ck_messages_depth")),
        sa.CheckConstraint('"input_tokens" >= 0', name=op.f("ck_messages_input_tokens")),
        sa.CheckConstraint('"output_tokens" >= 0', name=op.f("ck_messages_output_tokens")),
        sa.CheckConstraint(
            "\"role\" IN ('system', 'user', 'assistant', 'tool')", name=op.f("ck_messages_role")
        ),
        sa.CheckConstraint(
            "\"status\" IN ('pending', 'streaming', 'complete', 'stopped', 'failed', 'interrupted')",
            name=op.f("ck_messages_status"),
        ),
        sa.CheckConstraint("(parent_id IS NULL) = (depth = 0)", name=op.f("ck_messages_root")),
        sa.CheckConstraint('char_length("model") >= 1', name=op.f("ck_messages_model")),
        sa.CheckConstraint(
            'jsonb_typeof("metadata") = \'object\' AND octet_length("metadata"::text) <= 65536 AND NOT jsonb_path_exists("metadata", \'$.**{33}\')',
            name=op.f("ck_messages_metadata"),
        ),
        sa.ForeignKeyConstraint(
            ["owner_id", "conversation_id", "parent_id"],
            ["messages.owner_id", "messages.conversation_id", "messages.id"],
            name="fk_messages_parent_id",
            deferrable=True,
        ),
        sa.ForeignKeyConstraint(
            ["owner_id", "conversation_id"],
            ["conversations.owner_id", "conversations.id"],
            name="fk_messages_conversation_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("owner_id", "id", name=op.f("pk_messages")),
        sa.UniqueConstraint(
            "owner_id",
            "conversation_id",
            "id",
            name=op.f("uq_messages_owner_id_conversation_id_id"),
        ),
    )
    op.create_index(
        "ix_messages_conversation_id", "messages", ["owner_id", "conversation_id", "depth", "id"]
    )
    op.create_index(
        "ix_messages_deletion",
        "messages",
        ["owner_id", "deletion_id"],
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.create_index(
        "ix_messages_parent_id", "messages", ["owner_id", "parent_id", "created_at", "id"]
    )
    op.create_index("ix_messages_search", "messages", ["search"], postgresql_using="gin")
    op.create_table(
        "tasks",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("title", sa.String(length=500), nullable=False),
        sa.Column(
            "description", sa.String(length=10000), server_default=sa.text("''"), nullable=False
        ),
        sa.Column("status", sa.Text(), server_default=sa.text("'pending'"), nullable=False),
        sa.Column("priority", sa.Integer(), server_default=sa.text("2"), nullable=False),
        sa.Column(
            "tags",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("run_after", sa.DateTime(timezone=True), nullable=True),
        sa.Column("max_attempts", sa.Integer(), server_default=sa.text("3"), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("parent_id", sa.Uuid(), nullable=True),
        sa.Column("assignee_id", sa.Uuid(), nullable=True),
        sa.Column("created_by_id", sa.Uuid(), nullable=False),
        sa.Column("claimed_by_id", sa.Uuid(), nullable=True),
        sa.Column("claim_epoch", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
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
        sa.CheckConstraint('"attempts" >= 0', name=op.f("ck_tasks_attempts")),
        sa.CheckConstraint(
            "status <> 'pending' OR attempts < max_attempts", name=op.f("ck_tasks_attempts_left")
        ),
        sa.CheckConstraint('"claim_epoch" >= 0', name=op.f("ck_tasks_claim_epoch")),
        sa.CheckConstraint(
            '"max_attempts" >= 1 AND "max_attempts" <= 100', name=op.f("ck_tasks_max_attempts")
        ),
        sa.CheckConstraint('"number" >= 1', name=op.f("ck_tasks_number")),
        sa.CheckConstraint('"priority" >= 0 AND "priority" <= 4', name=op.f("ck_tasks_priority")),
        sa.CheckConstraint(
            "\"status\" IN ('pending', 'in_progress', 'blocked', 'done', 'failed', 'cancelled')",
            name=op.f("ck_tasks_status"),
        ),
        sa.CheckConstraint(
            'CASE WHEN jsonb_typeof("tags") = \'array\' THEN jsonb_array_length("tags") BETWEEN 0 AND 50 AND NOT jsonb_path_exists("tags", \'$[*] ? (@.type() != "string" || !(@ like_regex "^.{1,100}$" flag "s"))\') ELSE false END',
            name=op.f("ck_tasks_tags"),
        ),
        sa.CheckConstraint('char_length("title") >= 1', name=op.f("ck_tasks_title")),
        sa.CheckConstraint(
            'jsonb_typeof("result") = \'object\' AND octet_length("result"::text) <= 262144 AND NOT jsonb_path_exists("result", \'$.**{33}\')',
            name=op.f("ck_tasks_result"),
        ),
        sa.ForeignKeyConstraint(
            ["owner_id", "assignee_id"],
            ["workers.owner_id", "workers.id"],
            name="fk_tasks_assignee_id",
            deferrable=True,
        ),
        sa.ForeignKeyConstraint(
            ["owner_id", "claimed_by_id"],
            ["workers.owner_id", "workers.id"],
            name="fk_tasks_claimed_by_id",
            deferrable=True,
        ),
        sa.ForeignKeyConstraint(
            ["owner_id", "created_by_id"],
            ["workers.owner_id", "workers.id"],
            name="fk_tasks_created_by_id",
            deferrable=True,
        ),
        sa.ForeignKeyConstraint(
            ["owner_id", "project_id", "parent_id"],
            ["tasks.owner_id", "tasks.project_id", "tasks.id"],
            name="fk_tasks_parent_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["owner_id", "project_id"],
            ["projects.owner_id", "projects.id"],
            name="fk_tasks_project_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("owner_id", "id", name=op.f("pk_tasks")),
        sa.UniqueConstraint(
            "owner_id", "project_id", "id", name=op.f("uq_tasks_owner_id_project_id_id")
        ),
        sa.UniqueConstraint(
            "owner_id", "project_id", "number", name=op.f("uq_tasks_owner_id_project_id_number")
        ),
    )
    op.create_index(
        "ix_tasks_assignee_id",
        "tasks",
        [
            "owner_id",
            "assignee_id",
            sa.literal_column("created_at DESC"),
            sa.literal_column("id DESC"),
        ],
    )
    op.create_index(
        "ix_tasks_by_created_at",
        "tasks",
        ["owner_id", sa.literal_column("created_at DESC"), sa.literal_column("id DESC")],
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        "ix_tasks_by_due_at",
        "tasks",
        [
            "owner_id",
            sa.literal_column(
                "(\nCASE\n    WHEN due_at IS NULL THEN 'infinity'::timestamp with time zone\n"
                "    ELSE due_at\nEND)"
            ),
            "id",
        ],
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        "ix_tasks_by_number",
        "tasks",
        ["owner_id", "number", "id"],
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        "ix_tasks_by_priority",
        "tasks",
        ["owner_id", sa.literal_column("priority DESC"), sa.literal_column("id DESC")],
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        "ix_tasks_claimed_by_id",
        "tasks",
        [
            "owner_id",
            "claimed_by_id",
            sa.literal_column("created_at DESC"),
            sa.literal_column("id DESC"),
        ],
    )
    op.create_index(
        "ix_tasks_created_by_id",
        "tasks",
        [
            "owner_id",
            "created_by_id",
            sa.literal_column("created_at DESC"),
            sa.literal_column("id DESC"),
        ],
    )
    op.create_index(
        "ix_tasks_deletion",
        "tasks",
        ["owner_id", "deletion_id"],
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.create_index("ix_tasks_parent_id", "tasks", ["owner_id", "parent_id", "number", "id"])
    op.create_index("ix_tasks_project_id", "tasks", ["owner_id", "project_id", "number", "id"])
    op.create_index(
        "ix_tasks_ready",
        "tasks",
        ["owner_id", sa.literal_column("priority DESC"), "created_at", "number", "id"],
        postgresql_where=sa.text("deleted_at IS NULL AND status IN ('pending', 'in_progress')"),
    )
    op.create_index(
        "ix_tasks_project_ready",
        "tasks",
        [
            "owner_id",
            "project_id",
            sa.literal_column("priority DESC"),
            "created_at",
            "number",
            "id",
        ],
        postgresql_where=sa.text("deleted_at IS NULL AND status IN ('pending', 'in_progress')"),
    )
    op.create_index(
        "ix_tasks_running",
        "tasks",
        ["owner_id", "id"],
        postgresql_where=sa.text("deleted_at IS NULL AND status = 'in_progress'"),
    )
    op.create_index(
        "ix_tasks_tags",
        "tasks",
        ["tags"],
        postgresql_using="gin",
        postgresql_ops={"tags": "jsonb_path_ops"},
    )
    op.create_table(
        "message_parts",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("text", sa.String(length=1000000), nullable=True),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("tool_call_id", sa.String(length=200), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deletion_id", sa.Uuid(), nullable=True),
        sa.CheckConstraint('"position" >= 0', name=op.f("ck_message_parts_position")),
        sa.CheckConstraint(
            "\"type\" IN ('text', 'image', 'file', 'tool_call', 'tool_result', 'reasoning')",
            name=op.f("ck_message_parts_type"),
        ),
        sa.CheckConstraint(
            'char_length("tool_call_id") >= 1', name=op.f("ck_message_parts_tool_call_id")
        ),
        sa.CheckConstraint(
            'jsonb_typeof("data") = \'object\' AND octet_length("data"::text) <= 262144 AND NOT jsonb_path_exists("data", \'$.**{33}\')',
            name=op.f("ck_message_parts_data"),
        ),
        sa.ForeignKeyConstraint(
            ["owner_id", "message_id"],
            ["messages.owner_id", "messages.id"],
            name="fk_message_parts_message_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("owner_id", "id", name=op.f("pk_message_parts")),
        sa.UniqueConstraint(
            "owner_id",
            "message_id",
            "position",
            name=op.f("uq_message_parts_owner_id_message_id_position"),
        ),
    )
    op.create_index(
        "ix_message_parts_deletion",
        "message_parts",
        ["owner_id", "deletion_id"],
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.create_index(
        "ix_message_parts_message_id", "message_parts", ["owner_id", "message_id", "position", "id"]
    )
    op.create_table(
        "task_dependencies",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("depends_on_id", sa.Uuid(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint("task_id <> depends_on_id", name=op.f("ck_task_dependencies_two_tasks")),
        sa.ForeignKeyConstraint(
            ["owner_id", "depends_on_id"],
            ["tasks.owner_id", "tasks.id"],
            name="fk_task_dependencies_depends_on_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["owner_id", "task_id"],
            ["tasks.owner_id", "tasks.id"],
            name="fk_task_dependencies_task_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("owner_id", "id", name=op.f("pk_task_dependencies")),
        sa.UniqueConstraint(
            "owner_id",
            "task_id",
            "depends_on_id",
            name=op.f("uq_task_dependencies_owner_id_task_id_depends_on_id"),
        ),
    )
    op.create_index(
        "ix_task_dependencies_depends_on_id",
        "task_dependencies",
        ["owner_id", "depends_on_id", "created_at", "id"],
    )
    op.create_index(
        "ix_task_dependencies_task_id",
        "task_dependencies",
        ["owner_id", "task_id", "created_at", "id"],
    )
    # Conversations and messages point at each other.
    op.create_foreign_key(
        "fk_conversations_active_leaf_id",
        "conversations",
        "messages",
        ["owner_id", "id", "active_leaf_id"],
        ["owner_id", "conversation_id", "id"],
        deferrable=True,
        initially="DEFERRED",
    )
    _protect()


def downgrade() -> None:
    """Remove every table and what guards it; the role stays, other databases may use it."""
    op.execute("DROP FUNCTION public.engram_find_login(text)")
    op.drop_constraint("fk_conversations_active_leaf_id", "conversations", type_="foreignkey")
    op.drop_table("task_dependencies")
    op.drop_table("message_parts")
    op.drop_table("tasks")
    op.drop_table("messages")
    op.drop_table("chunks")
    op.drop_table("workers")
    op.drop_table("projects")
    op.drop_table("login_sessions")
    op.drop_table("idempotency_keys")
    op.drop_table("documents")
    op.drop_table("conversations")
    op.drop_table("audit_events")
    op.drop_table("api_keys")
    op.drop_table("users")
    op.execute("REVOKE ALL ON public.alembic_version FROM engram_app")
    op.execute("REVOKE USAGE ON SCHEMA public FROM engram_app")


def _protect() -> None:
    """The application's role, what it may do, and row-level security on every table."""
    op.execute(ROLE)
    op.execute(MEMBER)
    op.execute("GRANT USAGE ON SCHEMA public TO engram_app")
    op.execute("GRANT SELECT ON public.alembic_version TO engram_app")
    for table, owner in [("users", "id"), *((table, "owner_id") for table in OWNED)]:
        rights = "SELECT, INSERT" if table == "audit_events" else "SELECT, INSERT, UPDATE, DELETE"
        op.execute(f"GRANT {rights} ON public.{table} TO engram_app")
        op.execute(f"ALTER TABLE public.{table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE public.{table} FORCE ROW LEVEL SECURITY")
        own = f"{owner} = {CURRENT_OWNER}"
        op.execute(f"CREATE POLICY owner_only ON public.{table} USING ({own}) WITH CHECK ({own})")
    op.execute("CREATE POLICY find_login ON public.users FOR SELECT TO CURRENT_USER USING (true)")
    op.execute(FIND_LOGIN)
    op.execute("REVOKE ALL ON FUNCTION public.engram_find_login(text) FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION public.engram_find_login(text) TO engram_app")
