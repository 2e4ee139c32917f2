"""A selection → the columns to read and the shape to emit, level by level.

graphql-core spends some 10 µs on each field of each row. A selection over mirrored types needs none
of its freedom: it is compiled once per document (and per value of the variables that `@skip` and
`@include` use) into one statement per relation field and one comprehension per selection set.

Planning never has an opinion of its own. What it cannot express is `Unplannable`, and whatever goes
wrong while a plan runs, a bad argument as well as a missing row, is left for graphql-core to say:
the operation is then executed by it alone, from the start and in a new snapshot.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from graphql import (
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLField,
    GraphQLIncludeDirective,
    GraphQLObjectType,
    GraphQLSchema,
    GraphQLSkipDirective,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
    get_argument_values,
    get_directive_values,
    get_named_type,
    is_non_null_type,
    print_ast,
)
from graphql.execution.values import VariableValues
from strawberry import Schema
from strawberry.schema.schema_converter import GraphQLCoreConverter

from schema.derived import DerivedField
from schema.mirror import MIRRORS, Mirror
from schema.pages import PageRequest
from schema.plan_arguments import argument_values
from schema.planned import OneChild, PlannedArguments, RowsPlan, Run
from schema.planned_pages import ConnectionShape, PagesChild
from schema.planned_roots import PlannedQuery, Root, RootNodes, RootPage, RootRow
from schema.projection import Unplannable
from schema.relation_fields import FirstField, OneField, PageField, RelationField, RootRowField

Selected = dict[str, list[FieldNode]]
_BACKREF = GraphQLCoreConverter.DEFINITION_BACKREF


class Planner:
    """Compiles the operations of one schema."""

    def __init__(self, schema: Schema) -> None:
        self.schema: GraphQLSchema = schema._schema
        self.converter = schema.schema_converter
        self.mirrors = {mirror.name: mirror for mirror in MIRRORS.values()}

    def plan(
        self,
        operation: OperationDefinitionNode,
        fragments: Mapping[str, FragmentDefinitionNode],
        variables: VariableValues,
    ) -> PlannedQuery:
        """Plan a query.

        Raises:
            Unplannable: graphql-core has to execute it.
        """
        query = self.schema.query_type
        assert query is not None
        compiler = self.compiler(fragments, variables)
        planned = PlannedQuery()
        for response_key, nodes in compiler.collect(query, [operation.selection_set]).items():
            if nodes[0].name.value == "__typename":
                planned.constants[response_key] = query.name
            else:
                planned.roots.append((response_key, compiler.root(nodes)))
            planned.keys.append(response_key)
        planned.finish()
        planned.even = compiler.even
        return planned

    def compiler(
        self, fragments: Mapping[str, FragmentDefinitionNode], variables: VariableValues
    ) -> "Compiler":
        """Compiles the parts of one document, for one set of values of its shaping variables."""
        return Compiler(self, fragments, variables)


class Compiler:
    """One operation, for one set of values of its shaping variables."""

    def __init__(
        self,
        planner: Planner,
        fragments: Mapping[str, FragmentDefinitionNode],
        variables: VariableValues,
    ) -> None:
        self._schema = planner.schema
        self._converter = planner.converter
        self._mirrors = planner.mirrors
        self._fragments = fragments
        self._variables = variables
        self.even = True
        """Whether no statement is better planned for its arguments than for any."""

    def collect(
        self, type_: GraphQLObjectType, selection_sets: Sequence[SelectionSetNode]
    ) -> Selected:
        """The fields of selection sets on one type, merged by response key (spec, 6.3.2)."""
        selected: Selected = {}
        spread: set[str] = set()
        for selection_set in selection_sets:
            self._collect(type_, selection_set, selected, spread)
        return selected

    def _collect(
        self,
        type_: GraphQLObjectType,
        selection_set: SelectionSetNode,
        selected: Selected,
        spread: set[str],
    ) -> None:
        for selection in selection_set.selections:
            if not self._included(selection):
                continue
            if isinstance(selection, FieldNode):
                key = (selection.alias or selection.name).value
                selected.setdefault(key, []).append(selection)
            elif isinstance(selection, InlineFragmentNode):
                condition = selection.type_condition
                if condition is None or self._applies(type_, condition.name.value):
                    self._collect(type_, selection.selection_set, selected, spread)
            else:
                assert isinstance(selection, FragmentSpreadNode)
                name = selection.name.value
                fragment = self._fragments[name]
                if name not in spread and self._applies(type_, fragment.type_condition.name.value):
                    spread.add(name)
                    self._collect(type_, fragment.selection_set, selected, spread)

    def _included(self, selection: Any) -> bool:
        for directive in selection.directives or ():
            if directive.name.value not in ("skip", "include"):
                raise Unplannable(f"@{directive.name.value}")
        if not selection.directives:
            return True
        skip = get_directive_values(GraphQLSkipDirective, selection, self._variables)
        include = get_directive_values(GraphQLIncludeDirective, selection, self._variables)
        return not (skip and skip["if"]) and not (include and not include["if"])

    def _applies(self, type_: GraphQLObjectType, condition: str) -> bool:
        return condition == type_.name or any(one.name == condition for one in type_.interfaces)

    def rows(self, mirror: Mirror, nodes: list[FieldNode]) -> RowsPlan:
        """Rows of a mirror that come from elsewhere. Raises Unplannable."""
        rows = RowsPlan(mirror)
        self._row_shape(rows, nodes)
        return rows

    def root(self, nodes: list[FieldNode]) -> Root:
        """A root field that starts at mirrored rows. Raises Unplannable."""
        query = self._schema.query_type
        assert query is not None
        name = nodes[0].name.value
        definition = query.fields.get(name)
        if definition is None:
            raise Unplannable(name)
        if name in ("node", "nodes"):
            return self._nodes(definition, nodes, several=name == "nodes")
        field = definition.extensions.get(_BACKREF)
        if isinstance(field, RootRowField):
            return self._root_row(field, definition, nodes)
        if not isinstance(field, PageField):
            raise Unplannable(name)
        page, selection = self._page(field, definition, nodes)
        return RootPage(page, selection)

    def _root_row(
        self, field: RootRowField, definition: GraphQLField, nodes: list[FieldNode]
    ) -> RootRow:
        rows = RowsPlan(field.relation.target)
        values, _ = argument_values(self._converter, field, definition, nodes[0], self._variables)

        def identify(run: Run) -> UUID:
            return field.row_id(values(run.variables), run.loaders.owner_id)

        nullable = not is_non_null_type(definition.type)
        return RootRow(identify, rows, self._row_shape(rows, nodes), nullable=nullable)

    def _page(
        self, field: PageField, definition: GraphQLField, nodes: list[FieldNode]
    ) -> tuple[PagesChild, int]:
        arguments = self._arguments(field, definition, nodes[0])
        page = PagesChild(field.relation, arguments, RowsPlan(field.relation.target))
        return page, self._connection(page, definition, nodes)

    def _nodes(
        self, definition: GraphQLField, nodes: list[FieldNode], *, several: bool
    ) -> RootNodes:
        def ids(variables: VariableValues) -> list[str]:
            values = get_argument_values(definition, nodes[0], variables)
            found: list[str] = values["ids"] if several else [values["id"]]
            return found

        def make(mirror: Mirror) -> tuple[RowsPlan, int]:
            rows = RowsPlan(mirror)
            return rows, self._row_shape(rows, nodes)

        conditions = self._conditions(_selection_sets(nodes))
        named = [self._mirrors[name] for name in conditions if name in self._mirrors]
        return RootNodes(ids, make, named, several=several)

    def _conditions(self, selection_sets: Iterable[SelectionSetNode]) -> dict[str, None]:
        """The types that fragments directly in selection sets are about."""
        names: dict[str, None] = {}
        pending, spread = list(selection_sets), set[str]()
        while pending:
            for selection in pending.pop().selections:
                fragment: Any = None
                if isinstance(selection, FragmentSpreadNode):
                    if selection.name.value not in spread:
                        spread.add(selection.name.value)
                        fragment = self._fragments[selection.name.value]
                elif isinstance(selection, InlineFragmentNode):
                    fragment = selection
                if fragment is not None:
                    pending.append(fragment.selection_set)
                    if fragment.type_condition is not None:
                        names[fragment.type_condition.name.value] = None
        return names

    def _row_shape(self, rows: RowsPlan, nodes: list[FieldNode]) -> int:
        """Add the selection of a row's field to the plan of its rows; which one it is."""
        type_ = self._schema.type_map[rows.mirror.name]
        assert isinstance(type_, GraphQLObjectType)
        index, projection = rows.projection()
        for response_key, fields in self.collect(type_, _selection_sets(nodes)).items():
            name = fields[0].name.value
            if name == "__typename":
                projection.typename(response_key)
            elif name == "id":
                projection.identifier(response_key, rows.position("id"))
            else:
                self._row_field(rows, projection, type_.fields[name], response_key, fields)
        return index

    def _row_field(
        self,
        rows: RowsPlan,
        projection: Any,
        definition: GraphQLField,
        response_key: str,
        nodes: list[FieldNode],
    ) -> None:
        field = definition.extensions[_BACKREF]
        if isinstance(field, DerivedField):
            positions = [rows.position(name) for name in field.columns]
            projection.derived(response_key, field.function, positions)
            return
        if not isinstance(field, RelationField):
            name = field.python_name
            if field.base_resolver is not None or name not in rows.mirror.columns:
                raise Unplannable(f"{rows.mirror.name}.{name}")
            projection.column(response_key, name, rows.position(name))
            return
        child, index, selection = self._child(rows, field, definition, nodes)
        position = child.position = rows.position(field.relation.key)
        nullable = field.relation.nullable
        projection.related(response_key, index, selection, position, nullable=nullable)

    def _child(
        self,
        rows: RowsPlan,
        field: RelationField,
        definition: GraphQLField,
        nodes: list[FieldNode],
    ) -> tuple[Any, int, int]:
        """The child plan of a relation field, its place among the children, and the selection."""
        relation = field.relation
        target = relation.target
        if isinstance(field, OneField):
            one, index = rows.child(("one", relation), lambda: OneChild(RowsPlan(target)))
            return one, index, self._row_shape(one.rows, nodes)
        if isinstance(field, FirstField):
            first = PlannedArguments("", lambda _: {}, field.request, {})
            child, index = rows.child(
                ("first", relation), lambda: PagesChild(relation, first, RowsPlan(target))
            )
            return child, index, child.first(self._row_shape(child.rows, nodes))
        assert isinstance(field, PageField)
        arguments = self._arguments(field, definition, nodes[0])
        child, index = rows.child(
            ("pages", relation, arguments.identity),
            lambda: PagesChild(relation, arguments, RowsPlan(target)),
        )
        return child, index, self._connection(child, definition, nodes)

    def _connection(
        self, page: PagesChild, definition: GraphQLField, nodes: list[FieldNode]
    ) -> int:
        """Add a selection of a connection to its plan; which one it is."""
        connection: Any = get_named_type(definition.type)
        index, shape = page.shape()
        for response_key, fields in self.collect(connection, _selection_sets(nodes)).items():
            name = fields[0].name.value
            if name == "__typename":
                shape.constant(response_key, connection.name)
            elif name == "nodes":
                shape.nodes(response_key, self._row_shape(page.rows, fields))
            elif name == "totalCount":
                shape.total_count(response_key)
            elif name == "pageInfo":
                self._page_info(shape, response_key, connection.fields[name], fields)
            else:
                assert name == "edges"
                self._edges(page, shape, response_key, connection.fields[name], fields)
        return index

    def _page_info(
        self,
        shape: ConnectionShape,
        response_key: str,
        definition: GraphQLField,
        nodes: list[FieldNode],
    ) -> None:
        type_: Any = get_named_type(definition.type)
        selected = self.collect(type_, _selection_sets(nodes))
        shape.page_info(response_key, {key: one[0].name.value for key, one in selected.items()})

    def _edges(
        self,
        page: PagesChild,
        shape: ConnectionShape,
        response_key: str,
        definition: GraphQLField,
        nodes: list[FieldNode],
    ) -> None:
        type_: Any = get_named_type(definition.type)
        items: list[tuple[str, str, int]] = []
        for key, fields in self.collect(type_, _selection_sets(nodes)).items():
            name = fields[0].name.value
            row = self._row_shape(page.rows, fields) if name == "node" else -1
            items.append((key, name, row))
        shape.edges(response_key, items, type_.name)

    def _arguments(
        self, field: PageField, definition: GraphQLField, node: FieldNode
    ) -> PlannedArguments[PageRequest]:
        given = node.arguments or ()
        identity = " ".join(sorted(print_ast(argument) for argument in given))
        if not field.relation.even or any(one.name.value == "filter" for one in given):
            self.even = False
        values, fixed = argument_values(self._converter, field, definition, node, self._variables)
        return PlannedArguments(identity, values, field.request, fixed)


def _selection_sets(nodes: list[FieldNode]) -> list[SelectionSetNode]:
    return [node.selection_set for node in nodes if node.selection_set is not None]
