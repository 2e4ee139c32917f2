"""How much a document may ask for, measured before it is validated.

One pass over the document. Every fragment is measured once and its measure is reused at each
spread, so a chain of fragments that doubles sixty times costs sixty steps. Numbers saturate
at ``SATURATED``. Whatever the pass lets through is small, so what follows (validation, whose
field-merging rule is quadratic, and execution) is bounded too.

What a measure counts is what would be executed: fragments count at each spread, ``@skip`` and
``@include`` are taken to keep everything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLNamedType,
    GraphQLSchema,
    InlineFragmentNode,
    Node,
    OperationDefinitionNode,
    SelectionSetNode,
    is_composite_type,
)

from schema.pages import DEFAULT_PAGE, MAX_PAGE
from server.cost import SATURATED, CostProgram, Costs, CostStep, CostWriter

__all__ = ["Guard", "Limits", "Measured", "too_complex"]

INTROSPECTION_ROOTS = frozenset({"__schema", "__type"})


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one document. All of them count things, except where noted."""

    length: int = 100_000  # characters of the document's text
    tokens: int = 1_000  # lexical tokens; comments have the same bound of their own
    depth: int = 12  # levels of nested fields
    introspection_depth: int = 20  # the same below __schema and __type; a standard query needs 15
    fields: int = 1_000  # fields of the whole document, its fragments expanded
    spreads: int = 1_000  # fragment spreads and inline fragments, counted the same way
    aliases: int = 30  # per operation
    repeats: int = 32  # selections that share one place in the response
    root_fields: int = 20  # per operation
    directives: int = 50  # of the whole document, its fragments expanded
    cost: int = 10_000  # objects an operation may touch, page sizes multiplied
    default_page: int = DEFAULT_PAGE  # rows of a page whose size is not given
    max_page: int = MAX_PAGE  # rows a page can have; larger sizes count as this
    # Objects and values in the arguments, counted as often as they are used. They are checked and
    # converted before a resolver can say that a filter is too long; only bulk mutations have
    # reason to send many.
    query_objects: int = 500
    query_values: int = 10_000
    mutation_objects: int = 2_500
    mutation_values: int = 100_000


def too_complex(limit: str, value: int, bound: int, node: Node | None = None) -> GraphQLError:
    """The refusal of a document that goes over one of the limits."""
    label = limit.replace("_", " ")
    counted = f"at least {value:,}" if value >= SATURATED else f"{value:,}"
    return GraphQLError(
        f"The document is too complex: {label} {counted}, at most {bound:,} allowed.",
        node,
        extensions={
            "code": "QUERY_TOO_COMPLEX",
            "limit": limit,
            "value": value,
            "bound": bound,
        },
    )


@dataclass(slots=True)
class Measure:
    """What one selection set holds, fragments expanded."""

    depth: int = 0
    introspection_depth: int = 0
    fields: int = 0
    spreads: int = 0
    aliases: int = 0
    directives: int = 0
    root_fields: int = 0  # fields at the top of this selection set
    cost: int = 0  # index of its step in the cost program

    def include(self, other: Measure) -> None:
        """Add a selection set spread into this one, at the same level."""
        self.depth = max(self.depth, other.depth)
        self.introspection_depth = max(self.introspection_depth, other.introspection_depth)
        self.fields += other.fields
        self.spreads += other.spreads
        self.aliases += other.aliases
        self.directives += other.directives
        self.root_fields += other.root_fields

    def saturate(self) -> None:
        for name in ("fields", "spreads", "aliases", "directives", "root_fields"):
            if getattr(self, name) > SATURATED:
                setattr(self, name, SATURATED)


@dataclass(frozen=True, slots=True)
class Measured:
    """The outcome of the guard: refusals, or a cost program for each operation."""

    refusals: tuple[GraphQLError, ...] = ()
    cyclic: bool = False  # fragments spread themselves; only that rule need be run
    costs: Mapping[int, CostProgram] = field(default_factory=dict)  # by id(operation node)


