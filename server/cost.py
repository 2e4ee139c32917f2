"""What an operation costs: the number of objects it may touch, page sizes multiplied.

A page of 20 projects with a page of 10 tasks each costs 20 + 20 x 10. Scalars are free, and so
is the shape of a connection (``edges``, ``nodes``, ``pageInfo``). A page size given by a
variable counts with the variable's value, so a cost is a small program: steps in the order of
their dependencies, one for each selection set whose cost hangs on a variable. A fragment is one
step however often it is spread.

A list that has no pages counts as a page of the default size, unless its Strawberry field has
``metadata={"rows": ...}``, the most rows that it can have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphql import (
    FieldNode,
    GraphQLField,
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLSchema,
    IntValueNode,
    ListValueNode,
    NullValueNode,
    OperationDefinitionNode,
    ValueNode,
    VariableNode,
    get_named_type,
    get_nullable_type,
    is_list_type,
    value_from_ast_untyped,
)

__all__ = ["SATURATED", "CostProgram", "CostStep", "CostWriter", "Costs"]

SATURATED = 1_000_000_000  # numbers stop here; read it as "too many to count"
PAGE_ARGUMENTS = ("first", "last")


@dataclass(frozen=True, slots=True)
class Shape:
    """What a field of the schema means for the cost."""

    structural: bool  # part of a connection: touches nothing by itself
    paged: bool  # takes first or last
    many: bool  # a list that is not paged
    default: int  # its size when the document does not say


@dataclass(frozen=True, slots=True)
class Size:
    """How many objects a field yields: the largest of a constant and some variables."""

    least: int
    variables: tuple[str, ...]
    default: int


Term = tuple[Size | int, int, int]  # size x (own + cost of the child step)


class CostStep:
    """The cost of one selection set while it is being written."""

    __slots__ = ("constant", "terms", "writer")

    def __init__(self, writer: CostWriter) -> None:
        self.writer = writer
        self.constant = 0
        self.terms: list[Term] = []

    def add(self, size: Size | int, child: int, own: int = 0) -> None:
        """Add ``size x (own + cost of child)``."""
        value = self.writer.values[child]
        if isinstance(size, int) and value is not None:
            self.constant = min(self.constant + size * (own + value), SATURATED)
        else:
            self.terms.append((size, own, child))


class Costs:
    """What every field of a schema costs, worked out when it is first met."""

    def __init__(self, schema: GraphQLSchema, *, default_page: int, max_page: int) -> None:
        self.schema = schema
        self.default_page = default_page
        self.max_page = max_page
        self.shapes: dict[tuple[str, str], Shape] = {}

    def named_type(self, definition: GraphQLField | None) -> GraphQLNamedType | None:
        return None if definition is None else get_named_type(definition.type)

    def shape(self, parent: GraphQLNamedType, name: str, definition: GraphQLField) -> Shape:
        key = (parent.name, name)
        shape = self.shapes.get(key)
        if shape is None:
            shape = self.shapes[key] = self._shape(parent, definition)
        return shape

    def _shape(self, parent: GraphQLNamedType, definition: GraphQLField) -> Shape:
        own_fields = (
            parent.fields.keys()
            if isinstance(parent, (GraphQLObjectType, GraphQLInterfaceType))
            else set()
        )
        structural = "pageInfo" in own_fields or {"cursor", "node"} <= own_fields
        default = self.default_page
        arguments = [definition.args[name] for name in PAGE_ARGUMENTS if name in definition.args]
        for argument in arguments:
            preset = argument.default_value
            if isinstance(preset, int):
                default = preset
        return Shape(
            structural=structural,
            paged=bool(arguments),
            many=is_list_type(get_nullable_type(definition.type)),
            default=default if arguments else rows_of(definition, default),
        )

    def clamp(self, size: int) -> int:
        """A page size as it counts: nonsense is left for the resolver to refuse."""
        return max(1, min(size, self.max_page))

    def size(self, node: FieldNode, shape: Shape) -> Size | int:
        """How many objects a field yields."""
        given = {argument.name.value: argument.value for argument in node.arguments or ()}
        if shape.paged:
            return self._page_size([given.get(name) for name in PAGE_ARGUMENTS], shape.default)
        if not shape.many:
            return 1
        ids = given.get("ids")
        if isinstance(ids, ListValueNode):
            return max(1, len(ids.values))
        if isinstance(ids, VariableNode):
            return Size(1, (ids.name.value,), 1)
        return shape.default

    def _page_size(self, values: list[ValueNode | None], default: int) -> Size | int:
        least = 0
        variables: list[str] = []
        for value in values:
            if isinstance(value, VariableNode):
                variables.append(value.name.value)
            elif isinstance(value, IntValueNode):
                least = max(least, self.clamp(read_int(value.value, self.max_page)))
        if variables:
            return Size(least, tuple(variables), default)
        return least or default

    def value_of(self, value: object) -> int | None:
        """A variable's value as a size, or nothing where it is not one."""
        if isinstance(value, bool):
            return None
        if isinstance(value, int):
            return self.clamp(value)
        if isinstance(value, float) and value == value:
            return self.clamp(int(max(-1.0, min(value, float(self.max_page)))))
        if isinstance(value, list):
            return max(1, min(len(value), SATURATED))
        return None


