"""Passages of the caller's documents that go with a message to the model that answers it.

The query is embedded before the write begins, so no connection waits for the provider. What is
found is stored with the answer as citations, in the same transaction: what the model is sent.
"""

from dataclasses import replace
from typing import Any

import strawberry
from strawberry.types.unset import UNSET

from db.refusals import Invalid, Missing, Several, Unavailable, Violation
from db.repositories import knowledge_search as repository
from db.repositories.conversations_citations import Passage
from db.repositories.knowledge_search import Hit, Legs, understand
from schema.context import Context
from schema.inputs import check_text, reference
from schema.meaning import Meaning, SearchLimit, by_meaning, impossible
from schema.search_fields import MAX_QUERY_CHARS, SearchMode

MAX_PASSAGES = 20
DEFAULT_PASSAGES = 6
MAX_DOCUMENTS = 100


@strawberry.input(
    description=(
        "Search the caller's documents, and put what fits best before the model. The passages are"
        " the `citations` of the answer."
    )
)
class RetrievalInput:
    """What to search, and how much of it to take."""

    query: str | None = strawberry.field(
        default=UNSET,
        description=(
            f"What to look for; else the message's first {MAX_QUERY_CHARS} characters. Some of its"
            " words are enough for a passage to be found; rare ones count most."
        ),
    )
    mode: SearchMode | None = strawberry.field(
        default=UNSET, description="How to look, as searchDocuments does; HYBRID by default."
    )
    first: int | None = strawberry.field(
        default=UNSET,
        description=f"How many passages at most, to {MAX_PASSAGES}; {DEFAULT_PASSAGES} by default.",
    )
    document_ids: list[strawberry.ID] | None = strawberry.field(
        default=UNSET,
        description=f"Only in these documents, at most {MAX_DOCUMENTS}; else in all of them.",
    )


@strawberry.type(description="How passages were looked for.")
class RetrievalReport:
    mode: SearchMode = strawberry.field(description="How it was looked for in the end.")
    limited_by: SearchLimit | None = strawberry.field(
        description="Why it was by words alone although more was asked for; else null."
    )
    notice: str | None = strawberry.field(description="The same in words, for people.")
    model_id: str | None = strawberry.field(
        description="The embedding model of the search; null if it was by words alone."
    )

    @classmethod
    def of(cls, facts: dict[str, Any]) -> "RetrievalReport":
        """The report of a Retrieval."""
        limit = facts["limited_by"]
        return cls(
            mode=SearchMode(facts["mode"]),
            limited_by=None if limit is None else SearchLimit(limit),
            notice=facts["notice"],
            model_id=facts["model_id"],
        )


class Retrieval:
    """A checked search for passages; `prepare` it outside of a transaction."""

    def __init__(self, input: RetrievalInput, content: str) -> None:
        """Raises Invalid."""
        given = input.query
        query = content[:MAX_QUERY_CHARS] if given is UNSET or given is None else given
        check_text(query, ("retrieval", "query"))
        if len(query) > MAX_QUERY_CHARS:
            raise _wrong("query", "max_length", f"At most {MAX_QUERY_CHARS} characters.")
        first = input.first if isinstance(input.first, int) else DEFAULT_PASSAGES
        if not 1 <= first <= MAX_PASSAGES:
            raise _wrong("first", "range", f"It must be between 1 and {MAX_PASSAGES}.")
        ids = input.document_ids or []
        if len(ids) > MAX_DOCUMENTS:
            raise _wrong("document_ids", "max_items", f"At most {MAX_DOCUMENTS} documents.")
        self._query = query
        self._first = first
        self._mode = input.mode or SearchMode.HYBRID
        self._documents = [
            reference("document", one, ("retrieval", "document_ids", str(n)))
            for n, one in enumerate(ids)
        ]
        self._legs = Legs(text=self._mode is not SearchMode.VECTOR, model=None)
        self._meaning = Meaning()

    async def prepare(self, context: Context) -> None:
        """See that the documents are there, and embed the query; else words are left.

        Raises Missing or Several; Unavailable where the mode leaves no words.
        """
        async with context.aside() as session:
            await self._check_documents(session)
            understood = await understand(session, self._query)
        if self._mode is SearchMode.TEXT or not self._query.strip():
            return
        meaning = await by_meaning(context, understood, self._query)
        if meaning.model is None and self._mode is SearchMode.VECTOR:
            failed = meaning.limited_by is SearchLimit.PROVIDER_FAILED
            raise Unavailable(
                impossible(meaning),
                reason="provider_error" if failed else "not_configured",
                path=("retrieval", "mode"),
            )
        self._legs = replace(self._legs, model=meaning.model, vector=meaning.vector)
        self._meaning = meaning

    @property
    def report(self) -> dict[str, Any]:
        """How it was looked for, as RetrievalReport is made of it."""
        limit = self._meaning.limited_by
        return {
            "mode": (self._mode if limit is None else SearchMode.TEXT).value,
            "limited_by": None if limit is None else limit.value,
            "notice": self._meaning.notice,
            "model_id": self._meaning.model,
        }

    async def _check_documents(self, session: Any) -> None:
        if not self._documents:
            return
        live = await repository.live_documents(session, self._documents)
        missing = [
            Missing("document", ("retrieval", "document_ids", str(n)))
            for n, one in enumerate(self._documents)
            if one not in live
        ]
        if missing:
            raise missing[0] if len(missing) == 1 else Several(missing)

    async def passages(self, session: Any) -> list[Passage]:
        """The best chunks, of each document one before a second of any.

        A document that is being cut anew is quoted as it was, and its chunk is not named.
        """
        if not self._legs.text and self._legs.model is None:
            return []
        narrow = None
        if self._documents:
            documents = self._documents
            narrow = lambda source: source.c.id.in_(documents)  # noqa: E731
        hits = await repository.search_passages(session, self._query, self._legs, narrow)
        chosen = _chosen(hits, self._first)
        held = await repository.held_documents(session, {hit.id for hit, _ in chosen})
        found = await repository.chunk_places(session, [chunk for _, chunk in chosen])
        return [
            Passage(
                document_id=hit.id,
                chunk_id=chunk if hit.id in held else None,
                quote=found[chunk].content,
                start=found[chunk].start,
                end=found[chunk].end,
                score=hit.score,
            )
            for hit, chunk in chosen
            if chunk in found
        ]


def _chosen(hits: list[Hit], first: int) -> list[tuple[Hit, Any]]:
    """Chunks of hits: the best of each, then the second of each, and so on."""
    rounds = max((len(hit.passages) for hit in hits), default=0)
    ordered = [
        (hit, hit.passages[turn].chunk_id)
        for turn in range(rounds)
        for hit in hits
        if turn < len(hit.passages)
    ]
    return ordered[:first]


def _wrong(field: str, rule: str, message: str) -> Invalid:
    return Invalid([Violation(("retrieval", field), rule, message)])
