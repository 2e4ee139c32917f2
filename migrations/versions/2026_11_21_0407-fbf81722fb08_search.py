"""Embeddings of chunks and messages, the work that makes them, and the functions of searches."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import UserDefinedType

revision = "fbf81722fb08"
down_revision = "5c1d0a7be9f4"
branch_labels = None
depends_on = None

NEEDS_DOWNTIME = "It was made before the first release: nobody had rows yet."


class HalfVector(UserDefinedType[object]):
    """pgvector's vector of half-precision numbers."""

    def get_col_spec(self, **_: object) -> str:
        """Its name in DDL."""
        return "HALFVEC"


# All of these are owned by the owner of the tables and run as that role, whom the policies `search`
# and `claim` let through; so each compares the owner itself. It takes the owner from the setting
# that row-level security takes it from: no argument can name another one.
SETTINGS = """SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET plan_cache_mode = force_custom_plan"""
ME = "nullif(current_setting('app.owner_id', true), '')::uuid"

# The best documents by their words: by the best of their chunks, and by the title on top of that.
TEXT_CHUNKS = f"""
CREATE FUNCTION public.engram_text_chunks(query tsquery, documents uuid[], size integer)
RETURNS TABLE (
    document_id uuid, rank integer, score float8, chunk_id uuid, chunk_score float8
)
LANGUAGE plpgsql STABLE ROWS 100 {SETTINGS}
AS $$
#variable_conflict use_column
DECLARE
    me CONSTANT uuid := {ME};
    mine CONSTANT tsquery := query && ('''' || me || '''')::tsquery;
BEGIN
    RETURN QUERY
    WITH chunk_hits AS MATERIALIZED (
        SELECT c.document_id AS document, c.id AS chunk,
            ts_rank_cd(c.search, query)::float8 AS score
        FROM chunks c
        WHERE c.owner_id = me AND c.deleted_at IS NULL
            AND (c.search || array_to_tsvector(ARRAY[c.owner_id::text])) @@ mine
            AND (documents IS NULL OR c.document_id = ANY (documents))
    ), title_hits AS (
        SELECT d.id AS document, ts_rank_cd('{{1, 1, 1, 1}}', d.search, query)::float8 AS score
        FROM documents d
        WHERE d.owner_id = me AND d.deleted_at IS NULL
            AND (d.search || array_to_tsvector(ARRAY[d.owner_id::text])) @@ mine
            AND (documents IS NULL OR d.id = ANY (documents))
    ), best AS (
        SELECT document, sum(score) AS score,
            row_number() OVER (ORDER BY sum(score) DESC, document)::integer AS rank
        FROM (
            SELECT document, max(score) AS score FROM chunk_hits GROUP BY document
            UNION ALL SELECT document, score FROM title_hits
        ) AS parts
        GROUP BY document ORDER BY 2 DESC, document LIMIT size
    ), passages AS (
        SELECT h.*, row_number() OVER (PARTITION BY h.document ORDER BY h.score DESC, h.chunk) AS n
        FROM chunk_hits h JOIN best b ON b.document = h.document
    )
    SELECT b.document, b.rank, b.score, p.chunk, p.score
    FROM best b LEFT JOIN passages p ON p.document = b.document AND p.n <= 3
    ORDER BY b.rank, p.n;
END $$
"""

TEXT_MESSAGES = f"""
CREATE FUNCTION public.engram_text_messages(query tsquery, messages uuid[], size integer)
RETURNS TABLE (message_id uuid, rank integer, score float8)
LANGUAGE plpgsql STABLE ROWS 100 {SETTINGS}
AS $$
#variable_conflict use_column
DECLARE
    me CONSTANT uuid := {ME};
    mine CONSTANT tsquery := query && ('''' || me || '''')::tsquery;
BEGIN
    RETURN QUERY
    SELECT h.id, row_number() OVER (ORDER BY h.score DESC, h.id DESC)::integer, h.score
    FROM (
        SELECT m.id, ts_rank_cd(m.search, query)::float8 AS score
        FROM messages m
        WHERE m.owner_id = me AND m.deleted_at IS NULL
            AND (m.search || array_to_tsvector(ARRAY[m.owner_id::text])) @@ mine
            AND (messages IS NULL OR m.id = ANY (messages))
    ) AS h
    ORDER BY h.score DESC, h.id DESC LIMIT size;
END $$
"""

