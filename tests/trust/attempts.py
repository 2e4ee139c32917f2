"""Inputs of mutations that name somebody else's rows, drawn from the schema.

Nothing is listed here: which arguments take ids is read from the types, and of which type an id
must be is learned from the problem that a bad one gets. Ids are references until they are sent, so
that one attempt can be made with the ids of rows that exist and with ids of nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLList,
    GraphQLObjectType,
    get_named_type,
    get_nullable_type,
    is_leaf_type,
    is_required_input_field,
)
from hypothesis import strategies as st

from tests.edge.inputs import SCHEMA, Place, input_type, is_chosen, mutations, places
from tests.references import reference

DEEPEST = 4
"""Levels of optional inputs: filters hold filters."""
TEXTS = ["TEXT", "KEY"]
VALUES: Mapping[str, list[Any]] = {
    "Int": [0, 1, 2],
    "BigInt": ["1"],
    "Float": [0.5],
    "Boolean": [True, False],
    "DateTime": ["2030-01-01T00:00:00Z", "2020-01-01T00:00:00Z"],
    "JSON": [{}, {"a": 1}],
}
UNUSED = {"clientMutationId"}

Kinds = Mapping[Place, frozenset[str]]
"""The types that an id in a place may be of; one, if that could be learned."""


@dataclass(frozen=True)
class Attempt:
    """A mutation whose input names at least one row of somebody else."""

    mutation: str
    input: dict[str, Any]


def id_places(mutation: str) -> list[Place]:
    """Where a mutation takes the id of a row that is there."""
    return [place for place in places(mutation, "ID") if not is_chosen(mutation, place)]


ATTACKED = sorted(name for name in mutations() if id_places(name))


def document(mutation: str) -> str:
    """The mutation, showing all that its payload can show without another row."""
    payload = get_named_type(mutations()[mutation].type)
    assert isinstance(payload, GraphQLObjectType)
    shown = "problems { __typename code message path ... on ValidationProblem { rule bound }"
    shown += " ... on Conflict { currentVersion current { id } } }"
    for name, field in payload.fields.items():
        kind = get_named_type(field.type)
        if isinstance(kind, GraphQLObjectType):
            leaves = [one for one, about in kind.fields.items() if _is_leaf(about)]
            shown += f" {name} {{ {' '.join(leaves)} }}"
        elif is_leaf_type(kind):
            shown += f" {name}"
    return (
        f"mutation($input: {input_type(mutation).name}!)"
        f" {{ {mutation}(input: $input) {{ {shown} }} }}"
    )


def _is_leaf(field: Any) -> bool:
    required = any(
        str(one.type).endswith("!") and not one.default_value for one in field.args.values()
    )
    return is_leaf_type(get_named_type(field.type)) and not required


def probe(mutation: str, known: Mapping[Place, str]) -> dict[str, Any]:
    """An input with an id in every place: of its type where that is known, else nonsense."""
    given = input_type(mutation)
    wanted = frozenset(id_places(mutation))

    def filled(type_: GraphQLInputObjectType, at: Place) -> dict[str, Any]:
        return {
            name: value(field.type, (*at, name), name)
            for name, field in type_.fields.items()
            if is_required_input_field(field)
            or any(place[: len(at) + 1] == (*at, name) for place in wanted)
        }

    def value(type_: GraphQLInputType, at: Place, name: str) -> Any:
        kind: Any = get_nullable_type(type_)
        if isinstance(kind, GraphQLList):
            return [value(kind.of_type, at, name)]
        if isinstance(kind, GraphQLInputObjectType):
            return filled(kind, at)
        if isinstance(kind, GraphQLEnumType):
            return next(iter(kind.values))
        if kind.name == "ID":
            return reference("missing_id", known[at], 0) if at in known else "nonsense"
        return VALUES.get(kind.name, TEXTS)[0]

    return filled(given, ())


@st.composite
def attempts(draw: st.DrawFn, mutation: str, kinds: Kinds) -> Attempt:
    """An input with a stranger's id in one of its places, and whatever else."""
    target = draw(st.sampled_from(sorted(kinds)))

    def filled(type_: GraphQLInputObjectType, at: Place) -> dict[str, Any]:
        values = {}
        for name, field in type_.fields.items():
            place = (*at, name)
            needed = is_required_input_field(field) or target[: len(place)] == place
            if is_chosen(mutation, place) or name in UNUSED:
                continue
            if needed or (len(place) < DEEPEST and draw(st.integers(0, 3)) == 0):
                values[name] = value(field.type, place)
        return values

    def value(type_: GraphQLInputType, at: Place) -> Any:
        kind: Any = get_nullable_type(type_)
        if isinstance(kind, GraphQLList):
            return [value(kind.of_type, at) for _ in range(draw(st.integers(1, 2)))]
        if isinstance(kind, GraphQLInputObjectType):
            return filled(kind, at)
        if isinstance(kind, GraphQLEnumType):
            return draw(st.sampled_from(sorted(kind.values)))
        if kind.name == "ID":
            whose = "foreign_id"
            if at != target:
                whose = draw(st.sampled_from(["id", "id", "foreign_id"]))
            key = draw(st.sampled_from(sorted(kinds[at])))
            return reference(whose, key, draw(st.integers(0, 9)))
        return draw(st.sampled_from(VALUES.get(kind.name, TEXTS)))

    return Attempt(mutation, filled(input_type(mutation), ()))


