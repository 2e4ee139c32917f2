"""A hypothesis strategy for valid queries, written from the schema.

It knows GraphQL and the API's conventions (connections, ids, filters), and no type by name: what
joins the schema joins the properties. Documents have aliases, repeated fields that merge,
fragments with and without names, variables, and @skip and @include.

Fields of one response key must agree (the rule is OverlappingFieldsCanBeMerged), so a key always
means the same field with the same arguments in the same type; directly under an interface, where
several types meet, keys carry the type's name.
"""

import json
from dataclasses import dataclass
from typing import Any

from graphql import (
    GraphQLArgument,
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLList,
    GraphQLObjectType,
    get_named_type,
    get_nullable_type,
    is_composite_type,
    is_required_argument,
    is_required_input_field,
)
from hypothesis import strategies as st

from schema import build_schema
from schema.mirror import MIRRORS, by_key
from tests.connections import Path, paths
from tests.factories import WORDS
from tests.filters import (
    NUMBERS,
    Draw,
    EnumLiteral,
    FilterWriter,
    an_id,
    an_order,
    chance,
    complete,
    order_argument,
)
from tests.references import Document, reference, signature

MAX_DEPTH = 5
"""Relation fields on a way from the root."""
MAX_FIELDS = 30
MAX_ROWS = 300
"""Rows at one place of the answer, when every page is full."""
PAGE = ("first", "last", "after", "before", "filter", "orderBy", "deleted")
"""The arguments of connections."""
SIZES = (2, 1, 3, 5, 5, 0)
DEFAULT_SIZE = 20
FAULTS: list[dict[str, Any]] = [
    {"first": -1},
    {"first": 1, "last": 1},
    {"last": 1_001},
    {"after": "nowhere"},
    {"filter": {"id": {"eq": None}}},
    {"filter": {"id": {"in": ["nobody"]}}},
]


@dataclass
class _Fragment:
    name: str
    depth: int
    rows: int


@dataclass(frozen=True)
class _Place:
    """Where a selection set stands."""

    depth: int
    rows: int
    shared: bool = False
    """Directly under an interface."""
    likely: tuple[str, ...] = ()
    """The types that an interface's rows probably have."""


@st.composite
def documents(
    draw: Draw, *, foreign: bool = False, faulty: bool = False, depth: int = MAX_DEPTH
) -> Document:
    """A query; with `foreign`, ids and cursors of somebody else are among its values.

    With `faulty`, some of the values are those that only a resolver can refuse.
    """
    return _Writer(draw, foreign=foreign, faulty=faulty).document(depth)


def literal(value: Any) -> str:
    """A value as a document writes it."""
    if isinstance(value, EnumLiteral):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