# Whether the index of a model is the quicker way through an owner's embeddings. It walks past those
# of all others: `steps` of an owner with a small share are many. One step costs as much as some
# `step_cost` comparisons of a scan. What the planner believes of an owner's rows costs nothing.
BY_INDEX = f"""
CREATE FUNCTION public.engram_by_index(
    vectors regclass, model text, steps integer, exact_limit integer, step_cost float8
) RETURNS boolean
LANGUAGE plpgsql VOLATILE {SETTINGS}
AS $$
DECLARE
    name CONSTANT text := format('%s_hnsw_%s', vectors::text, left(md5(model), 12));
    whole float8;
    plan json;
    own float8;
BEGIN
    SELECT greatest(t.reltuples, 1) INTO whole
    FROM pg_class i JOIN pg_index x ON x.indexrelid = i.oid JOIN pg_class t ON t.oid = x.indrelid
    WHERE i.relname = name AND x.indrelid = vectors AND x.indisvalid;
    IF whole IS NULL THEN
        RETURN false;
    END IF;
    EXECUTE format(
        'EXPLAIN (FORMAT JSON) SELECT FROM %s WHERE owner_id = %L AND model_id = %L',
        vectors, {ME}, model
    ) INTO plan;
    own := (plan -> 0 -> 'Plan' ->> 'Plan Rows')::float8;
    RETURN own > exact_limit AND own > steps * (whole / own) * step_cost;
END $$
"""

# The nearest documents by the best of their chunks. An owner's slice is scanned, which is exact;
# where the index of the model is quicker it is asked first, and the scan when it brings too few.
VECTOR_CHUNKS = f"""
CREATE FUNCTION public.engram_vector_chunks(
    model text, query halfvec, documents uuid[], size integer,
    exact_limit integer DEFAULT 50000, step_cost float8 DEFAULT 30
) RETURNS TABLE (
    document_id uuid, rank integer, distance float8, chunk_id uuid, chunk_distance float8
)
LANGUAGE plpgsql STABLE ROWS 300 {SETTINGS}
SET enable_sort = on
SET hnsw.iterative_scan = relaxed_order
SET hnsw.ef_search = 200
SET hnsw.max_scan_tuples = 40000
AS $$
#variable_conflict use_column
DECLARE
    me CONSTANT uuid := {ME};
    dims CONSTANT integer := vector_dims(query);
    take integer := size * 3;
    by_index boolean := false;
    ids uuid[];
    distances float8[];
    owners uuid[];
    found integer;
    got integer;
BEGIN
    IF NOT EXISTS (SELECT FROM embedding_models WHERE id = model AND dimensions = dims) THEN
        RETURN;
    END IF;
    IF documents IS NOT NULL AND cardinality(documents) <= 1000 THEN
        SELECT array_agg(c.document_id), array_agg(c.id), array_agg(e.embedding <=> query)
        INTO owners, ids, distances
        FROM chunks c JOIN embeddings e
            ON e.owner_id = me AND e.model_id = model AND e.chunk_id = c.id
        WHERE c.owner_id = me AND c.document_id = ANY (documents) AND c.deleted_at IS NULL
            AND (e.embedding <=> query) <> 'NaN';
    ELSE
        by_index := engram_by_index('embeddings', model, take, exact_limit, step_cost);
        LOOP
            IF by_index THEN
                PERFORM set_config('enable_sort', 'off', true);
                EXECUTE format(
                    'SELECT array_agg(n.chunk_id), array_agg(n.distance) FROM ('
                    ' SELECT e.chunk_id, e.embedding::halfvec(%1$s) <=> $1 AS distance'
                    ' FROM embeddings e WHERE e.model_id = %2$L AND e.owner_id = $2'
                    ' ORDER BY e.embedding::halfvec(%1$s) <=> $1 LIMIT $3) AS n',
                    dims, model
                ) INTO ids, distances USING query, me, take;
                PERFORM set_config('enable_sort', 'on', true);
            ELSE
                SELECT array_agg(n.chunk_id), array_agg(n.distance) INTO ids, distances
                FROM (
                    SELECT e.chunk_id, e.embedding <=> query AS distance
                    FROM embeddings e
                    WHERE e.owner_id = me AND e.model_id = model
                    ORDER BY 2 LIMIT take -- NaN, of a zero vector, is the last
                ) AS n;
            END IF;
            got := coalesce(cardinality(ids), 0);
            SELECT count(DISTINCT c.document_id), array_agg(c.document_id), array_agg(c.id),
                array_agg(n.distance)
            INTO found, owners, ids, distances
            FROM unnest(ids, distances) AS n(id, distance) JOIN chunks c
                ON c.owner_id = me AND c.id = n.id AND c.deleted_at IS NULL
            WHERE n.distance <> 'NaN'
                AND (documents IS NULL OR c.document_id = ANY (documents));
            EXIT WHEN found >= size OR (got < take AND NOT by_index);
            IF by_index AND (got < take OR take > size * 20) THEN
                by_index := false;
            ELSE
                take := least(take::bigint * 8, 100000000);
            END IF;
        END LOOP;
    END IF;
    RETURN QUERY
    WITH hits AS MATERIALIZED (
        SELECT h.*, row_number() OVER (PARTITION BY h.document ORDER BY h.distance, h.chunk) AS n
        FROM unnest(owners, ids, distances) AS h(document, chunk, distance)
    ), best AS (
        SELECT h.document, h.distance AS nearest,
            row_number() OVER (ORDER BY h.distance, h.document)::integer AS rank
        FROM hits h WHERE h.n = 1 ORDER BY h.distance, h.document LIMIT size
    )
    SELECT b.document, b.rank, b.nearest, h.chunk, h.distance
    FROM best b JOIN hits h ON h.document = b.document AND h.n <= 3
    ORDER BY b.rank, h.n;
END $$
"""

