"""How many statements a query may cost: counted from the document, as a reader of it would.

One for each relation field (a root field, a to-one field, a connection) and one more for each
connection whose `totalCount` is asked for. Fields that merge count once. A field under several
types of an interface counts for each type that the ids in the document name; where there are no
such ids, as in the change feed, for each that it may be.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLInterfaceType,
    GraphQLObjectType,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
    VariableNode,
    get_named_type,
    is_composite_type,
    parse,
    value_from_ast_untyped,
)

from schema import build_schema
from schema.mirror import by_key
from tests.documents import is_plumbing


def statement_bound(text: str, variables: Mapping[str, Any]) -> int:
    """The greatest number of statements that the query may cost."""
    return _Reader(parse(text), variables).bound()


def names_all_statements(text: str, variables: Mapping[str, Any]) -> bool:
    """Whether the document alone says which statements it needs, whatever the rows are.

    It does not when it names no types of its rows, or reads the feed: only a page after which no
    changes follow looks up where the feed ends.
    """
    reader = _Reader(parse(text), variables)
    reader.bound()
    return not reader.is_open


class _Reader:
    def __init__(self, document: DocumentNode, variables: Mapping[str, Any]) -> None:
        self._schema = build_schema()._schema
        self._variables = variables
        definitions = document.definitions
        self._fragments = {
            one.name.value: one for one in definitions if isinstance(one, FragmentDefinitionNode)
        }
        self.is_open = False
        """Whether what is found decides which statements follow."""
        (self._operation,) = (
            one for one in definitions if isinstance(one, OperationDefinitionNode)
        )

    def bound(self) -> int:
        """The bound of the whole query."""
        return self._selected(self._schema.query_type, [self._operation.selection_set])

    def _selected(self, type_: Any, sets: Sequence[SelectionSetNode]) -> int:
        """What the fields of one object cost."""
        fields: dict[str, list[FieldNode]] = {}
        for one in sets:
            self._collect(type_, one, fields)
        counted = "totalCount" in {nodes[0].name.value for nodes in fields.values()}
        total = int(counted and type_.name.endswith("Connection"))
        return total + sum(self._field(type_, nodes) for nodes in fields.values())

    def _field(self, type_: GraphQLObjectType, nodes: Sequence[FieldNode]) -> int:
        name = nodes[0].name.value
        if name == "__typename":
            return 0
        inner = get_named_type(type_.fields[name].type)
        if not is_composite_type(inner):
            return 0
        sets = [node.selection_set for node in nodes if node.selection_set]
        if isinstance(inner, GraphQLInterfaceType):
            types = self._named_types(nodes[0])
            return len(types) + sum(self._selected(one, sets) for one in types)
        # A search reads the query before it looks for it, the feed where it ends.
        before = int(inner.name.endswith(("HitConnection", "ChangeConnection")))
        self.is_open |= inner.name == "ChangeConnection"
        return before + int(not is_plumbing(type_)) + self._selected(inner, sets)

    def _named_types(self, node: FieldNode) -> list[Any]:
        """The types that the ids in a field's arguments name, or all that change."""
        if not node.arguments:
            self.is_open = True
            return [self._schema.type_map[one.name] for one in by_key().values() if one.audited]
        found: set[str] = set()
        for argument in node.arguments or ():
            value = value_from_ast_untyped(argument.value, dict(self._variables))
            for text in value if isinstance(value, list) else [value]:
                found.add(by_key()[text.rpartition("_")[0]].name)
        return [self._schema.type_map[name] for name in sorted(found)]

    def _collect(
        self, type_: Any, selection_set: SelectionSetNode, fields: dict[str, list[FieldNode]]
    ) -> None:
        for one in selection_set.selections:
            if not self._included(one):
                continue
            if isinstance(one, FieldNode):
                fields.setdefault((one.alias or one.name).value, []).append(one)
                continue
            if isinstance(one, InlineFragmentNode):
                condition, inner = one.type_condition, one.selection_set
            else:
                assert isinstance(one, FragmentSpreadNode)
                fragment = self._fragments[one.name.value]
                condition, inner = fragment.type_condition, fragment.selection_set
            names = {type_.name, *(interface.name for interface in type_.interfaces)}
            if condition is None or condition.name.value in names:
                self._collect(type_, inner, fields)

    def _included(self, node: Any) -> bool:
        for directive in node.directives or ():
            value = directive.arguments[0].value
            holds = (
                self._variables[value.name.value]
                if isinstance(value, VariableNode)
                else value.value
            )
            if holds == (directive.name.value == "skip"):
                return False
        return True
