"""Documents ready to run: parsed, measured, validated once, and kept for the next request.

The order is the defence. A text too long is not lexed, a document with too many tokens is not
parsed further, one that the guard refuses is never validated. Refusals are kept as well, so
that the same bad document costs its check once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from graphql import (
    DocumentNode,
    FragmentDefinitionNode,
    GraphQLError,
    GraphQLSchema,
    GraphQLSyntaxError,
    NoFragmentCyclesRule,
    NoSchemaIntrospectionCustomRule,
    OperationDefinitionNode,
    OperationType,
    parse,
    specified_rules,
    validate,
)
from strawberry.schema.validation_rules.maybe_null import MaybeNullValidationRule
from strawberry.schema.validation_rules.one_of import OneOfInputValidationRule

from schema.plan import Planner
from schema.plans import Plans
from server.cost import CostProgram
from server.failures import Failure, failure, present
from server.guard import Guard, Limits, too_complex
from server.literals import bad_literals

__all__ = ["Documents", "Operation", "Prepared"]

RULES = (*specified_rules, MaybeNullValidationRule, OneOfInputValidationRule)
MAX_ERRORS = 20  # validation errors shown for one document
KEPT_DOCUMENTS = 1_000
KEPT_CHARACTERS = 500_000  # a parsed document takes some 300 bytes for each of its characters
EMPTY = DocumentNode(definitions=())


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a document."""

    name: str | None
    kind: OperationType
    cost: CostProgram
    plans: Plans | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A document that can be executed, or the errors that say why not."""

    document: DocumentNode = EMPTY
    operations: Mapping[str | None, Operation] = field(default_factory=dict)
    errors: tuple[Failure, ...] = ()

    def select(self, name: str | None) -> Operation | Failure:
        """The operation to run; a failure when the name is missing, wrong or ambiguous."""
        code = "OPERATION_RESOLUTION_FAILURE"
        if name is not None:
            return self.operations.get(name) or failure(
                "The document has no operation of that name.", code
            )
        if len(self.operations) == 1:
            return next(iter(self.operations.values()))
        if self.operations:
            return failure("The document has several operations: say which operationName.", code)
        return failure("The document has no operation.", code)


class Documents:
    """A bounded cache of prepared documents. Its methods never wait, so tasks cannot interleave."""

    def __init__(
        self,
        schema: GraphQLSchema,
        limits: Limits,
        *,
        suggestions: bool = False,
        introspection: bool = True,
        planner: Planner | None = None,
        kept_documents: int = KEPT_DOCUMENTS,
        kept_characters: int = KEPT_CHARACTERS,
    ) -> None:
        self.schema = schema
        self.limits = limits
        self.guard = Guard(schema, limits)
        self.suggestions = suggestions
        self.planner = planner
        self.rules = RULES if introspection else (*RULES, NoSchemaIntrospectionCustomRule)
        self.kept_documents = kept_documents
        self.kept_characters = kept_characters
        self._kept: OrderedDict[str, Prepared] = OrderedDict()
        self._characters = 0

    def __len__(self) -> int:
        return len(self._kept)

    def prepare(self, text: str) -> Prepared:
        """The document of this text; parsed, measured and validated when it is new."""
        if len(text) > self.limits.length:
            return refused(too_complex("length", len(text), self.limits.length))
        prepared = self._kept.get(text)
        if prepared is not None:
            self._kept.move_to_end(text)
            return prepared
        prepared = self._prepare(text)
        self._kept[text] = prepared
        self._characters += len(text)
        while len(self._kept) > self.kept_documents or self._characters > self.kept_characters:
            oldest, _ = self._kept.popitem(last=False)
            self._characters -= len(oldest)
        return prepared

    def _plans(self, document: DocumentNode, node: OperationDefinitionNode) -> Plans | None:
        if self.planner is None:
            return None
        fragments = {
            part.name.value: part
            for part in document.definitions
            if isinstance(part, FragmentDefinitionNode)
        }
        return Plans(self.planner, node, fragments)

    def _prepare(self, text: str) -> Prepared:
        tokens = self.limits.tokens
        try:
            document = parse(text, max_lexical_tokens=tokens, max_comments=tokens)
        except GraphQLSyntaxError as error:
            if f"more than {tokens} " in error.message:
                return refused(too_complex("tokens", tokens + 1, tokens))
            return Prepared(errors=(present(error, "GRAPHQL_PARSE_FAILED"),))
        measured = self.guard.measure(document)
        if measured.refusals:
            return refused(*measured.refusals)
        unholdable = bad_literals(text, document)
        if unholdable:
            return Prepared(errors=tuple(present(error, "") for error in unholdable[:MAX_ERRORS]))
        errors = validate(
            self.schema,
            document,
            # Other rules take far longer on fragments that spread themselves, and add nothing.
            (NoFragmentCyclesRule,) if measured.cyclic else self.rules,
            max_errors=MAX_ERRORS,
            hide_suggestions=not self.suggestions,
        )
        if errors:
            code = "GRAPHQL_VALIDATION_FAILED"
            return Prepared(errors=tuple(present(error, code) for error in errors))
        operations: dict[str | None, Operation] = {}
        for node in document.definitions:
            if isinstance(node, OperationDefinitionNode):
                name = node.name.value if node.name else None
                cost = measured.costs[id(node)]
                operations[name] = Operation(
                    name, node.operation, cost, self._plans(document, node)
                )
        return Prepared(document, operations)


def refused(*errors: GraphQLError) -> Prepared:
    return Prepared(errors=tuple(present(error, "QUERY_TOO_COMPLEX") for error in errors))