VECTOR_MESSAGES = f"""
CREATE FUNCTION public.engram_vector_messages(
    model text, query halfvec, messages uuid[], size integer,
    exact_limit integer DEFAULT 50000, step_cost float8 DEFAULT 30
) RETURNS TABLE (
    message_id uuid, rank integer, distance float8, start integer, "end" integer
)
LANGUAGE plpgsql STABLE ROWS 100 {SETTINGS}
SET enable_sort = on
SET hnsw.iterative_scan = relaxed_order
SET hnsw.ef_search = 200
SET hnsw.max_scan_tuples = 40000
AS $$
#variable_conflict use_column
DECLARE
    me CONSTANT uuid := {ME};
    dims CONSTANT integer := vector_dims(query);
    take integer := size * 2;
    by_index boolean := false;
    ids uuid[];
    positions integer[];
    distances float8[];
    found integer;
    got integer;
BEGIN
    IF NOT EXISTS (SELECT FROM embedding_models WHERE id = model AND dimensions = dims) THEN
        RETURN;
    END IF;
    by_index := engram_by_index('message_embeddings', model, take, exact_limit, step_cost);
    LOOP
        IF by_index THEN
            PERFORM set_config('enable_sort', 'off', true);
            EXECUTE format(
                'SELECT array_agg(n.message_id), array_agg(n.position), array_agg(n.distance) FROM ('
                ' SELECT e.message_id, e.position, e.embedding::halfvec(%1$s) <=> $1 AS distance'
                ' FROM message_embeddings e WHERE e.model_id = %2$L AND e.owner_id = $2'
                ' ORDER BY e.embedding::halfvec(%1$s) <=> $1 LIMIT $3) AS n',
                dims, model
            ) INTO ids, positions, distances USING query, me, take;
            PERFORM set_config('enable_sort', 'on', true);
        ELSE
            SELECT array_agg(n.message_id), array_agg(n.position), array_agg(n.distance)
            INTO ids, positions, distances
            FROM (
                SELECT e.message_id, e.position, e.embedding <=> query AS distance
                FROM message_embeddings e
                WHERE e.owner_id = me AND e.model_id = model
                    AND (messages IS NULL OR e.message_id = ANY (messages))
                ORDER BY 3 LIMIT take -- NaN, of a zero vector, is the last
            ) AS n;
        END IF;
        got := coalesce(cardinality(ids), 0);
        SELECT count(DISTINCT m.id), array_agg(m.id), array_agg(n.position), array_agg(n.distance)
        INTO found, ids, positions, distances
        FROM unnest(ids, positions, distances) AS n(id, position, distance) JOIN messages m
            ON m.owner_id = me AND m.id = n.id AND m.deleted_at IS NULL
        WHERE n.distance <> 'NaN' AND (messages IS NULL OR m.id = ANY (messages));
        EXIT WHEN found >= size OR (got < take AND NOT by_index);
        IF by_index AND (got < take OR take > size * 20) THEN
            by_index := false;
        ELSE
            take := least(take::bigint * 8, 100000000);
        END IF;
    END LOOP;
    RETURN QUERY
    WITH hits AS (
        SELECT DISTINCT ON (h.message) h.*
        FROM unnest(ids, positions, distances) AS h(message, position, distance)
        ORDER BY h.message, h.distance, h.position
    ), best AS (
        SELECT h.*, row_number() OVER (ORDER BY h.distance, h.message DESC)::integer AS rank
        FROM hits h ORDER BY h.distance, h.message DESC LIMIT size
    )
    SELECT b.message, b.rank, b.distance, e.start, e."end"
    FROM best b JOIN message_embeddings e ON e.owner_id = me AND e.model_id = model
        AND e.message_id = b.message AND e.position = b.position
    ORDER BY b.rank;
END $$
"""

