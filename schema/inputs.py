"""Inputs mirrored from tables: the column's own constraints check what a client sends.

    @create_input(work.Task)
    class CreateTaskInput(CreateInput):
        project_id: auto
        title: auto

A create input asks for the columns that have no default; an update input asks for none but the id.
`checked()` gives the values by column, or refuses with one violation per bad field.
"""

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, partial
from typing import Annotated, Any, Protocol, TypeVar
from uuid import RFC_4122, UUID

import strawberry
from pydantic import TypeAdapter, ValidationError
from strawberry.types.unset import UNSET

from db.base import Base, column_fields
from db.refusals import Invalid, Violation
from schema import ids
from schema.mirror import bare, describe, graphql_type, referred, shown_columns
from schema.scalars import clean_text
from schema.violations import MISSING, violations

T = TypeVar("T", bound=type)

MAX_KEY_CHARS = 200


@strawberry.input
class MutationInput:
    """What every mutation takes."""

    client_mutation_id: str | None = strawberry.field(
        default=UNSET, description="Given back in the payload as it is."
    )


@strawberry.input
class OnceInput(MutationInput):
    """The input of a mutation that is done once, however often it is sent."""

    idempotency_key: str | None = strawberry.field(
        default=UNSET,
        description=(
            "Chosen by the client, at most 200 characters. Sent again with the same input within"
            " a day, it gives the first answer and changes nothing."
        ),
    )


@strawberry.input
class CreateInput(OnceInput):
    """The input of a create."""

    id: strawberry.ID | None = strawberry.field(
        default=UNSET,
        description="Chosen by the client: a fresh UUIDv7 as a global id; else the server chooses.",
    )


@strawberry.input
class ChangeInput(OnceInput):
    """The input of an update, a delete or a restore."""

    id: strawberry.ID = strawberry.field(description="The id of the row.")
    expected_version: int | None = strawberry.field(
        default=UNSET,
        description="The version that the caller has seen; another one is a conflict.",
    )


class Expecting(Protocol):
    """An input that may say which version its sender has seen."""

    expected_version: int | None


def expected_version(input: Expecting) -> int | None:
    """The version that a change is based on; None when the caller does not say."""
    version = input.expected_version
    return None if version is UNSET else version


@dataclass(frozen=True)
class _Source:
    """A column that an input field mirrors."""

    model: type[Base]
    name: str


def create_input(
    *models: type[Base], description: str | None = None, optional: Collection[str] = ()
) -> Callable[[T], T]:
    """An input whose `auto` fields mirror columns; those with a default may be left out.

    So may the `optional` ones, for which the repository has a value.
    """
    return _mirrored(models, optional=optional, description=description)


def update_input(*models: type[Base], description: str | None = None) -> Callable[[T], T]:
    """An input whose `auto` fields mirror columns; all may be left out."""
    return _mirrored(models, optional=None, description=description)


def _mirrored(
    models: tuple[type[Base], ...], *, optional: Collection[str] | None, description: str | None
) -> Callable[[T], T]:
    def declare(cls: T) -> T:
        annotations = dict(inspect.get_annotations(cls))
        sources: dict[str, _Source] = {}
        for name in shown_columns(cls):
            source = _source(models, name)
            sources[name] = source
            field = column_fields(source.model)[name]
            type_ = graphql_type(source.model, name)
            required = optional is not None and name not in optional and field.is_required()
            annotations[name] = type_ if required else type_ | None
            text = describe(source.model, name)
            value = (
                strawberry.field(description=text)
                if required
                else strawberry.field(default=UNSET, description=text)
            )
            setattr(cls, name, value)
        cls.__annotations__ = annotations
        setattr(cls, "sources", {**getattr(cls, "sources", {}), **sources})  # noqa: B010  # a class of any type
        text = description or " ".join((cls.__doc__ or "").split())
        return strawberry.input(cls, description=text)

    return declare


def _source(models: tuple[type[Base], ...], name: str) -> _Source:
    for model in models:
        if name in column_fields(model):
            return _Source(model, name)
    raise LookupError(f"None of the tables has a column {name}.")


