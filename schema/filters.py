"""Filters and orders, derived from the columns and relations that a type shows.

Conditions have two truth values: `neq`, `notIn`, `none` and `not` are the exact complements of
`eq`, `in`, `some` and the condition within, also where a column is null.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

import strawberry
from sqlalchemy import (
    ColumnElement,
    FromClause,
    and_,
    func,
    literal,
    not_,
    or_,
    true,
)
from sqlalchemy.dialects.postgresql import JSONB
from strawberry.types.unset import UNSET
from strawberry.utils.str_converters import to_camel_case

from db import scope
from db.base import column_fields
from schema import ids
from schema.errors import ErrorCode, RequestError, bad_input
from schema.mirror import Mirror, OrderTerm, bare, by_table, graphql_type
from schema.scalars import JSON, BigInt, clean_text

if TYPE_CHECKING:
    from schema.relations import Relation

MAX_CONDITIONS = 100
MAX_DEPTH = 6
MAX_LIST = 1_000

Clause = Callable[[FromClause], ColumnElement[bool]]


@dataclass(frozen=True)
class Condition:
    """A checked filter: equal keys have equal clauses."""

    key: Hashable
    clause: Clause


@strawberry.enum(description="The direction of an order.")
class OrderDirection(Enum):
    """Ascending orders put nulls last, descending ones first."""

    ASC = strawberry.enum_value("asc", description="Smallest first, nulls last.")
    DESC = strawberry.enum_value("desc", description="Greatest first, nulls first.")


_EQUALITY = ("eq", "neq", "in_", "not_in", "is_null")
_RANGE = ("gt", "gte", "lt", "lte")

_DESCRIPTIONS = {
    "eq": "Equal to this.",
    "neq": "Not equal to this; a null is not equal to anything.",
    "in_": "One of these.",
    "not_in": "None of these; a null is none of them.",
    "is_null": "Whether it is null.",
    "gt": "Greater than this.",
    "gte": "Greater than or equal to this.",
    "lt": "Less than this.",
    "lte": "Less than or equal to this.",
    "contains": "Contains this text, in any case. Wildcards mean themselves.",
    "starts_with": "Starts with this text, in any case. Wildcards mean themselves.",
    "has_any": "Holds at least one of these.",
    "has_all": "Holds all of these.",
}


def input_type(
    name: str, description: str, members: Mapping[str, tuple[Any, str]], *, origin: str
) -> type:
    """A Strawberry input whose members are all optional: Python name → type and description."""
    namespace: dict[str, Any] = {"__annotations__": {}, "__module__": origin}
    for member, (type_, text) in members.items():
        namespace["__annotations__"][member] = type_ | None
        namespace[member] = strawberry.field(
            default=UNSET, name=to_camel_case(member.rstrip("_")), description=text
        )
    return strawberry.input(type(name, (), namespace), name=name, description=description)


@cache
def scalar_filter(type_: Any) -> type:
    """The filter of all columns that have this GraphQL type."""
    if type_ == JSON:
        members = {
            "contains": (JSON, "Contains this JSON value, as jsonb's `@>` does."),
            "is_null": (bool, _DESCRIPTIONS["is_null"]),
        }
        return input_type("JSONFilter", "Conditions on JSON.", members, origin=__name__)
    names = {str: "String", bool: "Boolean", int: "Int", float: "Float", datetime: "DateTime"}
    label = names.get(type_, getattr(type_, "__name__", str(type_)))
    operators: tuple[str, ...] = _EQUALITY
    if type_ in (int, float, str, datetime, BigInt):
        operators += _RANGE
    if type_ is str:
        operators += ("contains", "starts_with")
    if type_ is bool:
        operators = ("eq", "neq", "is_null")
    members = {
        operator: (_operand(type_, operator), _DESCRIPTIONS[operator]) for operator in operators
    }
    description = f"Conditions on {label}, all of which must hold."
    return input_type(f"{label}Filter", description, members, origin=__name__)


def _operand(type_: Any, operator: str) -> Any:
    if operator == "is_null":
        return bool
    return list[type_] if operator in ("in_", "not_in") else type_


@cache
def list_filter(item: Any) -> type:
    """The filter of columns that are lists of texts or of enum values."""
    members = {
        "has_any": (list[item], _DESCRIPTIONS["has_any"]),
        "has_all": (list[item], _DESCRIPTIONS["has_all"]),
    }
    label = "String" if item is str else item.__name__
    return input_type(f"{label}ListFilter", "Conditions on a list.", members, origin=__name__)


class FilterTypes:
    """The filter and order inputs of one mirror."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
        name = mirror.name
        self.filter: Any = type(f"{name}Filter", (), {"__module__": __name__, "mirror": mirror})
        self.relation = input_type(
            f"{name}RelationFilter",
            f"Conditions on related rows of type {name}.",
            {
                "some": (self.filter, "At least one related row meets this."),
                "none": (self.filter, "No related row meets this."),
            },
            origin=__name__,
        )
        self.order: type | None = None
        if mirror.order_by:
            members = {
                column.upper(): strawberry.enum_value(
                    column, description=column_fields(mirror.model)[column].description
                )
                for column in mirror.order_by
            }
            named: Any = Enum
            column_enum = strawberry.enum(
                named(f"{name}OrderField", members),
                description=f"What {name} rows can be ordered by.",
            )
            self.order = _order_type(name, column_enum)

    def finish(
        self, relations: Mapping[str, "Relation"], types: Mapping[Mirror, "FilterTypes"]
    ) -> None:
        """Give the filter its members, once every mirror has its types."""
        own: Any = self.filter
        members: dict[str, tuple[Any, str]] = {
            "and_": (list[own], "All of these hold."),
            "or_": (list[own], "At least one of these holds."),
            "not_": (self.filter, "This does not hold."),
        }
        self.conditions: dict[str, Callable[[Any], Condition]] = {}
        mirror = self.mirror
        for name in mirror.columns:
            type_ = graphql_type(mirror.model, name)
            item = list_item(mirror, name)
            members[name] = (
                list_filter(item) if item else scalar_filter(type_),
                f"Conditions on `{to_camel_case(name)}`.",
            )
        for name, relation in relations.items():
            if relation.foreign_key and relation.foreign_key not in members:
                members[relation.foreign_key] = (
                    scalar_filter(strawberry.ID),
                    f"Conditions on the id of `{to_camel_case(name)}`.",
                )
            members[name] = (
                types[relation.target].relation,
                f"Conditions on `{to_camel_case(name)}`.",
            )
        self.members = members
        self.relations = relations
        self.types = types
        annotations: dict[str, Any] = {}
        for member, (type_, text) in members.items():
            annotations[member] = type_ | None
            setattr(
                self.filter,
                member,
                strawberry.field(
                    default=UNSET, name=to_camel_case(member.rstrip("_")), description=text
                ),
            )
        self.filter.__annotations__ = annotations
        strawberry.input(
            self.filter,
            name=self.filter.__name__,
            description=f"Conditions on {mirror.name}, all of which must hold.",
        )

    def compile(self, value: object) -> Condition:
        """Check a filter and turn it into a condition.

        Raises:
            RequestError: a null where a value is needed, a text that cannot be stored, a bad id,
                or more than `MAX_CONDITIONS` conditions.
        """
        return _Compiler().condition(self, value, 0)


