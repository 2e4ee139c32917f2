"""The filter and order inputs of every type, derived from the columns and relations it shows."""

from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any

import strawberry
from strawberry.types.unset import UNSET
from strawberry.utils.str_converters import to_camel_case

from db.base import column_fields
from schema.filters import Condition, compile_filter
from schema.mirror import Mirror, OrderTerm, graphql_type
from schema.scalars import JSON, BigInt

if TYPE_CHECKING:
    from schema.relation_fields import Relation


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
            if relation.argument is not None or relation.first:
                continue
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
        return compile_filter(self, value)


def list_item(mirror: Mirror, name: str) -> Any:
    """The item type of a list column, None for others."""
    type_ = graphql_type(mirror.model, name)
    return type_.__args__[0] if getattr(type_, "__origin__", None) is list else None


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