@dataclass(frozen=True)
class IdArgument:
    """An argument that takes an id, of a field that reads."""

    type: str
    field: str
    name: str

    def __str__(self) -> str:
        return f"{self.type}.{self.field}({self.name})"


def id_arguments(*, subscriptions: bool) -> list[IdArgument]:
    """The arguments of all fields of all types that take ids, those of mutations left out."""
    roots = {SCHEMA.subscription_type} if subscriptions else set(SCHEMA.type_map.values())
    roots -= {SCHEMA.mutation_type, *(() if subscriptions else (SCHEMA.subscription_type,))}
    return [
        IdArgument(type_.name, name, argument)
        for type_ in sorted(roots, key=str)
        if isinstance(type_, GraphQLObjectType)
        for name, field in type_.fields.items()
        for argument, about in field.args.items()
        if get_named_type(about.type).name == "ID"
    ]


def asking(argument: IdArgument, key: str) -> tuple[str, dict[str, Any]]:
    """An operation with a stranger's id in an argument, and ids of one's own in those it needs."""
    type_ = SCHEMA.type_map[argument.type]
    assert isinstance(type_, GraphQLObjectType)
    field = type_.fields[argument.field]
    given, variables = [], {}
    for name, about in field.args.items():
        kind = get_named_type(about.type)
        if name == argument.name:
            value: Any = reference("foreign_id", key, 0)
        elif kind.name == "ID" and str(about.type).endswith("!"):
            value = reference("id", key_of(name), 0)
        else:
            continue
        given.append((name, str(about.type)))
        variables[name] = [value] if "[" in str(about.type) else value
    declared = ", ".join(f"${name}: {kind}" for name, kind in given)
    used = ", ".join(f"{name}: ${name}" for name, _ in given)
    asked = f"{argument.field}({used}) {_leaves(get_named_type(field.type))}"
    if type_ is SCHEMA.query_type:
        return f"query({declared}) {{ {asked} }}", variables
    if type_ is SCHEMA.subscription_type:
        return f"subscription({declared}) {{ {asked} }}", variables
    variables["own"] = reference("id", key_of(argument.type), 0)
    inner = f"... on {argument.type} {{ {asked} }}"
    return f"query($own: ID!, {declared}) {{ node(id: $own) {{ {inner} }} }}", variables


def key_of(name: str) -> str:
    """The key of a type, by its name or by that of an argument that takes its id."""
    plain = name.removesuffix("Id")
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in plain).removeprefix("_")


def _leaves(type_: Any) -> str:
    if is_leaf_type(type_):
        return ""
    if "nodes" in type_.fields:
        return f"{{ totalCount nodes {_leaves(get_named_type(type_.fields['nodes'].type))} }}"
    return f"{{ {' '.join(name for name, about in type_.fields.items() if _is_leaf(about))} }}"