class _Writer:
    def __init__(self, draw: Draw, *, foreign: bool, faulty: bool) -> None:
        self._draw = draw
        self._foreign = foreign
        self._faulty = faulty
        self._schema = build_schema()._schema
        self._left = MAX_FIELDS
        self._variables: dict[str, tuple[str, Any]] = {}
        self._keys: dict[tuple[str, bool], dict[str, tuple[str, str]]] = {}
        self._fragments: dict[tuple[str, bool], list[_Fragment]] = {}
        self._definitions: list[str] = []

    def document(self, depth: int) -> Document:
        query = self._schema.query_type
        assert query is not None
        body = self._selections(query, _Place(depth, 1), more=(1, 2, 3))
        declared = ", ".join(f"${name}: {type_}" for name, (type_, _) in self._variables.items())
        text = f"query {f'({declared})' if declared else ''} {body}\n"
        values = {name: value for name, (_, value) in self._variables.items()}
        return Document(text + "\n".join(self._definitions), values)

    def _selections(self, type_: Any, place: _Place, more: tuple[int, ...] = (0, 1, 2, 3)) -> str:
        parts = [self._selection(type_, place)]
        for _ in range(self._draw(st.sampled_from(more))):
            if self._left > 0:
                parts.append(self._selection(type_, place))
        return "{ " + " ".join(parts) + " }"

    def _selection(self, type_: Any, place: _Place) -> str:
        if chance(self._draw, 10):
            return self._spread(type_, place)
        if isinstance(type_, GraphQLInterfaceType):
            return self._on_interface(type_, place)
        if chance(self._draw, 8):
            condition = self._draw(
                st.sampled_from(["", type_.name, *(one.name for one in type_.interfaces)])
            )
            inner = self._schema.type_map[condition] if condition else type_
            on = f" on {condition}" if condition else ""
            return f"...{on}{self._directive()} {self._selections(inner, place)}"
        return self._field(type_, place)

    def _on_interface(self, type_: GraphQLInterfaceType, place: _Place) -> str:
        possible = sorted(one.name for one in self._schema.get_possible_types(type_))
        if not place.shared or chance(self._draw, 25):
            return self._field(type_, place)
        likely = place.likely and chance(self._draw, 80)
        name = self._draw(st.sampled_from(list(place.likely) if likely else possible))
        selections = self._selections(self._schema.type_map[name], place)
        return f"... on {name}{self._directive()} {selections}"

    def _spread(self, type_: Any, place: _Place) -> str:
        known = self._fragments.setdefault((type_.name, place.shared), [])
        fitting = [one for one in known if one.depth <= place.depth and one.rows >= place.rows]
        if fitting and chance(self._draw, 60):
            fragment = self._draw(st.sampled_from(fitting))
        else:
            fragment = _Fragment(f"F{len(self._definitions)}", place.depth, place.rows)
            position = len(self._definitions)
            self._definitions.append("")
            body = self._selections(type_, place)
            text = f"fragment {fragment.name} on {type_.name} {body}"
            self._definitions[position] = text
            known.append(fragment)
        return f"...{fragment.name}{self._directive()}"

    def _field(self, type_: Any, place: _Place) -> str:
        self._left -= 1
        names = self._fields(type_, place) if self._left > 0 else []
        if not names or chance(self._draw, 7):
            return "__typename" + self._directive()
        name = self._draw(st.sampled_from(names))
        field: GraphQLField = type_.fields[name]
        inner: Any = get_named_type(field.type)
        path = paths().get((type_.name, name))
        below = place
        given: dict[str, Any] = {}
        if "first" in field.args:
            given, size = self._page_arguments(field, path, place.rows)
            given |= self._other_arguments(field, path)[0]
            below = _Place(place.depth - 1, place.rows * max(1, size))
        elif not is_plumbing(type_) and is_composite_type(inner):
            given, likely = self._other_arguments(field)
            count = place.rows * (len(given.get("ids", [])) or 1)
            shared = isinstance(inner, GraphQLInterfaceType)
            below = _Place(place.depth - 1, count, shared, likely)
        elif field.args:
            given, _ = self._other_arguments(field)
        elif is_plumbing(type_):
            below = _Place(place.depth, place.rows)
        arguments = self._written(field.args, given)
        text = self._key(type_.name, name, arguments, place.shared)
        text += arguments + self._directive()
        return text + (f" {self._selections(inner, below)}" if is_composite_type(inner) else "")

    def _fields(self, type_: Any, place: _Place) -> list[str]:
        """The names to choose from; relations weigh more as long as there is depth."""
        names = []
        for name, field in type_.fields.items():
            deeper = is_composite_type(get_named_type(field.type)) and not is_plumbing(type_)
            if not deeper:
                names.append(name)
            elif place.depth > 0:
                names += [name] * 3
        return names

    def _key(self, type_: str, name: str, arguments: str, shared: bool) -> str:
        """The response key with its colon, unless it is the field's own name."""
        known = self._keys.setdefault((type_, shared), {})
        same = [key for key, meant in known.items() if meant == (name, arguments)]
        if same and chance(self._draw, 70):
            key = self._draw(st.sampled_from(same))
        else:
            # An interface's own fields mean the same in all its types.
            is_object = isinstance(self._schema.type_map[type_], GraphQLObjectType)
            key = f"{type_}_{name}" if shared and is_object else name
            if key in known or chance(self._draw, 15):
                key = f"{key}_{len(known)}"
            known[key] = (name, arguments)
        return name if key == name else f"{key}: {name}"

    def _page_arguments(
        self, field: GraphQLField, path: Path | None, rows: int
    ) -> tuple[dict[str, Any], int]:
        given: dict[str, Any] = {}
        size = DEFAULT_SIZE
        if rows * DEFAULT_SIZE > MAX_ROWS or chance(self._draw, 75):
            fitting = [one for one in SIZES if rows * one <= MAX_ROWS]
            size = self._draw(st.sampled_from(fitting))
            backward = "last" in field.args and chance(self._draw, 35)
            given["last" if backward else "first"] = size
        if path is None:
            return given, size
        order = path.relation.default_order
        if "orderBy" in field.args and chance(self._draw, 35):
            chosen = an_order(self._draw, path.target.order_by)
            given["orderBy"], order = order_argument(chosen), tuple(chosen)
        for name, percent in (("after", 15), ("before", 10)):
            if name in field.args and chance(self._draw, percent):
                kind = "foreign_cursor" if self._foreign and chance(self._draw, 40) else "cursor"
                number, ordered = self._draw(NUMBERS), signature(complete(order))
                given[name] = reference(kind, path.target.key, number, ordered)
        if "filter" in field.args and chance(self._draw, 25):
            type_: Any = field.args["filter"].type
            writer = FilterWriter(self._draw, foreign=self._foreign)
            given["filter"] = writer.filter(type_, path.target, self._draw(st.integers(0, 2)))
        if "deleted" in field.args and chance(self._draw, 10):
            given["deleted"] = self._draw(st.booleans())
        if self._faulty and chance(self._draw, 8):
            fault = self._draw(st.sampled_from(FAULTS))
            given |= {name: value for name, value in fault.items() if name in field.args}
        return given, size

    def _other_arguments(
        self, field: GraphQLField, path: Path | None = None
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Other arguments than a connection's own, and the types of the rows that ids name."""
        inner = get_named_type(field.type)
        own = [key for key, mirror in by_key().items() if mirror.name == inner.name]
        if path is not None and path.relation.argument is not None:
            own = [MIRRORS[path.relation.argument.model].key]
        likely: list[str] = []
        given: dict[str, Any] = {}
        for name, argument in field.args.items():
            if name in PAGE:
                continue
            if is_required_argument(argument) or chance(self._draw, 50):
                given[name] = self._any_value(argument.type, name, own, likely)
        return given, tuple(likely)

    def _any_value(self, type_: Any, name: str, own: list[str], likely: list[str]) -> Any:
        type_ = get_nullable_type(type_)
        if isinstance(type_, GraphQLList):
            count = self._draw(st.integers(0, 4))
            return [self._any_value(type_.of_type, name, own, likely) for _ in range(count)]
        if isinstance(type_, GraphQLEnumType):
            return EnumLiteral(self._draw(st.sampled_from(list(type_.values))))
        if isinstance(type_, GraphQLInputObjectType):
            required = {
                key: one.type for key, one in type_.fields.items() if is_required_input_field(one)
            }
            return {key: self._any_value(one, key, own, likely) for key, one in required.items()}
        match type_.name:
            case "ID":
                if self._faulty and chance(self._draw, 8):
                    return "nobody"
                key = self._draw(st.sampled_from(own or list(by_key())))
                likely.append(by_key()[key].name)
                return an_id(self._draw, key, foreign=self._foreign)
            case "Int":
                return self._draw(st.integers(0, 5))
            case "Float":
                return self._draw(st.sampled_from([0.0, 0.5, 2.0]))
            case "Boolean":
                return self._draw(st.booleans())
            case "String":
                return self._draw(st.sampled_from(WORDS))
        raise TypeError(f"no value for {name}: {type_}")

    def _written(self, declared: dict[str, GraphQLArgument], given: dict[str, Any]) -> str:
        if not given:
            return ""
        parts = []
        for name, value in given.items():
            as_variable = chance(self._draw, 25)
            text = (
                self._variable(str(declared[name].type), value) if as_variable else literal(value)
            )
            parts.append(f"{name}: {text}")
        return f"({', '.join(parts)})"

    def _variable(self, type_: str, value: Any) -> str:
        name = f"v{len(self._variables)}"
        self._variables[name] = (type_, value)
        return f"${name}"

    def _directive(self) -> str:
        if not chance(self._draw, 6):
            return ""
        word, value = self._draw(st.sampled_from(["skip", "include"])), self._draw(st.booleans())
        text = self._variable("Boolean!", value) if chance(self._draw, 50) else literal(value)
        return f" @{word}(if: {text})"


def is_plumbing(type_: Any) -> bool:
    """Whether a type is part of a connection, and its fields cost nothing by themselves."""
    return bool(type_.name.endswith(("Connection", "Edge")) or type_.name == "PageInfo")