@cache
def _adapter(model: type[Base], name: str) -> TypeAdapter[Any]:
    field = column_fields(model)[name]
    annotated: Any = Annotated[(field.annotation, *field.metadata)]
    return TypeAdapter(annotated)


def checked(value: Any, *, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """The values that a mirrored input gives, by column.

    Raises:
        Invalid: one violation for each field that breaks a rule of its column.
    """
    values, found = inspected(value, path=path)
    if found:
        raise Invalid(found)
    return values


def inspected(value: Any, *, path: tuple[str, ...] = ()) -> tuple[dict[str, Any], list[Violation]]:
    """The good values of an input, by column, and a violation for each bad one."""
    values: dict[str, Any] = {}
    found: list[Violation] = []
    for name, source in value.sources.items():
        given = getattr(value, name)
        if given is UNSET:
            continue
        try:
            values[name] = _checked_value(source, given, (*path, name))
        except Invalid as refused:
            found.extend(refused.violations)
    return values, found


def _checked_value(source: _Source, given: Any, path: tuple[str, ...]) -> Any:
    annotation = bare(column_fields(source.model)[source.name].annotation)
    for text in _texts(given):
        check_text(text, path)
    if annotation is UUID and given is not None:
        key = referred(source.model, source.name).key
        return reference(key, given, path)
    try:
        found = _adapter(source.model, source.name).validate_python(given)
    except ValidationError as error:
        if given is None:
            raise Invalid([Violation(path, "not_null", MISSING)]) from None
        raise Invalid(violations(error, path)) from None
    return _plain(found)


def _plain(value: Any) -> Any:
    """Enum members as the texts that the tables hold."""
    if isinstance(value, StrEnum):
        return value.value
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def all_of(*checks: Callable[[], Any]) -> list[Any]:
    """The results of several checks.

    Raises:
        Invalid: the violations that all of them found together.
    """
    results: list[Any] = []
    found: list[Violation] = []
    for check in checks:
        try:
            results.append(check())
        except Invalid as refused:
            found.extend(refused.violations)
    if found:
        raise Invalid(found)
    return results


def checked_items(
    items: Sequence[Any],
    field: str,
    *,
    longest: int,
    check: Callable[[Any, tuple[str, ...]], Any] = lambda item, path: checked(item, path=path),
) -> list[Any]:
    """The values of each input in a list; the paths of violations carry the index.

    Raises:
        Invalid: as `checked`, for all items together; or there are more than `longest`.
    """
    if len(items) > longest:
        message = f"A list of at most {longest} items is needed."
        raise Invalid([Violation((field,), "max_items", message, str(longest))])
    return all_of(*(partial(check, item, (field, str(n))) for n, item in enumerate(items)))


def check_text(text: str, path: tuple[str, ...]) -> str:
    """The text, when PostgreSQL can store it.

    Raises:
        Invalid: with the rule `characters`.
    """
    try:
        return clean_text(text)
    except ValueError as error:
        raise Invalid([Violation(path, "characters", str(error))]) from None


def reference(key: str, text: str, path: tuple[str, ...] = ("id",)) -> UUID:
    """The UUID in a global id of the type whose key is `key`.

    Raises:
        Invalid: with the rule `id`.
    """
    try:
        return ids.decode_as(key, text)
    except ids.BadId as error:
        raise Invalid([Violation(path, "id", str(error), key)]) from None


def new_id(key: str, text: str | None, path: tuple[str, ...] = ("id",)) -> UUID | None:
    """The id that a client chose for what it creates; None when it left the choice to us.

    Raises:
        Invalid: it is not a UUIDv7 (RFC 9562) of the right type.
    """
    if text is None or text is UNSET:
        return None
    value = reference(key, text, path)
    if value.variant != RFC_4122 or value.version != 7:
        raise Invalid([Violation(path, "uuidv7", "A new id must be a UUIDv7.", "7")])
    return value
