"""A GraphQL request as it came, checked as far as one can without knowing the schema."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TypeGuard

import orjson

from server.failures import Failure, failure

__all__ = ["BadRequest", "GraphQLRequest", "find_nul", "hash_of", "is_deeper", "read_json"]

MAX_NAME = 255  # characters of an operation name
SHA256 = "sha256:"  # what an id begins with that is the hash of its document


class BadRequest(Exception):
    """A body that is not a GraphQL request; the message says what is wrong with it."""

    @property
    def failure(self) -> Failure:
        return failure(str(self), "BAD_REQUEST")


@dataclass(frozen=True, slots=True)
class GraphQLRequest:
    """What every transport hands over: a document and how to run it.

    Without a query, ``document_id`` says which document: its id in the manifest of trusted
    documents, or its hash. Beside a query it is the hash of that, by which to remember it.
    """

    query: str = ""
    operation_name: str | None = None
    variables: Mapping[str, object] = field(default_factory=dict)
    extensions: Mapping[str, object] = field(default_factory=dict)
    document_id: str | None = None

    @classmethod
    def read(cls, value: object) -> GraphQLRequest:
        """Read a parsed JSON value. Raises BadRequest naming the first bad member."""
        if not is_object(value):
            raise BadRequest("A GraphQL request is a JSON object.")
        extensions = value.get("extensions")
        if extensions is None:
            extensions = {}
        elif not is_object(extensions):
            raise BadRequest("extensions must be an object or null.")
        query = value.get("query")
        named = "documentId" in value or "persistedQuery" in extensions
        document_id = read_document_id(value, extensions) if named else None
        if query is None and document_id is not None:
            query = ""
        elif not isinstance(query, str):
            raise BadRequest("query must be a string.")
        elif not query.strip():
            raise BadRequest("query must not be empty.")
        elif document_id is not None and document_id != hash_of(query):
            raise BadRequest("sha256Hash is not the SHA-256 of the query.")
        name = value.get("operationName")
        if name is not None and not isinstance(name, str):
            raise BadRequest("operationName must be a string or null.")
        if name is not None and len(name) > MAX_NAME:
            raise BadRequest(f"operationName must be at most {MAX_NAME} characters.")
        variables = value.get("variables")
        if variables is not None and not is_object(variables):
            raise BadRequest("variables must be an object or null.")
        return cls(query, name, variables or {}, extensions, document_id)


def read_document_id(value: Mapping[str, object], extensions: Mapping[str, object]) -> str | None:
    """What stands for the document: ``documentId``, or the hash that Apollo's protocol sends.

    Raises BadRequest.
    """
    identifier = value.get("documentId")
    persisted = extensions.get("persistedQuery")
    if persisted is None:
        if identifier is None:
            return None
        if not isinstance(identifier, str):
            raise BadRequest("documentId must be a string.")
        if value.get("query") is not None:
            raise BadRequest("A request has a query or a documentId, not both.")
        return identifier.removeprefix(SHA256)
    if identifier is not None:
        raise BadRequest("A request has a documentId or a persistedQuery, not both.")
    if not is_object(persisted) or persisted.get("version") != 1:
        raise BadRequest("persistedQuery must be an object of version 1.")
    identifier = persisted.get("sha256Hash")
    if not isinstance(identifier, str):
        raise BadRequest("sha256Hash must be a string.")
    return identifier


def hash_of(text: str) -> str:
    """The SHA-256 of a document's text, in hexadecimal digits."""
    return sha256(text.encode()).hexdigest()


def is_object(value: object) -> TypeGuard[dict[str, object]]:
    return isinstance(value, dict)


def read_json(body: bytes | str, *, max_values: int) -> object:
    """Parse JSON strictly. Raises BadRequest.

    orjson refuses what Python's own parser lets through: NaN, Infinity, numbers too large for a
    double, lone surrogates, nesting deeper than 1,024. ``max_values`` bounds what comes after:
    checking a body's values against the schema takes far longer than reading them.
    """
    # Millions of small lists would have the collector look for garbage that cannot be there yet.
    collecting = gc.isenabled()
    gc.disable()
    try:
        value: object = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"The body is not valid JSON: {error.msg}.") from None
    finally:
        if collecting:
            gc.enable()
    # A value and what separates it from the next take two bytes.
    if len(body) > 2 * max_values and has_more_values(value, max_values):
        raise BadRequest(f"The body holds more than {max_values:,} values.")
    return value


def has_more_values(value: object, bound: int) -> bool:
    """Whether lists and objects hold more than so many values, all levels together."""
    count = 0
    todo = [value]
    while todo:
        value = todo.pop()
        if isinstance(value, list):
            count += len(value)
        elif is_object(value):
            count += len(value)
            value = value.values()
        else:
            continue
        if count > bound:
            return True
        todo.extend(value)
    return False


def is_deeper(value: object, levels: int) -> bool:
    """Whether lists and objects are nested in more than so many levels."""
    todo = [(value, 0)]
    while todo:
        value, depth = todo.pop()
        if isinstance(value, list) or is_object(value):
            if depth == levels:
                return True
            items = value.values() if is_object(value) else value
            todo.extend((item, depth + 1) for item in items)
    return False


def find_nul(variables: Mapping[str, object]) -> Failure | None:
    """The first string or key with a NUL character, which PostgreSQL cannot store."""
    todo: list[tuple[str, object]] = list(variables.items())
    while todo:
        place, value = todo.pop()
        if isinstance(value, str):
            if "\0" in value:
                return nul_failure(place)
        elif isinstance(value, list):
            todo.extend((f"{place}.{index}", item) for index, item in enumerate(value))
        elif is_object(value):
            if any("\0" in key for key in value):
                return nul_failure(place)
            todo.extend((f"{place}.{key}", item) for key, item in value.items())
    return None


def nul_failure(place: str) -> Failure:
    name, *path = place.split(".")
    where = f"Variable '${name}' has invalid value" + (f" at '{place}'" if path else "")
    return failure(
        f"{where}: text must not hold the character U+0000.",
        "BAD_USER_INPUT",
        variable=name,
        path=path,
    )
