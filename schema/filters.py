"""Filters and orders, derived from the columns and relations that a type shows.

Conditions have two truth values: `neq`, `notIn`, `none` and `not` are the exact complements of
`eq`, `in`, `some` and the condition within, also where a column is null.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields, replace
from enum import Enum
from itertools import chain
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BindParameter,
    Column,
    ColumnElement,
    FromClause,
    Text,
    and_,
    any_,
    bindparam,
    false,
    func,
    literal_column,
    or_,
    true,
)
from sqlalchemy.dialects.postgresql import INET, JSONB
from sqlalchemy.types import TypeEngine
from strawberry.types.unset import UNSET
from strawberry.utils.str_converters import to_camel_case

from db import scope
from db.base import column_fields
from schema import ids
from schema.errors import ErrorCode, RequestError, bad_input
from schema.mirror import Mirror, bare, referred
from schema.scalars import clean_text

if TYPE_CHECKING:
    from schema.filter_types import FilterTypes
    from schema.relation_fields import Relation

MAX_CONDITIONS = 100
MAX_DEPTH = 6
LARGE = 30
MAX_LIST = 1_000
INDEXED_ITEMS = 8
"""How many items of `hasAny` are looked up in the index, one by one."""


class Binder:
    """Hands out the bind parameters of a filter's values, in their order."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, type_: TypeEngine[Any]) -> BindParameter[Any]:
        """The parameter of the next value."""
        name = f"v{self._count}"
        self._count += 1
        return bindparam(name, type_=type_)


Clause = Callable[[FromClause, Binder], ColumnElement[bool]]


@dataclass(frozen=True)
class Condition:
    """A checked filter, its values apart: equal shapes have equal clauses.

    The clause takes exactly one parameter from the binder for each value, in their order.
    """

    shape: Hashable
    values: tuple[Any, ...]
    clause: Clause
    is_large: bool = False
    """Whether there are more than `LARGE` conditions, of a shape that may not come again."""


def compile_filter(types: "FilterTypes", value: object) -> Condition:
    """Check a filter and turn it into a condition.

    Raises:
        RequestError: a null where a value is needed, a text that cannot be stored, a bad id,
            or more than `MAX_CONDITIONS` conditions.
    """
    compiler = _Compiler()
    condition = compiler.condition(types, value, 0)
    return replace(condition, is_large=compiler.count > LARGE)


