"""The inputs of every mutation, made from the schema: good values, and one bad value in a place."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, cast

from graphql import (
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputField,
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLList,
    GraphQLObjectType,
    get_named_type,
    get_nullable_type,
    is_required_input_field,
)

from schema import build_schema
from schema.mirror import MIRRORS

SCHEMA = build_schema()._schema
_NAMED = {
    "assigneeId": "worker",
    "conversationId": "conversation",
    "createdById": "worker",
    "dependsOnId": "other_task",
    "dependsOnIds": "other_task",
    "documentIds": "document",
    "leafId": "message",
    "messageId": "message",
    "projectId": "project",
    "replyId": "message",
    "taskId": "task",
    "workerId": "worker",
}
_counter = itertools.count()

Place = tuple[str, ...]
"""The way to a field from the input: names; lists on the way have one item."""


def mutations() -> dict[str, GraphQLField]:
    """Every mutation by its name."""
    assert SCHEMA.mutation_type is not None
    fields: dict[str, GraphQLField] = SCHEMA.mutation_type.fields
    return fields


def input_type(mutation: str) -> GraphQLInputObjectType:
    """What the one argument of a mutation is."""
    return cast(GraphQLInputObjectType, get_named_type(mutations()[mutation].args["input"].type))


def document(mutation: str, written: str | None = None) -> str:
    """The mutation with its input as the variable `input`, or as it is written."""
    payload = cast(GraphQLObjectType, get_named_type(mutations()[mutation].type))
    shown = [
        f"{name} {{ id }}"
        for name, field in payload.fields.items()
        if isinstance(kind := get_named_type(field.type), GraphQLObjectType) and "id" in kind.fields
    ]
    problems = "problems { code message path ... on ValidationProblem { rule bound } }"
    head = "mutation" if written else f"mutation($input: {input_type(mutation).name}!)"
    return (
        f"{head} {{ {mutation}(input: {written or '$input'}) {{ {' '.join(shown)} {problems} }} }}"
    )


def places(mutation: str, *types: str) -> Iterator[Place]:
    """The fields of a mutation's input that have one of the types, those in lists included."""
    yield from _places(input_type(mutation), types)


def _places(given: GraphQLInputObjectType, types: tuple[str, ...]) -> Iterator[Place]:
    for name, field in given.fields.items():
        kind = get_named_type(field.type)
        if kind.name in types:
            yield (name,)
        if isinstance(kind, GraphQLInputObjectType):
            yield from ((name, *rest) for rest in _places(kind, types))


def is_chosen(mutation: str, place: Place) -> bool:
    """Whether the id is that of what is made."""
    makes = mutation.startswith(("create", "append", "send"))
    return place[-1] in ("newId", "replyId") or (place[-1] == "id" and makes)


def entity(mutation: str, name: str) -> str:
    """The key of the type that an id in an input is of."""
    if name in _NAMED:
        return _NAMED[name]
    assert name in ("id", "newId", "parentId"), f"Say in _NAMED what {name} is the id of."
    payload = cast(GraphQLObjectType, get_named_type(mutations()[mutation].type))
    keys = {mirror.name: mirror.key for mirror in MIRRORS.values()}
    kinds = (get_named_type(field.type).name for field in payload.fields.values())
    return next(keys[kind] for kind in kinds if kind in keys)


def filled(mutation: str, place: Place, value: object, own: Mapping[str, str]) -> dict[str, Any]:
    """An input with what it must have, and the value in its place. `own` has an id of each type."""
    return _filled(mutation, input_type(mutation), place, value, own)


def _filled(
    mutation: str,
    given: GraphQLInputObjectType,
    place: Place,
    value: object,
    own: Mapping[str, str],
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, field in given.fields.items():
        if place and name == place[0]:
            kind = get_named_type(field.type)
            if len(place) > 1:
                inner = cast(GraphQLInputObjectType, kind)
                values[name] = _listed(field, _filled(mutation, inner, place[1:], value, own))
            else:
                values[name] = _listed(field, value)
        elif is_required_input_field(field):
            values[name] = _sample(mutation, name, field.type, own)
    return values


def _listed(field: GraphQLInputField, value: object) -> object:
    return [value] if isinstance(get_nullable_type(field.type), GraphQLList) else value


def _sample(mutation: str, name: str, required: GraphQLInputType, own: Mapping[str, str]) -> object:
    kind: Any = get_nullable_type(required)
    if isinstance(kind, GraphQLList):
        return [_sample(mutation, name, kind.of_type, own)]
    if isinstance(kind, GraphQLInputObjectType):
        return _filled(mutation, kind, (), None, own)
    if isinstance(kind, GraphQLEnumType):
        return next(reversed(kind.values))
    match kind.name, name:
        case "ID", _:
            return own[entity(mutation, name)]
        case "String", "key":
            return f"K{next(_counter)}"
        case "String", "email":
            return f"nobody{next(_counter)}@example.org"
        case "String", _:
            return f"text {next(_counter)}"
        case "Int", _:
            return 1
    raise LookupError(f"No value is known for {name} of type {required}.")