class _Compiler:
    """Counts the conditions of one filter."""

    def __init__(self) -> None:
        self.count = 0

    def condition(self, types: FilterTypes, value: object, depth: int) -> Condition:
        if depth > MAX_DEPTH:
            raise bad_input(f"A filter must not be nested deeper than {MAX_DEPTH} levels.")
        parts = [self._member(types, name, given, depth) for name, given in given_members(value)]
        return _all(parts)

    def _member(self, types: FilterTypes, name: str, given: Any, depth: int) -> Condition:
        self.count += 1
        if self.count > MAX_CONDITIONS:
            raise bad_input(f"A filter has at most {MAX_CONDITIONS} conditions.")
        if given is None:
            raise _null(name)
        if name in ("and_", "or_"):
            parts = [self.condition(types, item, depth + 1) for item in given]
            return _all(parts) if name == "and_" else _any(parts)
        if name == "not_":
            return _negated(self.condition(types, given, depth + 1))
        if name in types.relations:
            return self._related(types, types.relations[name], given, depth)
        return _column_condition(types, name, given, self)

    def _related(
        self, types: FilterTypes, relation: "Relation", given: object, depth: int
    ) -> Condition:
        parts = []
        for quantifier, inner in given_members(given):
            if inner is None:
                raise bad_input(f"`{quantifier}` in a filter must not be null.")
            condition = self.condition(types.types[relation.target], inner, depth + 1)
            some = _exists(relation, condition)
            parts.append(some if quantifier == "some" else _negated(some))
        return _all(parts)


def _null(member: str) -> RequestError:
    label = to_camel_case(member.rstrip("_"))
    return bad_input(f"`{label}` in a filter must not be null; use isNull to ask for null.")


def given_members(value: object) -> list[tuple[str, Any]]:
    """The members of an input that the client gave."""
    return [
        (member.name, getattr(value, member.name))
        for member in fields(value)  # type: ignore[arg-type]  # Strawberry inputs are dataclasses
        if getattr(value, member.name) is not UNSET
    ]


def _all(parts: list[Condition]) -> Condition:
    key = ("and", tuple(part.key for part in parts))
    return Condition(key, lambda source: and_(true(), *(part.clause(source) for part in parts)))


