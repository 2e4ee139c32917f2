"""The fields that search: their arguments, how the legs are chosen, and pages by what was seen.

A page goes on after all hits that its cursor knows: the cursor holds a few bytes of each. So no hit
comes twice and none is passed over, whatever was written, deleted or embedded between two pages.
"""

import asyncio
import base64
import binascii
import hashlib
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import orjson
import strawberry
from sqlalchemy import true
from strawberry.annotation import StrawberryAnnotation
from strawberry.types.arguments import StrawberryArgument

from db.base import Base
from db.fusion import K
from db.repositories.knowledge_search import Hit, Legs, understand
from schema.context import Context, Info
from schema.errors import ErrorCode, RequestError, bad_input
from schema.filter_types import FilterTypes
from schema.filters import Binder, Condition
from schema.meaning import SearchLimit, by_meaning, impossible
from schema.mirror import Mirror
from schema.relation_fields import Relation, RelationField
from schema.scalars import clean_text

MAX_QUERY_CHARS = 1_000
MAX_FIRST = 100
DEFAULT_FIRST = 20
MAX_WINDOW = 500
DEFAULT_WINDOW = 100
MAX_WEIGHT = 1_000.0
SEEN_BYTES = 6
"""Of the random end of an id: two of 500 are the same once in two billion searches."""
MAX_SEEN = 4 * MAX_WINDOW
"""Hits that a cursor knows: those of two full windows, and as many that went between the pages."""
MAX_CURSOR_CHARS = MAX_SEEN * SEEN_BYTES * 2
"""Base64 of base64, which is 16/9 as long, and the signature."""


@strawberry.enum(description="How to look for something.")
class SearchMode(Enum):
    """By words, by meaning, or by both."""

    HYBRID = strawberry.enum_value(
        "hybrid", description="By words and by meaning, fused by their ranks."
    )
    TEXT = strawberry.enum_value("text", description="By words alone.")
    VECTOR = strawberry.enum_value("vector", description="By meaning alone.")


@dataclass(frozen=True)
class Searched:
    """A page of hits."""

    hits: Sequence[Hit]
    cursors: Sequence[str]
    total: int
    more: bool
    continued: bool
    mode: SearchMode
    model: str | None
    limited_by: SearchLimit | None
    notice: str | None


@dataclass(frozen=True)
class Asked:
    """The checked arguments of a search."""

    query: str
    mode: SearchMode
    condition: Condition | None
    first: int
    legs: Legs
    signature: str
    seen: frozenset[bytes]
    continued: bool
    way: tuple[Legs, SearchLimit | None, str | None] | None = None
    """How to look, once it is prepared; why not by vectors, and the same in words."""

    async def search(self, info: Info, find: Callable[..., Awaitable[list[Hit]]]) -> Searched:
        """Look, as far as there is something to look with. Raises RequestError."""
        context = info.context
        assert self.way is not None
        legs, limited_by, notice = self.way
        narrow = None
        values: Mapping[str, object] = {}
        condition = self.condition
        if condition is not None:
            clause = condition.clause
            narrow = lambda source: clause(source, Binder())  # noqa: E731
            values = {f"v{n}": value for n, value in enumerate(condition.values)}
        ranked = await find(context.session, self.query, legs, narrow, values)
        left = [hit for hit in ranked if _trace(hit) not in self.seen]
        page = left[: self.first]
        seen = bytearray(b"".join(sorted(self.seen)))
        cursors = []
        for hit in page:
            seen += _trace(hit)
            cursors.append(_cursor(self.signature, bytes(seen)))
        mode = SearchMode.TEXT if legs.model is None else self.mode
        if legs.model is not None and not legs.text:
            mode = SearchMode.VECTOR
        return Searched(
            page,
            cursors,
            len(ranked),
            len(left) > len(page),
            self.continued,
            mode,
            legs.model,
            limited_by,
            notice,
        )

    async def prepare(self, context: Context) -> tuple[Legs, SearchLimit | None, str | None]:
        """How to look, for which the provider may have to be asked. Raises RequestError."""
        async with context.aside() as session:
            understood = await understand(session, self.query)
        text = self.mode is not SearchMode.VECTOR and understood.has_words
        legs = replace(self.legs, text=text)
        if self.mode is SearchMode.TEXT:
            if not text:
                raise _no_words()
            return legs, None, None
        meaning = await by_meaning(context, understood, self.query)
        legs = replace(legs, model=meaning.model, vector=meaning.vector)
        if legs.model is None and self.mode is SearchMode.VECTOR:
            raise RequestError(impossible(meaning), ErrorCode.PROVIDER_UNAVAILABLE)
        if legs.model is None and not text:
            raise _no_words()
        return legs, meaning.limited_by, meaning.notice


def _no_words() -> RequestError:
    return bad_input("`query` needs a word to look for: it has none, or only such to leave out.")


def _trace(hit: Hit) -> bytes:
    return hit.id.bytes[-SEEN_BYTES:]


def _cursor(signature: str, seen: bytes) -> str:
    content = orjson.dumps([signature, base64.b64encode(seen).decode()])
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _seen(signature: str, text: str | None) -> frozenset[bytes]:
    """What a cursor has seen. Raises RequestError (BAD_CURSOR)."""
    if text is None:
        return frozenset()
    try:
        if len(text) > MAX_CURSOR_CHARS:
            raise ValueError("too long")
        content = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        given, seen = orjson.loads(content)
        if given != signature:
            raise ValueError("another search")
        traces = base64.b64decode(seen, validate=True)
        if len(traces) % SEEN_BYTES:
            raise ValueError("cut off")
    except (ValueError, TypeError, binascii.Error):
        message = "`after` is not a cursor of this search with these arguments."
        raise RequestError(message, ErrorCode.BAD_CURSOR) from None
    return frozenset(
        traces[start : start + SEEN_BYTES] for start in range(0, len(traces), SEEN_BYTES)
    )


