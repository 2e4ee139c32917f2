"""The scalars beyond the GraphQL specification: DateTime, JSON and BigInt."""

import re
from datetime import UTC, datetime
from typing import NewType

import strawberry
from graphql import GraphQLError, ValueNode, value_from_ast_untyped
from orjson import Fragment
from strawberry.types.scalar import ScalarDefinition

BigInt = NewType("BigInt", int)
JSON = NewType("JSON", object)

MAX_JSON_DEPTH = 32
"""Nesting that a JSON value may have; the tables hold the same bound."""

_RFC3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})", re.ASCII
)
_BIG_INT = re.compile(r"-?\d{1,19}", re.ASCII)


def clean_text(text: str) -> str:
    """The text itself, when PostgreSQL can store it.

    Raises:
        ValueError: it holds a NUL or a lone surrogate.
    """
    if "\0" in text:
        raise ValueError("Text must not contain the NUL character (U+0000).")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("Text must not contain lone surrogates.") from None
    return text


def clean_json(value: object, depth: int = 0) -> object:
    """The value itself, when jsonb can store it.

    Raises:
        ValueError: nested deeper than `MAX_JSON_DEPTH`, or a text in it cannot be stored.
    """
    if isinstance(value, str):
        clean_text(value)
    elif isinstance(value, dict | list):
        if depth == MAX_JSON_DEPTH:
            raise ValueError(f"JSON must not be nested deeper than {MAX_JSON_DEPTH} levels.")
        for key in value if isinstance(value, dict) else ():
            clean_text(key)
        for item in value.values() if isinstance(value, dict) else value:
            clean_json(item, depth + 1)
    return value


def serialize_datetime(value: datetime) -> str:
    """RFC 3339 in UTC with `Z`, microseconds only where there are some."""
    return value.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def in_utc(moment: datetime) -> datetime:
    """The same moment in UTC.

    Raises:
        ValueError: in UTC it is before the year 1 or after the year 9999.
    """
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("The moment is out of the calendar.") from None


def parse_datetime(value: object) -> datetime:
    """A moment from RFC 3339 text; the offset is required (RFC 3339 section 5.6).

    Raises:
        GraphQLError: another form, or a date that does not exist.
    """
    if isinstance(value, str) and _RFC3339.fullmatch(value):
        try:
            return in_utc(datetime.fromisoformat(value.upper()))
        except ValueError:
            pass
    raise GraphQLError("DateTime must be RFC 3339 with an offset, such as 2026-01-31T12:00:00Z.")


def parse_big_int(value: object) -> int:
    """A 64-bit integer from its decimal text or from an Int.

    Raises:
        GraphQLError: another form, or out of range.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str) and _BIG_INT.fullmatch(value):
        number = int(value)
    else:
        raise GraphQLError("BigInt must be a decimal integer, as a string or an Int.")
    if not -(2**63) <= number < 2**63:
        raise GraphQLError("BigInt must fit 64 bits.")
    return number


def parse_json(value: object) -> object:
    """A JSON value that jsonb can store.

    Raises:
        GraphQLError: it is nested too deeply or holds a text that cannot be stored.
    """
    try:
        return clean_json(value)
    except ValueError as error:
        raise GraphQLError(str(error)) from None


class JsonText(str):
    """A JSON value as PostgreSQL wrote it; it goes into the response unparsed."""

    __slots__ = ()


def serialize_json(value: object) -> object:
    """What orjson writes for a value of the scalar."""
    return Fragment(str(value)) if isinstance(value, JsonText) else value


def _json_literal(node: ValueNode, variables: dict[str, object] | None = None) -> object:
    return parse_json(value_from_ast_untyped(node, variables))


SCALARS: dict[object, ScalarDefinition] = {
    datetime: strawberry.scalar(
        name="DateTime",
        description="A moment in time: RFC 3339, answered in UTC with `Z`.",
        specified_by_url="https://www.rfc-editor.org/rfc/rfc3339",
        serialize=serialize_datetime,
        parse_value=parse_datetime,
    ),
    JSON: strawberry.scalar(
        name="JSON",
        description="Any JSON value (RFC 8259), at most 32 levels deep.",
        specified_by_url="https://www.rfc-editor.org/rfc/rfc8259",
        serialize=serialize_json,
        parse_value=parse_json,
        parse_literal=_json_literal,
    ),
    BigInt: strawberry.scalar(
        name="BigInt",
        description="A 64-bit integer, as decimal text because JavaScript numbers end at 2^53.",
        serialize=str,
        parse_value=parse_big_int,
    ),
}
"""What `strawberry.Schema(scalar_map=...)` takes."""