class _Compiler:
    """Counts the conditions of one filter."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, conditions: int) -> None:
        """Count conditions. Raises RequestError when there are too many."""
        self.count += conditions
        if self.count > MAX_CONDITIONS:
            raise bad_input(f"A filter has at most {MAX_CONDITIONS} conditions.")

    def condition(self, types: "FilterTypes", value: object, depth: int) -> Condition:
        if depth > MAX_DEPTH:
            raise bad_input(f"A filter must not be nested deeper than {MAX_DEPTH} levels.")
        parts = [self._member(types, name, given, depth) for name, given in given_members(value)]
        return _all(parts)

    def _member(self, types: "FilterTypes", name: str, given: Any, depth: int) -> Condition:
        self.add(1)
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
        self, types: "FilterTypes", relation: "Relation", given: object, depth: int
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


def _joined(word: str, parts: list[Condition], clause: Clause) -> Condition:
    # The clauses are kept with statements, so they must not hold on to the parts' values.
    shape = (word, tuple(part.shape for part in parts))
    return Condition(shape, tuple(chain.from_iterable(part.values for part in parts)), clause)


def _all(parts: list[Condition]) -> Condition:
    clauses = [part.clause for part in parts]

    def clause(source: FromClause, bind: Binder) -> ColumnElement[bool]:
        return and_(true(), *[one(source, bind) for one in clauses])

    return _joined("and", parts, clause)


def _any(parts: list[Condition]) -> Condition:
    clauses = [part.clause for part in parts]

    def clause(source: FromClause, bind: Binder) -> ColumnElement[bool]:
        return or_(false(), *[one(source, bind) for one in clauses])

    return _joined("or", parts, clause)


def _negated(part: Condition) -> Condition:
    within = part.clause

    def clause(source: FromClause, bind: Binder) -> ColumnElement[bool]:
        return within(source, bind).is_not(true())

    return _joined("not", [part], clause)


def _exists(relation: "Relation", condition: Condition) -> Condition:
    within = condition.clause

    def clause(source: FromClause, bind: Binder) -> ColumnElement[bool]:
        target = relation.target.table.alias()
        return (
            scope.readable(target, literal_column("1"), deleted=None if relation.to_one else False)
            .where(relation.match(target, source.c[relation.key]), within(target, bind))
            .correlate(source)
            .exists()
        )

    return Condition(("some", id(relation), condition.shape), condition.values, clause)


def _column_condition(
    types: "FilterTypes", name: str, given: object, compiler: _Compiler
) -> Condition:
    column = types.mirror.table.columns[name]
    parts = []
    for operator, operand in given_members(given):
        compiler.add(1)
        if operand is None:
            raise _null(operator)
        operand = _operand_value(types, name, operator, operand)
        if operator == "has_any" and len(operand) <= INDEXED_ITEMS:
            compiler.add(len(operand))
        parts.append(_comparison(column, operator, operand))
    return _all(parts)


def _comparison(column: Column[Any], operator: str, operand: Any) -> Condition:
    """One operator on one column."""
    name = column.name
    if operator == "is_null":

        def null(source: FromClause, _bind: Binder) -> ColumnElement[bool]:
            return source.c[name].is_(None) if operand else source.c[name].is_not(None)

        return Condition((name, operator, operand), (), null)
    if operator == "has_any" and 0 < len(operand) <= INDEXED_ITEMS:
        # By containment, which the jsonb_path_ops index serves; in few lengths, so few statements.
        length = 1 << (len(operand) - 1).bit_length()
        padded = operand + operand[-1:] * (length - len(operand))
        return _any([_comparison(column, "has_all", [item]) for item in padded])
    if operator in _PATTERNS and not isinstance(column.type, JSONB):
        operand = _PATTERNS[operator].format(_escaped(operand))
        operator = "like"

    def clause(source: FromClause, bind: Binder) -> ColumnElement[bool]:
        return _OPERATORS[operator](_as_shown(source.c[name]), bind)

    return Condition((name, operator), (operand,), clause)


def _as_shown(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """The column, an address as the text that clients see."""
    return func.host(column, type_=Text()) if isinstance(column.type, INET) else column


def _operand_value(types: "FilterTypes", name: str, operator: str, operand: Any) -> Any:
    if operator == "is_null":
        return operand
    if isinstance(operand, list):
        if len(operand) > MAX_LIST:
            raise bad_input(f"A list in a filter has at most {MAX_LIST} items.")
        if any(item is None for item in operand):
            raise bad_input("A list in a filter must not hold null.")
    is_id = bare(column_fields(types.mirror.model)[name].annotation) is UUID
    if isinstance(operand, list):
        return [_scalar(types, name, item, is_id=is_id) for item in operand]
    return _scalar(types, name, operand, is_id=is_id)


def _scalar(types: "FilterTypes", name: str, value: Any, *, is_id: bool) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        if is_id:
            return id_operand(types.mirror, name, value)
        try:
            return clean_text(value)
        except ValueError as error:
            raise bad_input(str(error)) from None
    return value


def id_operand(mirror: Mirror, name: str, text: str) -> UUID:
    """The UUID in a filter's id, which must be of the type that the column refers to."""
    target = mirror if name == "id" else referred(mirror.model, name)
    try:
        return ids.decode_as(target.key, text)
    except ids.BadId as error:
        raise RequestError(str(error), ErrorCode.BAD_ID) from None


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _like(column: ColumnElement[Any], bind: Binder) -> ColumnElement[bool]:
    return func.lower(column).like(func.lower(bind(Text())), escape="\\")


def _among(column: ColumnElement[Any], bind: Binder) -> ColumnElement[bool]:
    return column == any_(bind(ARRAY(column.type)))


_PATTERNS = {"contains": "%{}%", "starts_with": "{}%"}

_OPERATORS: dict[str, Callable[[ColumnElement[Any], Binder], ColumnElement[bool]]] = {
    "eq": lambda column, bind: column == bind(column.type),
    "neq": lambda column, bind: column.is_distinct_from(bind(column.type)),
    "in_": _among,
    "not_in": lambda column, bind: _among(column, bind).is_not(true()),
    "gt": lambda column, bind: column > bind(column.type),
    "gte": lambda column, bind: column >= bind(column.type),
    "lt": lambda column, bind: column < bind(column.type),
    "lte": lambda column, bind: column <= bind(column.type),
    "like": _like,
    "contains": lambda column, bind: column.contains(bind(column.type)),
    "has_any": lambda column, bind: column.op("?|", is_comparison=True)(bind(ARRAY(Text()))),
    "has_all": lambda column, bind: column.contains(bind(column.type)),
}