# The model of the owner's searches. Runs as who asks, under row-level security.
MODEL = f"""
CREATE FUNCTION public.engram_embedding_model() RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT m.id FROM public.embedding_models m
    LEFT JOIN public.embedding_choices c ON c.owner_id = {ME} AND c.model_id = m.id
    WHERE m.status = 'active' OR (m.status = 'building' AND c.id IS NOT NULL)
    ORDER BY c.id IS NULL LIMIT 1
$$
"""

# Whatever writes a text, its embedding is asked for in the same transaction. Runs as who writes. A
# model that is being registered waits for writers, and they for it, or a text could be forgotten:
# the one would not see the model yet, and the other not the text.
ENQUEUE = """
CREATE FUNCTION public.engram_enqueue_embedding() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('embedding models', 7));
    IF TG_TABLE_NAME = 'documents' THEN
        INSERT INTO embedding_jobs (owner_id, model_id, document_id)
        SELECT NEW.owner_id, m.id, NEW.id FROM embedding_models m WHERE m.status <> 'retired'
        ON CONFLICT (owner_id, model_id, document_id) DO UPDATE
        SET status = 'pending', attempts = 0, error = NULL, run_after = now(),
            claimed_until = NULL, epoch = embedding_jobs.epoch + 1, updated_at = now();
    ELSE
        INSERT INTO embedding_jobs (owner_id, model_id, message_id)
        SELECT NEW.owner_id, m.id, NEW.id FROM embedding_models m WHERE m.status <> 'retired'
        ON CONFLICT (owner_id, model_id, message_id) DO UPDATE
        SET status = 'pending', attempts = 0, error = NULL, run_after = now(),
            claimed_until = NULL, epoch = embedding_jobs.epoch + 1, updated_at = now();
    END IF;
    RETURN NULL;
END $$
"""
TRIGGERS = (
    """
    CREATE TRIGGER embedding_of_new AFTER INSERT ON public.documents
    FOR EACH ROW WHEN (NEW.status = 'ready')
    EXECUTE FUNCTION public.engram_enqueue_embedding()
    """,
    """
    CREATE TRIGGER embedding_of_changed AFTER UPDATE OF status, revision ON public.documents
    FOR EACH ROW WHEN (
        NEW.status = 'ready' AND (OLD.status <> 'ready' OR OLD.revision <> NEW.revision)
    )
    EXECUTE FUNCTION public.engram_enqueue_embedding()
    """,
    """
    CREATE TRIGGER embedding_of_new AFTER INSERT ON public.messages
    FOR EACH ROW WHEN (
        NEW.status IN ('complete', 'stopped', 'interrupted') AND NEW.content <> ''
    )
    EXECUTE FUNCTION public.engram_enqueue_embedding()
    """,
    """
    CREATE TRIGGER embedding_of_changed AFTER UPDATE OF status, content ON public.messages
    FOR EACH ROW WHEN (
        NEW.status IN ('complete', 'stopped', 'interrupted') AND NEW.content <> ''
        AND (NEW.status <> OLD.status OR NEW.content <> OLD.content)
    )
    EXECUTE FUNCTION public.engram_enqueue_embedding()
    """,
)