class Guard:
    """Measures documents against one schema and one set of limits; holds no state of its own."""

    def __init__(self, schema: GraphQLSchema, limits: Limits) -> None:
        self.limits = limits
        self.schema = schema
        self.costs = Costs(schema, default_page=limits.default_page, max_page=limits.max_page)

    def measure(self, document: DocumentNode) -> Measured:
        """Measure a parsed document. Never raises, whatever the document holds."""
        walk = Walk(self.schema, self.costs, document)
        try:
            measures = walk.measure_all()
        except RecursionError:
            # Only settings far above the defaults let a document nest this deep.
            deep = too_complex("depth", SATURATED, self.limits.depth)
            return Measured(refusals=(deep,))
        if walk.cyclic:
            return Measured(cyclic=True)
        refusals = tuple(self._refusals(measures, walk))
        if refusals:
            return Measured(refusals=refusals)
        costs: dict[int, CostProgram] = {}
        for node, measure in measures:
            if isinstance(node, OperationDefinitionNode):
                program = walk.cost.finish(measure.cost, node)
                costs[id(node)] = program
                if program.fixed is not None and program.fixed > self.limits.cost:
                    refusals += (too_complex("cost", program.fixed, self.limits.cost, node),)
        return Measured(refusals=refusals, costs=costs)

    def _refusals(
        self, measures: Sequence[tuple[Node, Measure]], walk: Walk
    ) -> Iterator[GraphQLError]:
        limits = self.limits
        total = Measure()
        for node, measure in measures:
            total.include(measure)
            for name in ("depth", "introspection_depth", "aliases", "root_fields"):
                value, bound = getattr(measure, name), getattr(limits, name)
                if value > bound:
                    yield too_complex(name, value, bound, node)
        total.directives += walk.definition_directives
        total.saturate()
        small = True
        for name in ("fields", "spreads", "directives"):
            value, bound = getattr(total, name), getattr(limits, name)
            if value > bound:
                small = False
                yield too_complex(name, value, bound)
        # Expanding the document is affordable only once its size is known to be small.
        if small and total.fields > limits.repeats:
            for node, _ in measures:
                most = walk.most_repeated(node, limits.repeats)
                if most > limits.repeats:
                    yield too_complex("repeats", most, limits.repeats, node)


