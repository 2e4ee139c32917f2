"""The variables and arguments of a plan: worked out once where they can be."""

from collections.abc import Callable, Mapping
from typing import Any

from graphql import (
    ArgumentNode,
    FieldNode,
    FragmentDefinitionNode,
    GraphQLError,
    GraphQLField,
    GraphQLSchema,
    OperationDefinitionNode,
    VariableNode,
    Visitor,
    VisitorAction,
    get_argument_values,
    get_named_type,
    get_nullable_type,
    visit,
)
from graphql.execution.get_variable_signature import (
    GraphQLVariableSignature,
    get_variable_signature,
)
from graphql.execution.values import VariableValues, VariableValueSource
from strawberry.schema.schema_converter import GraphQLCoreConverter
from strawberry.types.arguments import convert_arguments
from strawberry.utils.str_converters import to_snake_case

from schema.relation_fields import RelationField

Values = Callable[[VariableValues], dict[str, Any]]


def shaping_variables(
    operation: OperationDefinitionNode, fragments: Mapping[str, FragmentDefinitionNode]
) -> tuple[str, ...]:
    """The variables that decide which fields there are."""
    names: dict[str, None] = {}

    class Finder(Visitor):
        def enter_directive(self, node: Any, *_: Any) -> VisitorAction:
            for argument in node.arguments:
                if isinstance(argument.value, VariableNode):
                    names[argument.value.name.value] = None
            return None

    for root in (operation, *fragments.values()):
        visit(root, Finder())
    return tuple(names)


def argument_values(
    converter: GraphQLCoreConverter,
    field: RelationField,
    definition: GraphQLField,
    node: FieldNode,
    variables: VariableValues,
) -> tuple[Values, dict[str, Any] | None]:
    """A field's arguments for given variables; and those for all, when there are none in them."""

    def values(variables: VariableValues) -> dict[str, Any]:
        return convert_arguments(
            get_argument_values(definition, node, variables),
            field.arguments,
            scalar_registry=converter.scalar_registry,
            config=converter.config,
        )

    if not _variables_in(node):
        return values, values(variables)
    given = _plain_variables(definition, node)
    if given is None:
        return values, None
    try:
        others = {name: value for name, value in values(variables).items() if name not in given}
    except GraphQLError:
        return values, None  # these variables are wrong, others may be right

    def plain(variables: VariableValues) -> dict[str, Any]:
        coerced = variables.coerced
        if any(coerced.get(variable) is None for variable in given.values()):
            return values(variables)
        return others | {name: coerced[variable] for name, variable in given.items()}

    return plain, None


_PYTHON: dict[str, type] = {"Boolean": bool, "ID": str, "Int": int, "String": str}
_PLAIN = frozenset(_PYTHON)
LARGEST = 2**31
"""`Int` goes from its negative up to it, and does not reach it."""


def _plain_variables(definition: GraphQLField, node: FieldNode) -> dict[str, str] | None:
    """The arguments that are variables of a built-in type, which are used as they were coerced.

    Python name → variable; None when another argument holds a variable.
    """
    given: dict[str, str] = {}
    for argument in node.arguments or ():
        if isinstance(argument.value, VariableNode):
            type_ = definition.args[argument.name.value].type
            if (
                get_nullable_type(type_) is not get_named_type(type_)
                or str(get_named_type(type_)) not in _PLAIN
            ):
                return None
            given[to_snake_case(argument.name.value)] = argument.value.name.value
        elif _variables_in(argument):
            return None
    return given


class PlainVariables:
    """Variables of built-in types, whose values are used as they came when they are of the type.

    graphql-core looks at the types anew for each request, which takes as long as a small plan.
    """

    def __init__(self, schema: GraphQLSchema, operation: OperationDefinitionNode) -> None:
        self._known: list[tuple[GraphQLVariableSignature, type]] | None = []
        for node in operation.variable_definitions or ():
            signature = get_variable_signature(schema, node)
            plain = None
            if not isinstance(signature, GraphQLError) and node.default_value is None:
                name = str(get_nullable_type(signature.type))
                plain = _PYTHON.get(name)
            if plain is None or isinstance(signature, GraphQLError):
                self._known = None  # graphql-core knows how
                return
            self._known.append((signature, plain))

    def values(self, given: Mapping[str, object]) -> VariableValues | None:
        """The values; None when any of them is not simply what its type says."""
        if self._known is None:
            return None
        sources: dict[str, VariableValueSource] = {}
        coerced: dict[str, object] = {}
        for signature, plain in self._known:
            value = given.get(signature.name)
            if type(value) is not plain:
                return None
            if isinstance(value, int) and not -LARGEST <= value < LARGEST:
                return None
            sources[signature.name] = VariableValueSource(signature, value)
            coerced[signature.name] = value
        return VariableValues(sources, coerced)


def _variables_in(node: FieldNode | ArgumentNode) -> list[str]:
    names: list[str] = []

    class Finder(Visitor):
        def enter_variable(self, variable: VariableNode, *_: Any) -> VisitorAction:
            names.append(variable.name.value)
            return None

    for part in node.arguments or () if isinstance(node, FieldNode) else (node,):
        visit(part, Finder())
    return names
