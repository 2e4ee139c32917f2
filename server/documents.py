"""Documents ready to run: parsed, measured, validated once, and kept for the next request.

The order is the defence. A text too long is not lexed, a document with too many tokens is not
parsed further, one that the guard refuses is never validated. Refusals are kept as well, so
that the same bad document costs its check once.

A document is known by its text. A client that sends its hash along (automatic persisted queries)
may send the hash alone from then on, for as long as the document is kept. Trusted documents, those
of the operator's manifest, are prepared before the first request and kept for good.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
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

from schema.context import field_names
from schema.plan import Planner
from schema.plans import Plans
from server.cost import CostProgram
from server.failures import Failure, failure, present
from server.guard import Guard, Limits, too_complex
from server.literals import bad_literals
from server.operands import Operands, operands_of
from server.requests import GraphQLRequest, hash_of

__all__ = ["Documents", "Operation", "Prepared"]

RULES = (*specified_rules, MaybeNullValidationRule, OneOfInputValidationRule)
MAX_ERRORS = 20  # validation errors shown for one document
KEPT_DOCUMENTS = 1_000
KEPT_CHARACTERS = 500_000  # a parsed document takes some 300 bytes for each of its characters
EMPTY = DocumentNode(definitions=())


@dataclass(slots=True)
class Placement:
    """What was learned of where an operation can run."""

    reason: str | None = None
    """Why it is for the primary, whatever the replica has replayed."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a document."""

    name: str | None
    kind: OperationType
    cost: CostProgram
    operands: Operands
    fields: frozenset[str]
    """The names of all its fields, and of those in fragments."""
    plans: Plans | None = None
    placement: Placement = field(default_factory=Placement)


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


# Clients of Apollo's protocol go by this message or by this code, and send the text.
NOT_FOUND = Prepared(errors=(failure("PersistedQueryNotFound", "PERSISTED_QUERY_NOT_FOUND"),))
# Not as if it were not found: to send the text would not help.
NOT_TRUSTED = Prepared(errors=(failure("Only trusted documents are served.", "FORBIDDEN"),))


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
        only_trusted: bool = False,
        kept_documents: int = KEPT_DOCUMENTS,
        kept_characters: int = KEPT_CHARACTERS,
    ) -> None:
        self.schema = schema
        self.limits = limits
        self.guard = Guard(schema, limits)
        self.suggestions = suggestions
        self.planner = planner
        self.only_trusted = only_trusted
        self.trusted: dict[str, Prepared] = {}  # by id in the manifest, and by hash
        self.rules = RULES if introspection else (*RULES, NoSchemaIntrospectionCustomRule)
        self.kept_documents = kept_documents
        self.kept_characters = kept_characters
        # By text; by hash, as bytes to tell it from a text, what was sent with its hash.
        self._kept: OrderedDict[str | bytes, tuple[Prepared, int]] = OrderedDict()
        self._characters = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def known(self) -> Iterator[tuple[str | None, str]]:
        """Name and type of the operations of trusted documents."""
        for prepared in self.trusted.values():
            for operation in prepared.operations.values():
                yield operation.name, operation.kind.value

    def find(self, request: GraphQLRequest, *, trusted: bool = False) -> Prepared:
        """The document of a request; with ``trusted`` only if the manifest has it."""
        identifier, text = request.document_id, request.query
        if self.only_trusted:
            return self.trusted.get(identifier or hash_of(text), NOT_TRUSTED)
        if identifier is None:
            return self.prepare(text)
        known = self.trusted.get(identifier)
        if known is not None:
            return known
        if trusted:
            return NOT_FOUND
        key = identifier.encode()
        if text:
            return self.prepare(text, key)
        return self._look_up(key) or NOT_FOUND

    def prepare(self, text: str, key: bytes | None = None) -> Prepared:
        """The document of this text; parsed, measured and validated when it is new.

        ``key`` is what it is kept by, if not by its text.
        """
        if len(text) > self.limits.length:
            return refused(too_complex("length", len(text), self.limits.length))
        prepared = self._look_up(key or text)
        if prepared is not None:
            return prepared
        prepared = self._prepare(text)
        self._kept[key or text] = prepared, len(text)
        self._characters += len(text)
        while len(self._kept) > self.kept_documents or self._characters > self.kept_characters:
            _, (_, characters) = self._kept.popitem(last=False)
            self._characters -= characters
        return prepared

    def trust(self, identifier: str, text: str) -> Prepared:
        """Keep a document for good, if it can be executed."""
        prepared = self.prepare(text)
        if not prepared.errors:
            self.trusted[hash_of(text)] = self.trusted[identifier] = prepared
        return prepared

    def _look_up(self, key: str | bytes) -> Prepared | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        self._kept.move_to_end(key)
        return kept[0]

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
        fragments = {
            part.name.value: part
            for part in document.definitions
            if isinstance(part, FragmentDefinitionNode)
        }
        operations: dict[str | None, Operation] = {}
        for node in document.definitions:
            if isinstance(node, OperationDefinitionNode):
                name = node.name.value if node.name else None
                cost = measured.costs[id(node)]
                operands = operands_of(document, node)
                names = field_names(node, fragments)
                plans = Plans(self.planner, node, fragments) if self.planner else None
                operations[name] = Operation(name, node.operation, cost, operands, names, plans)
        return Prepared(document, operations)


def refused(*errors: GraphQLError) -> Prepared:
    return Prepared(errors=tuple(present(error, "QUERY_TOO_COMPLEX") for error in errors))
