"""The variables and arguments of a plan: worked out once where they can be."""

from collections.abc import Callable, Mapping
from typing import Any

from graphql import (
    ArgumentNode,
    FieldNode,
    FragmentDefinitionNode,
    GraphQLError,
    GraphQLField,
    OperationDefinitionNode,
    VariableNode,
    Visitor,
    VisitorAction,
    get_argument_values,
    get_named_type,
    get_nullable_type,
    visit,
)
from graphql.execution.values import VariableValues
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


_PLAIN = frozenset({"Boolean", "ID", "Int", "String"})


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


def _variables_in(node: FieldNode | ArgumentNode) -> list[str]:
    names: list[str] = []

    class Finder(Visitor):
        def enter_variable(self, variable: VariableNode, *_: Any) -> VisitorAction:
            names.append(variable.name.value)
            return None

    for part in node.arguments or () if isinstance(node, FieldNode) else (node,):
        visit(part, Finder())
    return names