# The next owner after a given one who has something to embed and whom nobody serves now: so equal
# texts of an owner never meet in two embedders, and no owner waits for another one's thousands.
CLAIM = f"""
CREATE FUNCTION public.engram_claim_embedding_jobs(
    model text, after uuid, size integer, lease interval
) RETURNS TABLE (
    owner_id uuid, id uuid, document_id uuid, message_id uuid, epoch integer, attempts integer
)
LANGUAGE plpgsql VOLATILE {SETTINGS}
AS $$
#variable_conflict use_column
DECLARE
    next uuid := after;
    first uuid;
    wrapped boolean := false;
BEGIN
    FOR tries IN 1..50 LOOP
        SELECT j.owner_id INTO first FROM embedding_jobs j
        WHERE j.model_id = model AND j.status = 'pending' AND j.owner_id > next
            AND j.run_after <= now()
        ORDER BY j.owner_id LIMIT 1;
        IF first IS NULL THEN
            IF wrapped THEN
                RETURN;
            END IF;
            wrapped := true;
            next := '00000000-0000-0000-0000-000000000000';
            CONTINUE;
        END IF;
        next := first;
        CONTINUE WHEN NOT pg_try_advisory_xact_lock(hashtextextended(model || next::text, 7));
        CONTINUE WHEN EXISTS (
            SELECT FROM embedding_jobs j
            WHERE j.owner_id = next AND j.model_id = model AND j.status = 'pending'
                AND j.claimed_until > clock_timestamp()
        );
        RETURN QUERY
        WITH due AS MATERIALIZED (
            SELECT k.id FROM embedding_jobs k
            WHERE k.owner_id = next AND k.model_id = model AND k.status = 'pending'
                AND k.run_after <= now()
            ORDER BY k.run_after, k.id LIMIT size FOR UPDATE SKIP LOCKED
        )
        UPDATE embedding_jobs j
        SET claimed_until = clock_timestamp() + lease, epoch = j.epoch + 1
        FROM due
        WHERE j.owner_id = next AND j.id = due.id
        RETURNING j.owner_id, j.id, j.document_id, j.message_id, j.epoch, j.attempts;
        IF FOUND THEN
            RETURN;
        END IF;
    END LOOP;
END $$
"""

# Documents of any owner that are not cut into chunks yet, the oldest first; keys, and nothing else.
UNCUT = f"""
CREATE FUNCTION public.engram_uncut_documents(size integer)
RETURNS TABLE (owner_id uuid, id uuid)
LANGUAGE sql STABLE {SETTINGS}
AS $$
    SELECT d.owner_id, d.id FROM documents d
    WHERE d.status = 'pending' AND d.deleted_at IS NULL
    ORDER BY d.updated_at LIMIT size
$$
"""

# A model that the server is told to use is known from then on, and what there is waits for it. The
# first one is active at once; others are built beside it until an operator or an owner takes them.
REGISTER = f"""
CREATE FUNCTION public.engram_register_embedding_model(new_model text, size integer) RETURNS text
LANGUAGE plpgsql VOLATILE {SETTINGS}
AS $$
DECLARE
    known embedding_models%ROWTYPE;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('embedding models', 7));
    SELECT * INTO known FROM embedding_models WHERE id = new_model;
    IF known.dimensions <> size THEN
        RAISE EXCEPTION 'The embedding model % has % dimensions, not %.', new_model, known.dimensions,
            size USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF known.status IN ('building', 'active') THEN
        RETURN known.status;
    END IF;
    INSERT INTO embedding_models (id, dimensions, status)
    SELECT new_model, size, CASE WHEN EXISTS (
        SELECT FROM embedding_models WHERE status = 'active'
    ) THEN 'building' ELSE 'active' END
    ON CONFLICT (id) DO UPDATE SET status = EXCLUDED.status;
    INSERT INTO embedding_jobs (owner_id, model_id, document_id)
    SELECT d.owner_id, new_model, d.id FROM documents d WHERE d.status = 'ready'
    ON CONFLICT (owner_id, model_id, document_id) DO UPDATE
    SET status = 'pending', run_after = now(), epoch = embedding_jobs.epoch + 1;
    INSERT INTO embedding_jobs (owner_id, model_id, message_id)
    SELECT m.owner_id, new_model, m.id FROM messages m
    WHERE m.status IN ('complete', 'stopped', 'interrupted') AND m.content <> ''
    ON CONFLICT (owner_id, model_id, message_id) DO NOTHING;
    RETURN (SELECT status FROM embedding_models WHERE id = new_model);
END $$
"""
DEFINERS = {
    "engram_text_chunks(tsquery, uuid[], integer)": TEXT_CHUNKS,
    "engram_text_messages(tsquery, uuid[], integer)": TEXT_MESSAGES,
    "engram_by_index(regclass, text, integer, integer, float8)": BY_INDEX,
    "engram_vector_chunks(text, halfvec, uuid[], integer, integer, float8)": VECTOR_CHUNKS,
    "engram_vector_messages(text, halfvec, uuid[], integer, integer, float8)": VECTOR_MESSAGES,
    "engram_claim_embedding_jobs(text, uuid, integer, interval)": CLAIM,
    "engram_uncut_documents(integer)": UNCUT,
    "engram_register_embedding_model(text, integer)": REGISTER,
}


