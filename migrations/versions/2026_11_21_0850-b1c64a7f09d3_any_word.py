"""Chunks that hold some of the words of a question, for the replies of models."""

from alembic import op

revision = "b1c64a7f09d3"
down_revision = "c57e1f0a92d6"
branch_labels = None
depends_on = None

# A question is written in sentences: no chunk holds all its words. So a chunk is worth the words it
# has of it, each by how rare it is among the owner's chunks (inverse document frequency), and a
# document its best chunk and its title. Every word is looked up by the index of words, and no chunk
# is read for more than its keys.
#
# What it costs is bounded: by the words (32, the longest, as long words are rare; digits count for
# four letters), and by the chunks of each (4,000). Of a word that more chunks have, not all are
# known, so it says nothing, unless all words are like that. Words that are in most texts of the
# question's language, by the lists of PostgreSQL, are left out: the language is the one whose list
# has most of them. All are kept where no others are left.
ANY_WORD = """
CREATE FUNCTION public.engram_any_word_chunks(query text, documents uuid[], size integer)
RETURNS TABLE (
    document_id uuid, rank integer, score float8, chunk_id uuid, chunk_score float8
)
LANGUAGE plpgsql STABLE ROWS 100
SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
    me CONSTANT uuid := nullif(current_setting('app.owner_id', true), '')::uuid;
    mine CONSTANT tsquery := ('''' || me || '''')::tsquery;
    most CONSTANT integer := 4000;
    wanted tsquery[];
    whole float8;
BEGIN
    WITH words AS (
        SELECT lexeme FROM unnest(to_tsvector('simple', query))
    ), lists AS (
        SELECT array_agg(w.lexeme) AS stops, rank() OVER (ORDER BY count(*) DESC) AS place
        FROM words w CROSS JOIN unnest(
            '{danish_stem, dutch_stem, english_stem, finnish_stem, french_stem, german_stem,
            hungarian_stem, italian_stem, norwegian_stem, portuguese_stem, russian_stem,
            spanish_stem, swedish_stem, turkish_stem}'::regdictionary[]
        ) AS language
        WHERE ts_lexize(language, w.lexeme) = '{}'
        GROUP BY language
    ), judged AS (
        SELECT w.lexeme, EXISTS (
            SELECT FROM lists l WHERE l.place = 1 AND w.lexeme = ANY (l.stops)
        ) AS stop
        FROM words w
    ), chosen AS (
        SELECT j.lexeme FROM judged j
        WHERE NOT j.stop OR (SELECT bool_and(stop) FROM judged)
        ORDER BY char_length(j.lexeme) + 4 * (j.lexeme ~ '[0-9]')::integer DESC, j.lexeme
        LIMIT 32
    )
    SELECT array_agg(
        ('''' || replace(replace(lexeme, '\\', '\\\\'), '''', '''''') || '''')::tsquery
    ) INTO wanted FROM chosen;
    SELECT count(*) INTO whole FROM (
        SELECT FROM chunks c
        WHERE c.owner_id = me AND c.deleted_at IS NULL
            AND (documents IS NULL OR c.document_id = ANY (documents))
        LIMIT 50000
    ) AS live;
    RETURN QUERY
    WITH chunk_words AS MATERIALIZED (
        SELECT w.word, h.* FROM unnest(wanted) WITH ORDINALITY AS w(query, word) CROSS JOIN LATERAL (
            SELECT c.document_id AS document, c.id AS chunk FROM chunks c
            WHERE c.owner_id = me AND c.deleted_at IS NULL
                AND (c.search || array_to_tsvector(ARRAY[c.owner_id::text])) @@ (w.query && mine)
                AND (documents IS NULL OR c.document_id = ANY (documents))
            LIMIT most + 1
        ) AS h
    ), title_words AS MATERIALIZED (
        SELECT w.word, h.* FROM unnest(wanted) WITH ORDINALITY AS w(query, word) CROSS JOIN LATERAL (
            SELECT d.id AS document FROM documents d
            WHERE d.owner_id = me AND d.deleted_at IS NULL
                AND (d.search || array_to_tsvector(ARRAY[d.owner_id::text])) @@ (w.query && mine)
                AND (documents IS NULL OR d.id = ANY (documents))
            LIMIT most + 1
        ) AS h
    ), counted AS (
        SELECT word, max(n) AS n FROM (
            SELECT word, count(*) AS n FROM chunk_words GROUP BY word
            UNION ALL SELECT word, count(*) FROM title_words GROUP BY word
        ) AS both_kinds GROUP BY word
    ), weights AS (
        SELECT word, ln(1 + greatest(whole, n) / n)::float8 AS weight FROM counted
        WHERE n <= most OR (SELECT min(n) FROM counted) > most
    ), chunk_hits AS MATERIALIZED (
        SELECT h.document, h.chunk, sum(w.weight) AS score
        FROM chunk_words h JOIN weights w USING (word) GROUP BY h.document, h.chunk
    ), title_hits AS (
        SELECT h.document, sum(w.weight) AS score
        FROM title_words h JOIN weights w USING (word) GROUP BY h.document
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
SIGNATURE = "public.engram_any_word_chunks(text, uuid[], integer)"


def upgrade() -> None:
    """Write the function."""
    op.execute(ANY_WORD)
    op.execute(f"REVOKE ALL ON FUNCTION {SIGNATURE} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {SIGNATURE} TO engram_app")


def downgrade() -> None:
    """Remove it."""
    op.execute(f"DROP FUNCTION {SIGNATURE}")
