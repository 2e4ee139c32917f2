"""How many values the arguments of an operation hold, counted as often as they are used.

A variable is read once and converted at each of its uses, and a fragment's arguments at each of its
spreads: what a request costs is not seen in its length. Counted are objects, each of which has all
fields of its type looked at, and values on all levels. What is given to the mutations themselves
stands apart from what is asked of the rows below: only writing has reason to take much.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graphql import (
    ArgumentNode,
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    ListValueNode,
    ObjectValueNode,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    ValueNode,
    VariableNode,
)

__all__ = ["Operands", "Size", "operands_of", "size_of"]


@dataclass(slots=True)
class Size:
    """How much there is in some values, all levels together."""

    objects: int = 0
    values: int = 0

    def add(self, other: Size, times: int = 1) -> None:
        self.objects += times * other.objects
        self.values += times * other.values


@dataclass(slots=True)
class Uses:
    """What the arguments of some fields hold: literals, and how often each variable."""

    literals: Size = field(default_factory=Size)
    variables: Counter[str] = field(default_factory=Counter)

    def add(self, other: Uses) -> None:
        self.literals.add(other.literals)
        self.variables.update(other.variables)

    def size(self, sizes: Mapping[str, Size]) -> Size:
        total = Size(self.literals.objects, self.literals.values)
        for name, times in self.variables.items():
            total.add(sizes[name], times)
        return total


@dataclass(frozen=True, slots=True)
class Operands:
    """What the arguments of one operation hold."""

    written: Uses  # given to mutations
    asked: Uses  # everything else
    defaults: Mapping[str, Size]

    def sizes(self, variables: Mapping[str, object]) -> tuple[Size, Size]:
        """What is written and what is asked, with these variables."""
        sizes = {
            name: size_of(variables[name]) if name in variables else default
            for name, default in self.defaults.items()
        }
        return self.written.size(sizes), self.asked.size(sizes)


def size_of(value: object) -> Size:
    """The size of a JSON value."""
    size = Size(0, 1)
    todo = [value]
    while todo:
        value = todo.pop()
        if isinstance(value, list):
            size.values += len(value)
            todo.extend(value)
        elif isinstance(value, dict):
            size.objects += 1
            size.values += len(value)
            todo.extend(value.values())
    return size


def operands_of(document: DocumentNode, operation: OperationDefinitionNode) -> Operands:
    """Measure an operation of a document that is valid."""
    walk = Walk(document)
    own = Uses()
    below = walk.selections(operation.selection_set, own)
    defaults: dict[str, Size] = {}
    for definition in operation.variable_definitions or ():
        uses = Uses()
        if definition.default_value is not None:
            measure(definition.default_value, uses)
        defaults[definition.variable.name.value] = uses.literals
    if operation.operation is not OperationType.MUTATION:
        below.add(own)
        own = Uses()
    return Operands(own, below, defaults)


class Walk:
    """One document; a fragment is measured once, however often it is spread."""

    def __init__(self, document: DocumentNode) -> None:
        self.fragments = {
            part.name.value: part
            for part in document.definitions
            if isinstance(part, FragmentDefinitionNode)
        }
        self.measured: dict[str, tuple[Uses, Uses]] = {}

    def selections(self, selections: SelectionSetNode, own: Uses) -> Uses:
        """Add what the fields of a selection set hold to `own`; what is below them."""
        below = Uses()
        for selection in selections.selections:
            arguments(selection.directives or (), own)
            if isinstance(selection, FieldNode):
                arguments([selection], own)
                if selection.selection_set is not None:
                    below.add(self.selections(selection.selection_set, below))
            elif isinstance(selection, FragmentSpreadNode):
                own_of, below_of = self.fragment(selection.name.value)
                own.add(own_of)
                below.add(below_of)
            else:
                assert isinstance(selection, InlineFragmentNode)
                below.add(self.selections(selection.selection_set, own))
        return below

    def fragment(self, name: str) -> tuple[Uses, Uses]:
        if name not in self.measured:
            own = Uses()
            below = self.selections(self.fragments[name].selection_set, own)
            self.measured[name] = own, below
        return self.measured[name]


def arguments(nodes: Sequence[object], uses: Uses) -> None:
    for node in nodes:
        for argument in getattr(node, "arguments", None) or ():
            assert isinstance(argument, ArgumentNode)
            measure(argument.value, uses)


def measure(value: ValueNode, uses: Uses) -> None:
    """Add a literal, or a use of a variable."""
    if isinstance(value, VariableNode):
        uses.variables[value.name.value] += 1
        return
    uses.literals.values += 1
    if isinstance(value, ListValueNode):
        for item in value.values:
            measure(item, uses)
    elif isinstance(value, ObjectValueNode):
        uses.literals.objects += 1
        for member in value.fields:
            measure(member.value, uses)