def upgrade() -> None:
    """Create the tables, exchange the indexes of words, and write the functions."""
    op.execute("CREATE EXTENSION IF NOT EXISTS vector")
    op.create_table(
        "embedding_models",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("dimensions", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'building'"), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            '"dimensions" >= 1 AND "dimensions" <= 4000',
            name=op.f("ck_embedding_models_dimensions"),
        ),
        sa.CheckConstraint(
            "\"status\" IN ('building', 'active', 'retired')",
            name=op.f("ck_embedding_models_status"),
        ),
        sa.CheckConstraint('char_length("id") >= 1', name=op.f("ck_embedding_models_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_embedding_models")),
        sa.UniqueConstraint("id", "dimensions", name=op.f("uq_embedding_models_id_dimensions")),
    )
    op.create_index(
        "uq_embedding_models_active",
        "embedding_models",
        ["status"],
        unique=True,
        postgresql_where=sa.text("status = 'active'"),
    )
    op.create_table(
        "embedding_choices",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("model_id", sa.String(length=200), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["model_id"],
            ["embedding_models.id"],
            name="fk_embedding_choices_model_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["users.id"], name="fk_embedding_choices_owner_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("owner_id", "id", name=op.f("pk_embedding_choices")),
        sa.UniqueConstraint("owner_id", name=op.f("uq_embedding_choices_owner_id")),
    )
    op.create_table(
        "embedding_jobs",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("model_id", sa.String(length=200), nullable=False),
        sa.Column("document_id", sa.Uuid(), nullable=True),
        sa.Column("message_id", sa.Uuid(), nullable=True),
        sa.Column("status", sa.Text(), server_default=sa.text("'pending'"), nullable=False),
        sa.Column("chunk_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("embedded_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "run_after", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("epoch", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("error", sa.String(length=1000), nullable=True),
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
        sa.CheckConstraint('"attempts" >= 0', name=op.f("ck_embedding_jobs_attempts")),
        sa.CheckConstraint('"chunk_count" >= 0', name=op.f("ck_embedding_jobs_chunk_count")),
        sa.CheckConstraint('"embedded_count" >= 0', name=op.f("ck_embedding_jobs_embedded_count")),
        sa.CheckConstraint('"epoch" >= 0', name=op.f("ck_embedding_jobs_epoch")),
        sa.CheckConstraint(
            "\"status\" IN ('pending', 'ready', 'failed')", name=op.f("ck_embedding_jobs_status")
        ),
        sa.CheckConstraint(
            "num_nonnulls(document_id, message_id) = 1", name=op.f("ck_embedding_jobs_one_text")
        ),
        sa.ForeignKeyConstraint(
            ["model_id"],
            ["embedding_models.id"],
            name="fk_embedding_jobs_model_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["owner_id", "document_id"],
            ["documents.owner_id", "documents.id"],
            name="fk_embedding_jobs_document_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["owner_id", "message_id"],
            ["messages.owner_id", "messages.id"],
            name="fk_embedding_jobs_message_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["users.id"], name="fk_embedding_jobs_owner_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("owner_id", "id", name=op.f("pk_embedding_jobs")),
        sa.UniqueConstraint(
            "owner_id",
            "model_id",
            "document_id",
            name=op.f("uq_embedding_jobs_owner_id_model_id_document_id"),
        ),
        sa.UniqueConstraint(
            "owner_id",
            "model_id",
            "message_id",
            name=op.f("uq_embedding_jobs_owner_id_model_id_message_id"),
        ),
    )
    op.create_index(
        "ix_embedding_jobs_document_id",
        "embedding_jobs",
        ["owner_id", "document_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_embedding_jobs_message_id",
        "embedding_jobs",
        ["owner_id", "message_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_embedding_jobs_pending",
        "embedding_jobs",
        ["model_id", "owner_id", "run_after"],
        unique=False,
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_table(
        "embeddings",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("dimensions", sa.Integer(), nullable=False),
        sa.Column("embedding", HalfVector(), nullable=False),
        sa.Column("model_id", sa.String(length=200), nullable=False),
        sa.Column("chunk_id", sa.Uuid(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint('"dimensions" >= 1', name=op.f("ck_embeddings_dimensions")),
        sa.CheckConstraint(
            "vector_dims(embedding) = dimensions", name=op.f("ck_embeddings_embedding")
        ),
        sa.ForeignKeyConstraint(
            ["model_id", "dimensions"],
            ["embedding_models.id", "embedding_models.dimensions"],
            name="fk_embeddings_model_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["owner_id", "chunk_id"],
            ["chunks.owner_id", "chunks.id"],
            name="fk_embeddings_chunk_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("owner_id", "model_id", "chunk_id", name=op.f("pk_embeddings")),
    )
    op.create_index("ix_embeddings_chunk_id", "embeddings", ["owner_id", "chunk_id"], unique=False)
    op.create_table(
        "message_embeddings",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("dimensions", sa.Integer(), nullable=False),
        sa.Column("embedding", HalfVector(), nullable=False),
        sa.Column("model_id", sa.String(length=200), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("start", sa.Integer(), nullable=False),
        sa.Column("end", sa.Integer(), nullable=False),
        sa.Column("content_sha256", sa.LargeBinary(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint('"dimensions" >= 1', name=op.f("ck_message_embeddings_dimensions")),
        sa.CheckConstraint('"end" >= 0', name=op.f("ck_message_embeddings_end")),
        sa.CheckConstraint('"end" >= start', name=op.f("ck_message_embeddings_span")),
        sa.CheckConstraint('"position" >= 0', name=op.f("ck_message_embeddings_position")),
        sa.CheckConstraint('"start" >= 0', name=op.f("ck_message_embeddings_start")),
        sa.CheckConstraint(
            'octet_length("content_sha256") >= 32 AND octet_length("content_sha256") <= 32',
            name=op.f("ck_message_embeddings_content_sha256"),
        ),
        sa.CheckConstraint(
            "vector_dims(embedding) = dimensions", name=op.f("ck_message_embeddings_embedding")
        ),
        sa.ForeignKeyConstraint(
            ["model_id", "dimensions"],
            ["embedding_models.id", "embedding_models.dimensions"],
            name="fk_message_embeddings_model_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["owner_id", "message_id"],
            ["messages.owner_id", "messages.id"],
            name="fk_message_embeddings_message_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(
            "owner_id", "model_id", "message_id", "position", name=op.f("pk_message_embeddings")
        ),
    )
    op.create_index(
        "ix_message_embeddings_content",
        "message_embeddings",
        ["owner_id", "content_sha256"],
        unique=False,
    )
    op.create_index(
        "ix_message_embeddings_message_id",
        "message_embeddings",
        ["owner_id", "message_id"],
        unique=False,
    )
    op.drop_index(op.f("ix_chunks_search"), table_name="chunks", postgresql_using="gin")
    op.create_index(
        "ix_chunks_content_sha256", "chunks", ["owner_id", "content_sha256"], unique=False
    )
    op.create_index(
        "ix_chunks_words",
        "chunks",
        [sa.literal_column("(search || array_to_tsvector(ARRAY[owner_id::text]))")],
        unique=False,
        postgresql_using="gin",
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.add_column(
        "documents",
        sa.Column(
            "search",
            postgresql.TSVECTOR(),
            sa.Computed(
                "to_tsvector('simple'::regconfig, \"left\"((title)::text, 100000))", persisted=True
            ),
            nullable=True,
        ),
    )
    op.create_index(
        "ix_documents_pending",
        "documents",
        ["updated_at"],
        unique=False,
        postgresql_where=sa.text("status = 'pending' AND deleted_at IS NULL"),
    )
    op.create_index(
        "ix_documents_words",
        "documents",
        [sa.literal_column("(search || array_to_tsvector(ARRAY[owner_id::text]))")],
        unique=False,
        postgresql_using="gin",
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.drop_index(op.f("ix_messages_search"), table_name="messages", postgresql_using="gin")
    op.create_index(
        "ix_messages_words",
        "messages",
        [sa.literal_column("(search || array_to_tsvector(ARRAY[owner_id::text]))")],
        unique=False,
        postgresql_using="gin",
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.execute("GRANT SELECT ON public.embedding_models TO engram_app")
    op.execute("ALTER TABLE public.embedding_models ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE public.embedding_models FORCE ROW LEVEL SECURITY")
    op.execute("CREATE POLICY everybody_reads ON public.embedding_models FOR SELECT USING (true)")
    op.execute(
        "CREATE POLICY operator_writes ON public.embedding_models TO CURRENT_USER USING (true) WITH CHECK (true)"
    )
    op.execute("CREATE POLICY search ON public.documents FOR SELECT TO CURRENT_USER USING (true)")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON public.embedding_choices TO engram_app")
    op.execute("ALTER TABLE public.embedding_choices ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE public.embedding_choices FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY owner_only ON public.embedding_choices USING (owner_id = (SELECT nullif(current_setting('app.owner_id', true), '')::uuid)) WITH CHECK (owner_id = (SELECT nullif(current_setting('app.owner_id', true), '')::uuid))"
    )
    op.execute("CREATE POLICY search ON public.chunks FOR SELECT TO CURRENT_USER USING (true)")
    op.execute("CREATE POLICY search ON public.messages FOR SELECT TO CURRENT_USER USING (true)")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON public.embedding_jobs TO engram_app")
    op.execute("ALTER TABLE public.embedding_jobs ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE public.embedding_jobs FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY owner_only ON public.embedding_jobs USING (owner_id = (SELECT nullif(current_setting('app.owner_id', true), '')::uuid)) WITH CHECK (owner_id = (SELECT nullif(current_setting('app.owner_id', true), '')::uuid))"
    )
    op.execute(
        "CREATE POLICY claim ON public.embedding_jobs TO CURRENT_USER USING (true) WITH CHECK (true)"
    )
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON public.embeddings TO engram_app")
    op.execute("ALTER TABLE public.embeddings ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE public.embeddings FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY owner_only ON public.embeddings USING (owner_id = (SELECT nullif(current_setting('app.owner_id', true), '')::uuid)) WITH CHECK (owner_id = (SELECT nullif(current_setting('app.owner_id', true), '')::uuid))"
    )
    op.execute("CREATE POLICY search ON public.embeddings FOR SELECT TO CURRENT_USER USING (true)")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON public.message_embeddings TO engram_app")
    op.execute("ALTER TABLE public.message_embeddings ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE public.message_embeddings FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY owner_only ON public.message_embeddings USING (owner_id = (SELECT nullif(current_setting('app.owner_id', true), '')::uuid)) WITH CHECK (owner_id = (SELECT nullif(current_setting('app.owner_id', true), '')::uuid))"
    )
    op.execute(
        "CREATE POLICY search ON public.message_embeddings FOR SELECT TO CURRENT_USER USING (true)"
    )
    for table in ("embeddings", "message_embeddings"):
        # Beside the row, as a search reads them all; elsewhere only if they do not fit.
        op.execute(f"ALTER TABLE public.{table} ALTER COLUMN embedding SET STORAGE MAIN")
    # Its settings are known once the extension is loaded, which its first use does.
    op.execute("SELECT vector_dims('[1]'::halfvec)")
    for function in (*DEFINERS.values(), MODEL, ENQUEUE, *TRIGGERS):
        op.execute(function)
    for signature in DEFINERS:
        op.execute(f"REVOKE ALL ON FUNCTION public.{signature} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION public.{signature} TO engram_app")


def downgrade() -> None:
    """Remove them; chunks, documents and messages stay."""
    for table in ("documents", "messages"):
        op.execute(f"DROP TRIGGER embedding_of_new ON public.{table}")
        op.execute(f"DROP TRIGGER embedding_of_changed ON public.{table}")
    for signature in (*DEFINERS, "engram_embedding_model()", "engram_enqueue_embedding()"):
        op.execute(f"DROP FUNCTION public.{signature}")
    for table in ("chunks", "documents", "messages"):
        op.execute(f"DROP POLICY search ON public.{table}")
    op.drop_index(
        "ix_messages_words",
        table_name="messages",
        postgresql_using="gin",
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        op.f("ix_messages_search"), "messages", ["search"], unique=False, postgresql_using="gin"
    )
    op.drop_index(
        "ix_documents_words",
        table_name="documents",
        postgresql_using="gin",
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.drop_index(
        "ix_documents_pending",
        table_name="documents",
        postgresql_where=sa.text("status = 'pending' AND deleted_at IS NULL"),
    )
    op.drop_column("documents", "search")
    op.drop_index(
        "ix_chunks_words",
        table_name="chunks",
        postgresql_using="gin",
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.drop_index("ix_chunks_content_sha256", table_name="chunks")
    op.create_index(
        op.f("ix_chunks_search"), "chunks", ["search"], unique=False, postgresql_using="gin"
    )
    op.drop_index("ix_message_embeddings_message_id", table_name="message_embeddings")
    op.drop_index("ix_message_embeddings_content", table_name="message_embeddings")
    op.drop_table("message_embeddings")
    op.drop_index("ix_embeddings_chunk_id", table_name="embeddings")
    op.drop_table("embeddings")
    op.drop_index(
        "ix_embedding_jobs_pending",
        table_name="embedding_jobs",
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.drop_index("ix_embedding_jobs_message_id", table_name="embedding_jobs")
    op.drop_index("ix_embedding_jobs_document_id", table_name="embedding_jobs")
    op.drop_table("embedding_jobs")
    op.drop_table("embedding_choices")
    op.drop_index(
        "uq_embedding_models_active",
        table_name="embedding_models",
        postgresql_where=sa.text("status = 'active'"),
    )
    op.drop_table("embedding_models")
