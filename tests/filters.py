"""Hypothesis strategies for the arguments of a connection, derived from the schema's input types.

Values are as variables carry them; a literal is written by `tests.documents.literal`.
"""

from typing import Any

from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLList,
    get_named_type,
    get_nullable_type,
)
from hypothesis import strategies as st

from schema.mirror import Mirror, OrderTerm, by_key
from tests.connections import camel_columns
from tests.factories import JSON, LABELS, WORDS
from tests.references import reference

Draw = Any
"""`draw` of a composite strategy."""

NUMBERS = st.integers(0, 99)


class EnumLiteral(str):
    """A value of an enum: a string in variables, a bare name in a document."""

    __slots__ = ()


def chance(draw: Draw, percent: int) -> bool:
    """True that often; shrinks to False."""
    return bool(draw(st.integers(0, 99)) >= 100 - percent)


def an_id(draw: Draw, key: str, *, foreign: bool) -> str:
    """An id of one type: mostly of a row there is."""
    kinds = ["id"] * 7 + ["missing_id"] + (["foreign_id"] * 4 if foreign else [])
    return reference(draw(st.sampled_from(kinds)), key, draw(NUMBERS))


def an_order(draw: Draw, order_by: tuple[str, ...]) -> list[OrderTerm]:
    """One to three terms over different columns."""
    names = draw(st.lists(st.sampled_from(order_by), min_size=1, max_size=3, unique=True))
    return [OrderTerm(name, draw(st.booleans())) for name in names]


def order_argument(order: list[OrderTerm]) -> list[dict[str, EnumLiteral]]:
    """An order as the argument `orderBy`."""
    return [
        {
            "field": EnumLiteral(term.column.upper()),
            "direction": EnumLiteral("DESC" if term.descending else "ASC"),
        }
        for term in order
    ]


def complete(order: list[OrderTerm] | tuple[OrderTerm, ...]) -> tuple[OrderTerm, ...]:
    """The order with the id as its last key, in the direction of the one before."""
    return (*order, OrderTerm("id", order[-1].descending))


class FilterWriter:
    """Writes filters of one document."""

    def __init__(self, draw: Draw, *, foreign: bool) -> None:
        self._draw = draw
        self._foreign = foreign

    def filter(self, type_: GraphQLInputObjectType, target: Mirror, depth: int) -> dict[str, Any]:
        """A filter of the target's rows, at most `depth` levels deep."""
        deep = {"and", "or", "not"}
        names = [
            name
            for name, field in type_.fields.items()
            if depth > 0 or (name not in deep and not _is_relation(field.type))
        ]
        chosen = self._draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
        return {name: self._member(type_, target, name, depth) for name in chosen}

    def _member(self, type_: GraphQLInputObjectType, target: Mirror, name: str, depth: int) -> Any:
        member: Any = get_named_type(type_.fields[name].type)
        if name in ("and", "or"):
            count = self._draw(st.integers(0, 2))
            return [self.filter(member, target, depth - 1) for _ in range(count)]
        if name == "not":
            return self.filter(member, target, depth - 1)
        if _is_relation(member):
            related = by_key()[_key(member)]
            quantifiers = self._draw(
                st.lists(st.sampled_from(list(member.fields)), min_size=1, max_size=2, unique=True)
            )
            return {
                one: self.filter(get_named_type(member.fields[one].type), related, depth - 1)
                for one in quantifiers
            }
        operators = self._draw(
            st.lists(st.sampled_from(list(member.fields)), min_size=1, max_size=2, unique=True)
        )
        column = camel_columns(target)[name]
        return {
            one: self._operand(target, column, one, member.fields[one].type) for one in operators
        }

    def _operand(self, target: Mirror, column: str, operator: str, type_: Any) -> Any:
        type_ = get_nullable_type(type_)
        if isinstance(type_, GraphQLList):
            count = self._draw(st.integers(0, 3))
            item = type_.of_type
            return [self._operand(target, column, operator, item) for _ in range(count)]
        if isinstance(type_, GraphQLEnumType):
            return EnumLiteral(self._draw(st.sampled_from(list(type_.values))))
        key = target.key
        number = self._draw(NUMBERS)
        match type_.name:
            case "Boolean":
                return self._draw(st.booleans())
            case "ID":
                return an_id(self._draw, self._referred(target, column), foreign=self._foreign)
            case "JSON":
                value = self._draw(st.sampled_from(JSON))
                return {self._draw(st.sampled_from(["a", "A"])): value} if number % 2 else {}
            case "String" if operator in ("hasAny", "hasAll"):
                return self._draw(st.sampled_from(LABELS))
            case "String" if operator in ("contains", "startsWith"):
                if number % 2:
                    return self._draw(st.sampled_from([*WORDS, ""]))
                start = 0 if operator == "startsWith" else self._draw(st.integers(0, 2))
                length = self._draw(st.integers(1, 3))
                return reference("part", key, number, column, start, length)
            case "String" if number % 3 == 0:
                return self._draw(st.sampled_from(WORDS))
        return reference("value", key, number, column)

    def _referred(self, target: Mirror, column: str) -> str:
        if column == "id":
            return target.key
        relations = target.relations.values()
        return next(str(one.target.key) for one in relations if one.foreign_key == column)


def _is_relation(type_: Any) -> bool:
    return bool(get_named_type(type_).name.endswith("RelationFilter"))


def _key(relation: Any) -> str:
    name = relation.name.removesuffix("RelationFilter")
    return next(key for key, mirror in by_key().items() if mirror.name == name)
