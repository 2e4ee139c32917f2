"""How well searches rank: a set of queries whose answers are known.

Documents are about things, each named by one of three forms of its word (`lamp`, `lamping`,
`lampish`), and have a code. A query asks for things by the same forms, by other forms, or for a
code. What answers it follows from how the documents were made: it is 2 for all its things, 1 for
half of them. The real pipeline cuts, embeds (by the tests' provider, whose embeddings know the
beginnings of words and nothing of codes) and searches.
"""

from __future__ import annotations

import asyncio
import math
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from benchmarks.dataset import HOME
from db.embedded import EmbeddedServer
from db.engine import create_engine
from db.migrate import upgrade
from db.repositories import knowledge
from db.repositories.knowledge_search import Legs, search_documents, understand
from db.session import Author, Session, SessionOptions
from server.embedding import EmbeddingOptions, Embeddings
from tests.search.provider import KEY, embedding

DATABASE = "judged"
MODEL = "bag-512"
FORMS = ("", "ing", "ish")
LETTERS = "bdfgklmnprstvz"
AT = 10


@dataclass(frozen=True)
class Judged:
    """A query, what kind it is, and the worth of each document that answers it."""

    kind: str
    query: str
    worth: dict[UUID, int]


async def judging(*, documents: int, queries: int) -> None:
    """Make, search, print."""
    folder = HOME / "judged"
    server = EmbeddedServer.start(folder, durable=False)
    try:
        server.create_database(DATABASE)
        await upgrade(server.url(DATABASE))
        async with embedding() as provider:
            options = EmbeddingOptions(
                base_url=provider.url, api_key=KEY, model=MODEL, poll_seconds=0.1
            )
            engine = create_engine(server.url(DATABASE), pool_size=5)
            embeddings = Embeddings(engine, SessionOptions(), options)
            embeddings.open()
            await _ask(engine, server, embeddings, documents, queries)
            await embeddings.close()
            await engine.dispose()
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def _ask(
    engine: Any, server: EmbeddedServer, embeddings: Embeddings, documents: int, queries: int
) -> None:
    dice = random.Random(11)
    owner = uuid4()
    connection = await asyncpg.connect(server.admin_url(DATABASE))
    await connection.execute(
        "INSERT INTO users (id, username, email, password_hash)"
        " VALUES ($1, 'judge', 'j@e.org', 'none')",
        owner,
    )
    texts, asked = _made(dice, documents, queries)
    author = Author("user", owner, "benchmark")
    async with Session(engine, owner, author=author) as session:
        for start in range(0, len(texts), 200):
            part = texts[start : start + 200]
            async with session.transaction():
                await knowledge.create_documents(session, part, [("id",)] * len(part))
    left = "SELECT count(*) FROM embedding_jobs WHERE status = 'ready'"
    while await connection.fetchval(left) < len(texts):  # noqa: ASYNC110 - the database is asked
        await asyncio.sleep(0.5)
    await connection.close()
    print(f"{len(texts)} documents, {len(asked)} queries; nDCG@{AT} / recall@{AT}")
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for one in asked:
        for mode in ("TEXT", "VECTOR", "HYBRID"):
            async with Session(engine, owner) as session:
                understood = await understand(session, one.query)
            vector: Sequence[float] = ()
            model = None
            if mode != "TEXT" and understood.model and understood.dimensions:
                model = understood.model
                vector = await embeddings.query_vector(model, understood.dimensions, one.query)
            legs = Legs(text=mode != "VECTOR", model=model, vector=vector)
            async with Session(engine, owner) as session:
                hits = await search_documents(session, one.query, legs)
            ranked = [hit.id for hit in hits[:AT]]
            for kind in (one.kind, "all"):
                found.setdefault((kind, mode), []).append(_judge(ranked, one.worth))
    for kind in dict.fromkeys(kind for kind, _ in found):
        row = [f"{kind:>12}"]
        for mode in ("TEXT", "VECTOR", "HYBRID"):
            scores = found[kind, mode]
            gain, recall = (sum(part) / len(scores) for part in zip(*scores, strict=True))
            row.append(f"{mode} {gain:.3f} / {recall:.3f}")
        print("   ".join(row))


def _made(
    dice: random.Random, documents: int, queries: int
) -> tuple[list[dict[str, Any]], list[Judged]]:
    def word() -> str:
        return "".join(dice.choice(LETTERS) + dice.choice("aeiou") for _ in range(3))

    things = list(dict.fromkeys(word() for _ in range(documents // 8)))
    filler = list(dict.fromkeys(word() + "o" for _ in range(300)))
    texts: list[dict[str, Any]] = []
    about: dict[UUID, dict[str, str]] = {}
    codes: dict[str, UUID] = {}
    for number in range(documents):
        id = UUID(int=(0x01A1FB4DA172 << 80) | (0x7 << 76) | (0x2 << 62) | number)
        chosen = {one: one + dice.choice(FORMS) for one in dice.sample(things, 4)}
        code = f"QX-{dice.randrange(10**6):06d}"
        words = [*chosen.values(), *chosen.values(), *dice.choices(filler, k=30)]
        dice.shuffle(words)
        texts.append({"id": id, "title": f"Note {number}", "content": f"{' '.join(words)} {code}."})
        about[id] = chosen
        codes[code] = id
    asked = []
    for number in range(queries):
        kind = ("same words", "other forms", "a code")[number % 3]
        if kind == "a code":
            code, id = dice.choice(sorted(codes.items()))
            asked.append(Judged(kind, code, {id: 2}))
            continue
        id = dice.choice(sorted(about))
        wanted = dice.sample(sorted(about[id]), 2)
        named = []
        for one in wanted:
            same = about[id][one]
            others = [one + form for form in FORMS if one + form != same]
            named.append(same if kind == "same words" else dice.choice(others))
        worth = {}
        for other, chosen in about.items():
            common = sum(one in chosen for one in wanted)
            if common:
                worth[other] = common
        asked.append(Judged(kind, " ".join(named), worth))
    return texts, asked


def _judge(ranked: Sequence[UUID], worth: dict[UUID, int]) -> tuple[float, float]:
    """nDCG, and the share of the best answers that were brought."""
    gain = sum((2 ** worth.get(one, 0) - 1) / math.log2(n + 2) for n, one in enumerate(ranked))
    ideal = sorted(worth.values(), reverse=True)[:AT]
    most = sum((2**value - 1) / math.log2(n + 2) for n, value in enumerate(ideal))
    best = {one for one, value in worth.items() if value == 2}
    return gain / most, len(best & set(ranked)) / min(AT, len(best))
