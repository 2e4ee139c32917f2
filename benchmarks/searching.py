"""Searches at size: a million chunks of owners of very different sizes.

Vectors are made where they are stored: topics, documents about a topic, chunks about a document.
Their coordinates matter less and less, as the principal components of real embeddings do: of 256
dimensions some 20 count. (Evenly spread noise has no neighbours that an index could find.) The
data goes away with the run unless it is kept.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter
from typing import Any
from uuid import UUID

import asyncpg
import sqlalchemy as sa

from benchmarks.dataset import HOME, SETTINGS
from benchmarks.meters import cpu_seconds
from db.embedded import EmbeddedServer
from db.engine import create_engine
from db.migrate import upgrade
from db.repositories.knowledge_search import Legs, search_documents
from db.session import Session, SessionOptions
from server.embedding import operator

MODEL = "bench"
DATABASE = "search"
CHUNKS_PER_DOCUMENT = 10
TOPICS = 2_000
NOISES = 20_000
SENTENCES = 20_000
WORDS = 30_000
TINY = (1, 2, 5, 10, 20, 50)
"""Chunks of the smallest owners."""
MS = 1_000
PATIENT = SessionOptions(statement_timeout_ms=120_000)

VECTORS = """
CREATE UNLOGGED TABLE {name} AS
SELECT n, (SELECT l2_normalize(array_agg((random() - 0.5 + 0 * n) / sqrt(i))::vector({dimensions}))
    FROM generate_series(1, {dimensions}) AS i) AS v
FROM generate_series(0, {count} - 1) AS n
"""
DOCUMENTS = """
INSERT INTO documents (owner_id, id, title, content, content_sha256, status)
SELECT o.id, uuidv7(), 'Document ' || d, '', sha256(''), 'ready'
FROM bench_owners o CROSS JOIN LATERAL generate_series(1, (o.chunks + {per} - 1) / {per}) AS d
"""
CHUNKS = """
INSERT INTO chunks (owner_id, document_id, revision, position, start, "end", token_count, content,
    content_sha256)
SELECT d.owner_id, d.id, 1, p, p, p + 1, 100, a.text || ' ' || b.text, sha256(uuid_send(uuidv7()))
FROM (
    SELECT d.owner_id, d.id, o.chunks, row_number() OVER (PARTITION BY d.owner_id) AS n
    FROM documents d JOIN bench_owners o ON o.id = d.owner_id
) AS d
CROSS JOIN LATERAL generate_series(0, least({per}, d.chunks - (d.n - 1) * {per}) - 1) AS p
JOIN bench_sentences a ON a.n = abs(hashint8(d.n * 7 + p)) % {sentences}
JOIN bench_sentences b ON b.n = abs(hashint8(d.n * 11 + p + 3)) % {sentences}
"""
EMBEDDINGS = """
INSERT INTO embeddings (owner_id, model_id, chunk_id, dimensions, embedding)
SELECT c.owner_id, '{model}', c.id, {dimensions},
    (t.v + m.v + k.v)::halfvec