def _any(parts: list[Condition]) -> Condition:
    def clause(source: FromClause) -> ColumnElement[bool]:
        return or_(not_(true()), *(part.clause(source) for part in parts))

    return Condition(("or", tuple(part.key for part in parts)), clause)


def _negated(part: Condition) -> Condition:
    return Condition(("not", part.key), lambda source: part.clause(source).is_not(true()))


def _exists(relation: "Relation", condition: Condition) -> Condition:
    def clause(source: FromClause) -> ColumnElement[bool]:
        target = relation.target.table.alias()
        return (
            scope.readable(target, literal(1), deleted=None if relation.to_one else False)
            .where(relation.match(target, source.c[relation.key]), condition.clause(target))
            .correlate(source)
            .exists()
        )

    return Condition(("some", id(relation), condition.key), clause)


def list_item(mirror: Mirror, name: str) -> Any:
    """The item type of a list column, None for others."""
    type_ = graphql_type(mirror.model, name)
    return type_.__args__[0] if getattr(type_, "__origin__", None) is list else None


def _column_condition(
    types: FilterTypes, name: str, given: object, compiler: _Compiler
) -> Condition:
    column = types.mirror.table.columns[name]
    parts = []
    for operator, operand in given_members(given):
        compiler.count += 1
        if operand is None:
            raise _null(operator)
        checked = _operand_value(types, name, operator, operand)
        key = (name, operator, repr(checked))
        parts.append(
            Condition(
                key,
                lambda source, operator=operator, checked=checked: _OPERATORS[operator](  # type: ignore[misc]  # bound now
                    source.c[column.name], checked
                ),
            )
        )
    return _all(parts)


def _operand_value(types: FilterTypes, name: str, operator: str, operand: Any) -> Any:
    if operator == "is_null":
        return operand
    if isinstance(operand, list):
        if len(operand) > MAX_LIST:
            raise bad_input(f"A list in a filter has at most {MAX_LIST} items.")
        if any(item is None for item in operand):
            raise bad_input("A list in a filter must not hold null.")
        return [_scalar(types, name, item) for item in operand]
    return _scalar(types, name, operand)


def _scalar(types: FilterTypes, name: str, value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        if bare(column_fields(types.mirror.model)[name].annotation) is UUID:
            return id_operand(types.mirror, name, value)
        try:
            return clean_text(value)
        except ValueError as error:
            raise bad_input(str(error)) from None
    return value


def id_operand(mirror: Mirror, name: str, text: str) -> UUID:
    """The UUID in a filter's id, which must be of the type that the column refers to."""
    target = mirror if name == "id" else by_table(_referred(mirror, name))
    try:
        return ids.decode_as(target.key, text)
    except ids.BadId as error:
        raise RequestError(str(error), ErrorCode.BAD_ID) from None


def _referred(mirror: Mirror, name: str) -> Any:
    return next(iter(mirror.table.columns[name].foreign_keys)).column.table


def _like(column: ColumnElement[Any], pattern: str) -> ColumnElement[bool]:
    return func.lower(column).like(func.lower(literal(pattern)), escape="\\")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


_OPERATORS: dict[str, Callable[[ColumnElement[Any], Any], ColumnElement[bool]]] = {
    "eq": lambda column, value: column == value,
    "neq": lambda column, value: column.is_distinct_from(value),
    "in_": lambda column, values: column.in_(values),
    "not_in": lambda column, values: column.in_(values).is_not(true()),
    "is_null": lambda column, value: column.is_(None) if value else column.is_not(None),
    "gt": lambda column, value: column > value,
    "gte": lambda column, value: column >= value,
    "lt": lambda column, value: column < value,
    "lte": lambda column, value: column <= value,
    "contains": lambda column, value: (
        column.contains(value)
        if isinstance(column.type, JSONB)
        else _like(column, f"%{_escaped(value)}%")
    ),
    "starts_with": lambda column, value: _like(column, f"{_escaped(value)}%"),
    # By containment, which the jsonb_path_ops index serves.
    "has_any": lambda column, values: or_(not_(true()), *(column.contains([v]) for v in values)),
    "has_all": lambda column, values: column.contains(values),
}


def _order_type(name: str, columns: Any) -> type:
    namespace = {
        "__annotations__": {"field": columns, "direction": OrderDirection},
        "__module__": __name__,
        "field": strawberry.field(description="What to order by."),
        "direction": strawberry.field(default=OrderDirection.ASC, description="Which way."),
    }
    order = type(f"{name}Order", (), namespace)
    description = f"One key of an order of {name}."
    return strawberry.input(order, name=f"{name}Order", description=description)


def order_terms(given: list[Any] | None) -> tuple[OrderTerm, ...]:
    """The terms of an `orderBy` argument."""
    return tuple(
        OrderTerm(item.field.value, item.direction is OrderDirection.DESC) for item in given or ()
    )
