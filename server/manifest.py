"""The manifest of trusted documents: a JSON file that a build of the clients writes.

Either ``{id: text}``, as graphql-codegen's client preset writes it, or what Apollo's
``generate-persisted-query-manifest`` writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten

import orjson

from server.documents import Documents
from server.failures import Failure
from server.requests import SHA256, hash_of, is_object
from server.startup import StartupError

__all__ = ["trust_manifest"]

APOLLO = "apollo-persisted-query-manifest"
SHOWN = 60  # characters of a document that a refusal quotes


def trust_manifest(documents: Documents, path: Path) -> None:
    """Prepare every document of the file. Raises StartupError, which names the file or the one
    that cannot be executed.
    """
    texts: dict[str, str] = {}
    for identifier, text in read_manifest(path):
        if texts.setdefault(identifier, text) != text:
            raise StartupError(f'{path} has two documents of the id "{identifier}".')
    for identifier, text in texts.items():
        prepared = documents.trust(identifier, text)
        if prepared.errors:
            quoted = shorten(text, SHOWN, placeholder="…")
            raise StartupError(
                f'The trusted document "{identifier}" ({quoted}) cannot be served: '
                f"{sentence(prepared.errors[0])}"
            )


def read_manifest(path: Path) -> Iterator[tuple[str, str]]:
    """Ids and texts as they stand in the file. Raises StartupError."""
    try:
        value: object = orjson.loads(path.read_bytes())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise StartupError(f"The trusted documents cannot be read: {path}: {reason}.") from None
    except orjson.JSONDecodeError as error:
        raise StartupError(f"{path} is not JSON: {error.msg}.") from None
    unknown = StartupError(f"{path} is no manifest of trusted documents that Engram knows.")
    entries: list[tuple[object, object]] = []
    if not is_object(value):
        raise unknown
    if value.get("format") == APOLLO:
        operations = value.get("operations")
        if value.get("version") != 1 or not isinstance(operations, list):
            raise unknown
        for operation in operations:
            if not is_object(operation):
                raise unknown
            entries.append((operation.get("id"), operation.get("body")))
    else:
        entries.extend(value.items())
    for identifier, text in entries:
        if not isinstance(identifier, str) or not isinstance(text, str) or not text.strip():
            raise unknown
        if identifier.startswith(SHA256) and identifier != SHA256 + hash_of(text):
            raise StartupError(f'{path}: "{identifier}" is not the hash of its document.')
        yield identifier.removeprefix(SHA256), text


def sentence(error: Failure) -> str:
    """What is wrong, and where in the document."""
    message = error["message"].rstrip(".")
    places = error.get("locations")
    where = f" (line {places[0]['line']}, column {places[0]['column']})" if places else ""
    return f"{message}{where}."