class SearchField(RelationField):
    """A root field that searches the rows of a model."""

    filters: FilterTypes

    def __init__(
        self,
        model: type[Base] | Any,
        connection: type | None = None,
        answer: Callable[[Info, Asked], Awaitable[Any]] | None = None,
        description: str | None = None,
    ) -> None:
        """`answer` makes a page of the connection of what was asked."""
        relation = (
            model
            if isinstance(model, Relation)
            else Relation(model, key="", match=lambda _target, _key: true(), root=True)
        )
        super().__init__(relation, description)
        self.connection = connection
        self.answer = answer

    def finish(
        self, types: Mapping[Mirror, FilterTypes], connections: Mapping[Mirror, type]
    ) -> Any:
        self.filters = types[self.relation.target]
        return self._finished(self.connection, _arguments(self.filters))

    def get_result(self, source: Any, info: Any, args: list[Any], kwargs: Any) -> Any:
        context: Context = info.context
        context.require(self.relation.target.access)
        assert self.answer is not None
        asked = self.asked(kwargs)
        # Begun before any field of the operation reads: none of them holds a connection meanwhile.
        prepared = asyncio.create_task(asked.prepare(context))
        context.session.after(prepared)
        return self._answered(info, asked, prepared)

    async def _answered(self, info: Any, asked: "Asked", prepared: asyncio.Task[Any]) -> Any:
        assert self.answer is not None
        return await self.answer(info, replace(asked, way=await prepared))

    def asked(self, given: Mapping[str, Any]) -> Asked:
        """The checked arguments. Raises RequestError."""
        query = _checked_query(given["query"])
        first = _bounded("first", given, DEFAULT_FIRST, 0, MAX_FIRST)
        window = _bounded("window", given, DEFAULT_WINDOW, 1, MAX_WINDOW)
        k = _bounded("k", given, K, 1, 10_000)
        text_weight = _weight("text_weight", given)
        vector_weight = _weight("vector_weight", given)
        mode: SearchMode = given.get("mode") or SearchMode.HYBRID
        if mode is SearchMode.HYBRID and not text_weight and not vector_weight:
            raise bad_input("One of `textWeight` and `vectorWeight` must be more than 0.")
        if mode is not SearchMode.HYBRID:
            text_weight = vector_weight = 1.0
        value = given.get("filter")
        condition = None if value is None else self.filters.compile(value)
        legs = Legs(
            text=True,
            model=None,
            text_weight=text_weight,
            vector_weight=vector_weight,
            k=k,
            window=window,
        )
        shape = None if condition is None else (condition.shape, condition.values)
        facts = repr((self.relation.target.key, query, mode, k, window, legs, shape))
        signature = hashlib.sha256(facts.encode()).hexdigest()[:16]
        after = given.get("after")
        return Asked(
            query, mode, condition, first, legs, signature, _seen(signature, after),
            after is not None,
        )  # fmt: skip


def search(
    model: type[Base],
    connection: type,
    answer: Callable[[Info, Asked], Awaitable[Any]],
    *,
    description: str,
) -> Any:
    """A root field that searches the rows of a model."""
    return SearchField(model, connection, answer, description)


def _checked_query(query: str) -> str:
    try:
        clean_text(query)
    except ValueError as error:
        raise bad_input(f"`query`: {error}") from None
    if not query.strip():
        raise bad_input("`query` must not be empty.")
    if len(query) > MAX_QUERY_CHARS:
        raise bad_input(f"`query` has at most {MAX_QUERY_CHARS} characters.")
    return query


def _bounded(name: str, given: Mapping[str, Any], default: int, low: int, high: int) -> int:
    value = given.get(name)
    if value is None:
        return default
    if not low <= value <= high:
        raise bad_input(f"`{name}` must be between {low} and {high}.")
    return int(value)


def _weight(name: str, given: Mapping[str, Any]) -> float:
    value = given.get(name)
    if value is None:
        return 1.0
    if not (math.isfinite(value) and 0 <= value <= MAX_WEIGHT):
        label = "textWeight" if name == "text_weight" else "vectorWeight"
        raise bad_input(f"`{label}` must be between 0 and {MAX_WEIGHT:.0f}.")
    return float(value)


def _arguments(types: FilterTypes) -> list[StrawberryArgument]:
    return [
        _argument(
            "query", str,
            "What to look for: words that must all be there, `or` between alternatives, a phrase in"
            " quotes, a `-` before what must not be there. By meaning, the whole as it is.",
            required=True,
        ),
        _argument("mode", SearchMode, "How to look; HYBRID when it is not said."),
        _argument("filter", types.filter, "Which rows to look at."),
        _argument("first", int, f"How many hits, between 0 and {MAX_FIRST}; 20 by default."),
        _argument("after", str, "A cursor: only hits that are not at or before it."),
        _argument("text_weight", float, "What the rank by words counts; 1 by default."),
        _argument("vector_weight", float, "What the rank by meaning counts; 1 by default."),
        _argument("k", int, f"The constant of the fusion; {K} by default. The smaller, the more"
                  " the first places count."),
        _argument("window", int, "How many of the best by words, and by meaning, are fused,"
                  f" between 1 and {MAX_WINDOW}; {DEFAULT_WINDOW} by default."),
    ]  # fmt: skip


def _argument(
    name: str, annotation: Any, description: str, *, required: bool = False
) -> StrawberryArgument:
    return StrawberryArgument(
        python_name=name,
        graphql_name=None,
        type_annotation=StrawberryAnnotation(annotation if required else annotation | None),
        description=description,
        default=strawberry.UNSET if required else None,
    )