def rows_of(definition: GraphQLField, default: int) -> int:
    """How many rows a list without pages may have, where its field says so: ``rows``."""
    declared = definition.extensions.get("strawberry-definition")
    rows = getattr(declared, "metadata", {}).get("rows", default)
    assert isinstance(rows, int)
    return rows


def read_int(text: str, bound: int) -> int:
    """An integer literal; one too long to be a page size counts as the bound."""
    if len(text) > 10:
        return -1 if text.startswith("-") else bound
    return int(text)


class CostWriter:
    """Writes the cost steps of one document."""

    def __init__(self, costs: Costs) -> None:
        self.costs = costs
        # A step has a value, or terms where its cost hangs on a variable. Step 0 costs nothing.
        self.values: list[int | None] = [0]
        self.steps: list[tuple[int, list[Term]]] = [(0, [])]
        self.nothing = 0

    def start(self) -> CostStep:
        return CostStep(self)

    def end(self, step: CostStep) -> int:
        """Keep a finished step; answers its index."""
        if not step.terms and step.constant == 0:
            return self.nothing
        self.values.append(None if step.terms else step.constant)
        self.steps.append((step.constant, step.terms))
        return len(self.steps) - 1

    def add_field(
        self,
        step: CostStep,
        node: FieldNode,
        parent: GraphQLNamedType | None,
        definition: GraphQLField | None,
        child: int,
    ) -> None:
        """Add a field that has a selection set."""
        if parent is None or definition is None:
            step.add(1, child, own=1)  # validation will refuse the field
            return
        shape = self.costs.shape(parent, node.name.value, definition)
        if shape.structural:
            step.add(1, child)
        else:
            step.add(self.costs.size(node, shape), child, own=1)

    def finish(self, root: int, operation: OperationDefinitionNode) -> CostProgram:
        """The program of one operation, holding the steps it needs and no others."""
        fixed = self.values[root]
        if fixed is not None:
            return CostProgram(self.costs, fixed, (), {})
        needed: set[int] = set()
        todo = [root]
        while todo:
            index = todo.pop()
            if index not in needed:
                needed.add(index)
                todo.extend(child for _, _, child in self.steps[index][1])
        defaults = {
            variable.variable.name.value: value_from_ast_untyped(variable.default_value)
            for variable in operation.variable_definitions or ()
            if isinstance(variable.default_value, (IntValueNode, ListValueNode, NullValueNode))
            and not (
                isinstance(variable.default_value, IntValueNode)
                and len(variable.default_value.value) > 10
            )
        }
        order = tuple((index, *self.steps[index]) for index in sorted(needed))
        return CostProgram(self.costs, None, order, defaults)


@dataclass(frozen=True, slots=True)
class CostProgram:
    """The cost of one operation: a number, or steps to run with the request's variables."""

    costs: Costs
    fixed: int | None
    steps: tuple[tuple[int, int, list[Term]], ...]
    defaults: Mapping[str, object]

    def evaluate(self, variables: Mapping[str, object]) -> int:
        """The cost with these variables, as they came in the request (not coerced)."""
        if self.fixed is not None:
            return self.fixed
        known: dict[int, int] = {}
        last = 0
        for index, constant, terms in self.steps:
            total = constant
            for size, own, child in terms:
                count = size if isinstance(size, int) else self._count(size, variables)
                total += count * (own + known[child])
            last = known[index] = min(total, SATURATED)
        return last

    def _count(self, size: Size, variables: Mapping[str, object]) -> int:
        count = size.least
        for name in size.variables:
            value = variables[name] if name in variables else self.defaults.get(name)
            counted = self.costs.value_of(value)
            if counted is not None:
                count = max(count, counted)
        return count or size.default