class Walk:
    """One document being measured."""

    def __init__(self, schema: GraphQLSchema, costs: Costs, document: DocumentNode) -> None:
        self.schema = schema
        self.cost = CostWriter(costs)
        self.document = document
        self.cyclic = False
        self.definition_directives = 0
        self.fragments: dict[str, FragmentDefinitionNode] = {}
        self.measured: dict[str, Measure] = {}
        self.open: set[str] = set()

    def measure_all(self) -> list[tuple[Node, Measure]]:
        """Each operation with its measure, then each fragment that no operation reaches."""
        operations: list[OperationDefinitionNode] = []
        for definition in self.document.definitions:
            if isinstance(definition, FragmentDefinitionNode):
                self.fragments[definition.name.value] = definition
            elif isinstance(definition, OperationDefinitionNode):
                operations.append(definition)
            self.definition_directives += len(getattr(definition, "directives", None) or ())
            for variable in getattr(definition, "variable_definitions", None) or ():
                self.definition_directives += len(variable.directives or ())
        measures: list[tuple[Node, Measure]] = []
        for operation in operations:
            root = self.schema.get_root_type(operation.operation)
            measures.append((operation, self.measure(operation.selection_set, root)))
        for name, fragment in self.fragments.items():
            if name not in self.measured:
                measures.append((fragment, self.measure_fragment(fragment)))
        return measures

    def measure(self, selections: SelectionSetNode, parent: GraphQLNamedType | None) -> Measure:
        total = Measure()
        cost = self.cost.start()
        for selection in selections.selections:
            total.directives += len(selection.directives or ())
            if isinstance(selection, FieldNode):
                self.add_field(selection, parent, total, cost)
                continue
            total.spreads += 1
            if isinstance(selection, InlineFragmentNode):
                condition = selection.type_condition
                type_ = self.schema.get_type(condition.name.value) if condition else parent
                spread = self.measure(selection.selection_set, type_)
            else:
                assert isinstance(selection, FragmentSpreadNode)
                fragment = self.fragments.get(selection.name.value)
                if fragment is None:
                    continue  # validation says so
                spread = self.measure_fragment(fragment)
            total.include(spread)
            cost.add(1, spread.cost)
        total.saturate()
        total.cost = self.cost.end(cost)
        return total

    def add_field(
        self,
        node: FieldNode,
        parent: GraphQLNamedType | None,
        total: Measure,
        cost: CostStep,
    ) -> None:
        name = node.name.value
        total.fields += 1
        total.root_fields += 1
        if node.alias is not None and node.alias.value != name:
            total.aliases += 1
        if node.selection_set is None:
            total.depth = max(total.depth, 1)
            return
        definition = (
            self.schema.get_field(parent, name)
            if parent is not None and is_composite_type(parent)
            else None
        )
        child_type = self.cost.costs.named_type(definition)
        child = self.measure(node.selection_set, child_type)
        if name in INTROSPECTION_ROOTS:
            # Deep by its nature, and answered from memory: it has a depth bound of its own and
            # no cost. How often it may follow a list is a rule of validation.
            total.depth = max(total.depth, 1)
            below = max(child.depth, child.introspection_depth)
            total.introspection_depth = max(total.introspection_depth, 1 + below)
        else:
            total.depth = max(total.depth, 1 + child.depth)
            total.introspection_depth = max(total.introspection_depth, child.introspection_depth)
            self.cost.add_field(cost, node, parent, definition, child.cost)
        total.fields += child.fields
        total.spreads += child.spreads
        total.aliases += child.aliases
        total.directives += child.directives

    def measure_fragment(self, fragment: FragmentDefinitionNode) -> Measure:
        name = fragment.name.value
        known = self.measured.get(name)
        if known is not None:
            return known
        if name in self.open:
            self.cyclic = True
            return Measure(cost=self.cost.nothing)
        self.open.add(name)
        type_ = self.schema.get_type(fragment.type_condition.name.value)
        measure = self.measure(fragment.selection_set, type_)
        self.open.discard(name)
        self.measured[name] = measure
        return measure

    def most_repeated(self, node: Node, bound: int) -> int:
        """The largest number of selections that share a place in the response.

        ``a { x } a { x }`` has two selections at ``a`` and two at ``a.x``. Stops early once it
        is over the bound. Visits what the document expands to, so its size must be known to
        be small.
        """
        assert isinstance(node, (OperationDefinitionNode, FragmentDefinitionNode))
        most = 0
        places: list[list[SelectionSetNode]] = [[node.selection_set]]
        while places and most <= bound:
            found: Counter[str] = Counter()
            below: dict[str, list[SelectionSetNode]] = {}
            for selection in self.expand(places.pop()):
                key = (selection.alias or selection.name).value
                found[key] += 1
                if selection.selection_set is not None:
                    below.setdefault(key, []).append(selection.selection_set)
            most = max(most, *found.values(), 0)
            places.extend(below.values())
        return most

    def expand(self, sets: Iterable[SelectionSetNode]) -> Iterator[FieldNode]:
        """The fields of some selection sets, those of their fragments included."""
        todo = list(sets)
        while todo:
            for selection in todo.pop().selections:
                if isinstance(selection, FieldNode):
                    yield selection
                elif isinstance(selection, InlineFragmentNode):
                    todo.append(selection.selection_set)
                else:
                    assert isinstance(selection, FragmentSpreadNode)
                    fragment = self.fragments.get(selection.name.value)
                    if fragment is not None:
                        todo.append(fragment.selection_set)