FROM chunks c
JOIN bench_topics t ON t.n = abs(hashtext(c.document_id::text)) % {topics}
JOIN bench_noises m ON m.n = abs(hashtext(c.document_id::text || 'm')) % {noises}
JOIN bench_noises k ON k.n = abs(hashtext(c.id::text)) % {noises}
"""
COMPARED = sa.text(
    """
    SELECT document_id, distance FROM engram_vector_chunks(
        :model, CAST(:vector AS halfvec), NULL, :size, :exact_limit
    ) GROUP BY 1, 2, rank ORDER BY rank
    """
)
SAMPLE = sa.text(
    """
    SELECT c.content, CAST(e.embedding AS text) AS vector FROM chunks AS c JOIN embeddings AS e
        ON e.owner_id = :owner_id AND e.chunk_id = c.id
    WHERE c.owner_id = :owner_id ORDER BY hashtext(c.id::text || :seed) LIMIT :count
    """
)
BY_INDEX = sa.text("SELECT engram_by_index('embeddings', :model, :steps, 50000, 30)")
BACKEND = sa.text("SELECT pg_backend_pid()")
NEVER = 2_000_000_000


@dataclass(frozen=True)
class Owner:
    """Somebody, and how many chunks they have."""

    id: UUID
    chunks: int


@dataclass
class Measured:
    """What searches of one owner brought."""

    owner: Owner
    by_index: bool
    recalls: list[float]
    missing: int
    """Hits that exist and were not brought."""
    vector_ms: list[float]
    exact_ms: list[float]
    hybrid_ms: list[float]
    cpu_ms: list[float]
    """What PostgreSQL computed for a hybrid search: its time where nothing else runs."""


def sizes(owners: int, chunks: int) -> list[int]:
    """Chunks of each owner: as the inverse of their place, and some tiny ones."""
    places = range(1, owners - len(TINY) + 1)
    whole = sum(1 / place for place in places)
    return [*(max(1, round(chunks / whole / place)) for place in places), *TINY]


async def searching(*, owners: int, chunks: int, dimensions: int, queries: int, keep: bool) -> None:
    """Load, measure, print."""
    folder = HOME / "search"
    server = EmbeddedServer.start(folder, durable=False)
    if server.sql("SHOW shared_buffers") != SETTINGS["shared_buffers"]:
        for name, value in {**SETTINGS, "maintenance_work_mem": "2GB"}.items():
            server.sql(f"ALTER SYSTEM SET {name} = '{value}'")
        server.stop()
        server = EmbeddedServer.start(folder, durable=False)
    try:
        people = await _loaded(server, owners, chunks, dimensions)
        engine = create_engine(server.url(DATABASE), pool_size=2, command_timeout_seconds=600)
        found = []
        step = max(1, owners // 25)
        chosen = [*people[:8], *people[8::step], *people[-len(TINY) :]]
        for owner in dict.fromkeys(chosen):
            found.append(await _measure(engine, owner, queries))
            print(_line(found[-1]), flush=True)
        _summary(found)
        await engine.dispose()
    finally:
        server.stop()
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


async def _loaded(server: EmbeddedServer, owners: int, chunks: int, dimensions: int) -> list[Owner]:
    people = [
        Owner(UUID(int=(0x01A1FB4DA172 << 80) | (0x7 << 76) | (0x2 << 62) | n), size)
        for n, size in enumerate(sizes(owners, chunks))
    ]
    if server.sql(f"SELECT count(*) FROM pg_database WHERE datname = '{DATABASE}'") == "1":
        print("the data is there already", flush=True)
        return people
    server.create_database(DATABASE)
    await upgrade(server.url(DATABASE))
    connection = await asyncpg.connect(server.admin_url(DATABASE), command_timeout=3_600)
    try:
        await _fill(connection, people, dimensions)
    finally:
        await connection.close()
    started = perf_counter()
    engine = create_engine(server.admin_url(DATABASE), pooled=False, command_timeout_seconds=3_600)
    await operator.build_index(engine, MODEL)
    await engine.dispose()
    _told("HNSW index", started)
    return people


async def _fill(
    connection: asyncpg.Connection[Any], people: Sequence[Owner], dimensions: int
) -> None:
    dice = random.Random(7)
    words = [f"w{number:x}" for number in range(WORDS)]
    weights = [1 / (place + 3) for place in range(WORDS)]
    started = perf_counter()
    await connection.execute("SET session_replication_role = replica; SET jit = off")
    await connection.execute("CREATE UNLOGGED TABLE bench_sentences (n int PRIMARY KEY, text text)")
    sentences = [(n, " ".join(dice.choices(words, weights, k=30))) for n in range(SENTENCES)]
    await connection.copy_records_to_table("bench_sentences", records=sentences)
    await connection.execute("CREATE UNLOGGED TABLE bench_owners (id uuid, chunks bigint)")
    await connection.copy_records_to_table(
        "bench_owners", records=[(one.id, one.chunks) for one in people]
    )
    await connection.copy_records_to_table(
        "users",
        records=[(one.id, f"user{n}", f"u{n}@e.org", "none") for n, one in enumerate(people)],
        columns=["id", "username", "email", "password_hash"],
    )
    await connection.execute(
        f"INSERT INTO embedding_models VALUES ('{MODEL}', {dimensions}, 'active')"
    )
    for name, count in (("bench_topics", TOPICS), ("bench_noises", NOISES)):
        await connection.execute(VECTORS.format(name=name, count=count, dimensions=dimensions))
    _told("words and vectors to mix", started)
    started = perf_counter()
    index = await connection.fetchval(
        "SELECT indexdef FROM pg_indexes WHERE indexname = 'ix_chunks_words'"
    )
    await connection.execute("DROP INDEX ix_chunks_words")
    await connection.execute("ANALYZE")
    await connection.execute(DOCUMENTS.format(per=CHUNKS_PER_DOCUMENT))
    await connection.execute("ANALYZE documents")
    await connection.execute(CHUNKS.format(per=CHUNKS_PER_DOCUMENT, sentences=SENTENCES))
    _told("chunks", started)
    started = perf_counter()
    await connection.execute(
        EMBEDDINGS.format(model=MODEL, dimensions=dimensions, topics=TOPICS, noises=NOISES)
    )
    _told("embeddings", started)
    started = perf_counter()
    await connection.execute(index)
    await connection.execute("VACUUM (ANALYZE) chunks")
    await connection.execute("VACUUM (ANALYZE) embeddings")
    await connection.execute("VACUUM (ANALYZE) documents")
    counted = await connection.fetchval("SELECT count(*) FROM embeddings")
    size = await connection.fetchval("SELECT pg_size_pretty(pg_database_size(current_database()))")
    _told(f"index of words, vacuum; {counted:,} chunks, {size}", started)


async def _measure(engine: Any, owner: Owner, queries: int) -> Measured:
    """Ask as a request would: one session for each search; the first of each is not counted."""
    async with Session(engine, owner.id, PATIENT) as session:
        samples = await session.execute(SAMPLE, {"seed": "1", "count": queries})
        by_index = await session.scalar(BY_INDEX, {"model": MODEL, "steps": 300})
    found = Measured(owner, bool(by_index), [], 0, [], [], [], [])
    documents = -(-owner.chunks // CHUNKS_PER_DOCUMENT)
    for turn in (0, 1):
        for row in samples:
            given = {"model": MODEL, "vector": row.vector, "size": 100}
            exact, exact_ms = await _timed(engine, owner, COMPARED, given, NEVER)
            near, vector_ms = await _timed(engine, owner, COMPARED, given, 50_000)
            words = " ".join(row.content.split()[3:40:18])
            started = perf_counter()
            async with Session(engine, owner.id, PATIENT) as session:
                vector = [float(one) for one in row.vector.strip("[]").split(",")]
                backend = await session.scalar(BACKEND)
                before = cpu_seconds(backend)
                hits = await search_documents(
                    session, words, Legs(text=True, model=MODEL, vector=vector)
                )
                cpu_ms = (cpu_seconds(backend) - before) * MS
            hybrid_ms = (perf_counter() - started) * MS
            if turn == 0:
                continue
            best = exact[:10]
            found.recalls.append(len(set(best) & set(near[:10])) / len(best))
            found.missing += min(100, documents) - len(near)
            found.missing += max(0, min(100, documents) - len(hits))
            found.exact_ms.append(exact_ms)
            found.vector_ms.append(vector_ms)
            found.hybrid_ms.append(hybrid_ms)
            found.cpu_ms.append(cpu_ms)
    return found


async def _timed(
    engine: Any, owner: Owner, statement: Any, given: dict[str, Any], exact_limit: int
) -> tuple[list[UUID], float]:
    started = perf_counter()
    async with Session(engine, owner.id, PATIENT) as session:
        rows = await session.execute(statement, {**given, "exact_limit": exact_limit})
    return [row.document_id for row in rows], (perf_counter() - started) * MS


def _p95(values: Sequence[float]) -> float:
    return quantiles(values, n=20)[-1] if len(values) > 1 else values[0]


def _line(one: Measured) -> str:
    way = "index" if one.by_index else "scan"
    return (
        f"{one.owner.chunks:>8,} chunks, {way:>5}: recall@10 {min(one.recalls):.2f} at least,"
        f" {sum(one.recalls) / len(one.recalls):.3f} on average; missing {one.missing};"
        f" vectors p50 {median(one.vector_ms):6.1f} p95 {_p95(one.vector_ms):6.1f} ms"
        f" (scan p95 {_p95(one.exact_ms):6.1f}); hybrid p50 {median(one.hybrid_ms):6.1f}"
        f" p95 {_p95(one.hybrid_ms):6.1f} ms, of CPU p50 {median(one.cpu_ms):5.1f}"
        f" p95 {_p95(one.cpu_ms):5.1f} ms"
    )


def _summary(found: Sequence[Measured]) -> None:
    worst = min(sum(one.recalls) / len(one.recalls) for one in found)
    vectors = [ms for one in found for ms in one.vector_ms]
    hybrid = [ms for one in found for ms in one.hybrid_ms]
    cpu = [ms for one in found for ms in one.cpu_ms]
    print(
        f"\n{len(found)} owners, {len(vectors)} queries: least recall@10 of an owner {worst:.3f},"
        f" hits missing {sum(one.missing for one in found)},"
        f" vectors p50 {median(vectors):.1f} p95 {_p95(vectors):.1f} ms,"
        f" hybrid p50 {median(hybrid):.1f} p95 {_p95(hybrid):.1f} ms,"
        f" of CPU p50 {median(cpu):.1f} p95 {_p95(cpu):.1f} ms"
    )


def _told(what: str, started: float) -> None:
    print(f"{what}: {perf_counter() - started:.0f} s", flush=True)


def run(**options: Any) -> None:
    """`searching`, in a loop of its own."""
    asyncio.run(searching(**options))
