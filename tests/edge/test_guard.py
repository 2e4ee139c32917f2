"""The guard counts what a document expands to, without expanding it."""

from collections import Counter
from dataclasses import replace
from time import process_time

import pytest
from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
    build_schema,
    get_introspection_query,
    parse,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from server.documents import Documents
from server.guard import Guard, Limits
from tests.edge.bad_documents import doubling

SCHEMA = build_schema(
    """
    type Query { a: Query! b: Int c(n: Int): Int list: [Query!]! nodes(ids: [ID!]!): [Query]!
                 page(first: Int, last: Int): QueryConnection! }
    type QueryConnection { nodes: [Query!]! edges: [QueryEdge!]! pageInfo: PageInfo! }
    type QueryEdge { cursor: String! node: Query! }
    type PageInfo { hasNextPage: Boolean! }
    """
)
UNLIMITED = Limits(**dict.fromkeys(Limits.__slots__, 10**9) | {"default_page": 20})
COUNTED = ("fields", "spreads", "aliases", "root_fields", "directives", "depth", "repeats")


# Random documents: fragments spread only later ones, so there are no cycles.


def selections(later: list[str]) -> st.SearchStrategy[str]:
    directive = st.sampled_from(["", "", "", " @include(if: true)", " @skip(if: false) @x"])
    alias = st.sampled_from(["", "", "x: ", "y: ", "b: "])
    leaf = st.builds(lambda a, d: f"{a}b{d}", alias, directive)
    spread = st.builds(
        lambda name, d: f"...{name}{d}", st.sampled_from(later or ["Missing"]), directive
    )

    def extend(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        several = st.lists(inner, min_size=1, max_size=4).map(" ".join)
        return st.one_of(
            st.builds(lambda a, d, s: f"{a}a{d} {{ {s} }}", alias, directive, several),
            st.builds(lambda d, s: f"...{d} {{ {s} }}", directive, several),
            st.builds(lambda s: f"... on Query {{ {s} }}", several),
        )

    one = st.recursive(leaf | spread if later else leaf, extend, max_leaves=6)
    return st.lists(one, min_size=1, max_size=4).map(" ".join)


@st.composite
def documents(draw: st.DrawFn) -> str:
    names = [f"F{n}" for n in range(draw(st.integers(0, 4)))]
    parts = [f"{{ {draw(selections(names))} }}"]
    for index, name in enumerate(names):
        parts.append(f"fragment {name} on Query {{ {draw(selections(names[index + 1 :]))} }}")
    return " ".join(parts)


class Naive:
    """Counts by expanding everything, one operation at a time."""

    def __init__(self, document: DocumentNode) -> None:
        self.fragments = {
            node.name.value: node
            for node in document.definitions
            if isinstance(node, FragmentDefinitionNode)
        }
        self.count: Counter[str] = Counter()
        self.places: Counter[tuple[str, ...]] = Counter()
        self.reached: set[str] = set()

    def expand(self, selected: SelectionSetNode, path: tuple[str, ...]) -> None:
        for node in selected.selections:
            self.count["directives"] += len(node.directives or ())
            if isinstance(node, FieldNode):
                self.count["fields"] += 1
                self.count["root_fields"] += not path
                self.count["aliases"] += bool(node.alias and node.alias.value != node.name.value)
                place = (*path, (node.alias or node.name).value)
                self.places[place] += 1
                self.count["depth"] = max(self.count["depth"], len(place))
                if node.selection_set:
                    self.expand(node.selection_set, place)
                continue
            self.count["spreads"] += 1
            if isinstance(node, InlineFragmentNode):
                self.expand(node.selection_set, path)
            elif isinstance(node, FragmentSpreadNode) and node.name.value in self.fragments:
                self.reached.add(node.name.value)
                self.expand(self.fragments[node.name.value].selection_set, path)


def naive(document: DocumentNode) -> dict[str, int]:
    """What the guard should count: totals of the document, the most of a single operation."""
    roots = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
    first = Naive(document)
    for node in roots:
        first.expand(node.selection_set, ())
    counts = [first]
    for name, fragment in first.fragments.items():
        if all(name not in count.reached for count in counts):
            unreached = Naive(document)
            unreached.reached.add(name)
            unreached.expand(fragment.selection_set, ())
            counts.append(unreached)
    found = {
        name: sum(count.count[name] for count in counts)
        for name in ("fields", "spreads", "directives")
    }
    found |= {
        name: max(count.count[name] for count in counts)
        for name in ("aliases", "root_fields", "depth")
    }
    found["repeats"] = max((max(count.places.values(), default=0) for count in counts), default=0)
    return found


@settings(max_examples=150, deadline=None)
@given(documents())
def test_it_counts_as_expanding_would(text: str) -> None:
    document = parse(text)
    expected = naive(document)
    for name in COUNTED:
        value = expected[name]
        at_bound = Guard(SCHEMA, replace(UNLIMITED, **{name: value})).measure(document)
        assert at_bound.refusals == (), (name, value)
        if value > 0:
            below = Guard(SCHEMA, replace(UNLIMITED, **{name: value - 1})).measure(document)
            assert [error.extensions for error in below.refusals][:1] == [
                {
                    "code": "QUERY_TOO_COMPLEX",
                    "limit": name,
                    "value": value,
                    "bound": value - 1,
                }
            ]


PAGES = [
    ("{ b c }", {}, 0),
    ("{ a { b } }", {}, 1),
    ("{ a { a { a { b } } } }", {}, 3),
    ("{ page { nodes { b } } }", {}, 20),
    ("{ page(first: 7) { pageInfo { hasNextPage } nodes { b } edges { node { b } } } }", {}, 7),
    ("{ page(first: 7) { nodes { page(last: 3) { edges { node { b } } } } } }", {}, 7 * 4),
    ("{ page(first: 7) { nodes { a { b } page { nodes { b } } } } }", {}, 7 * 22),
    ("{ page(first: -1) { nodes { b } } }", {}, 1),
    ("{ page(first: 0) { nodes { b } } }", {}, 1),
    ("{ page(first: 100000) { nodes { b } } }", {}, 1_000),
    ("{ page(first: 99999999999999999999) { nodes { b } } }", {}, 1_000),
    ("{ page(first: null) { nodes { b } } }", {}, 20),
    ("{ page(first: 5, last: 9) { nodes { b } } }", {}, 9),
    ('{ nodes(ids: ["1", "2", "3"]) { a { b } } }', {}, 6),
    ("{ list { b } }", {}, 20),
    ("query($n: Int) { page(first: $n) { nodes { b } } }", {}, 20),
    ("query($n: Int = 8) { page(first: $n) { nodes { b } } }", {}, 8),
    ("query($n: Int = 8) { page(first: $n) { nodes { b } } }", {"n": None}, 20),
    ("query($n: Int = 8) { page(first: $n) { nodes { b } } }", {"n": 30}, 30),
    ("query($n: Int!) { page(first: $n) { nodes { b } } }", {"n": 30.0}, 30),
    ("query($n: Int!) { page(first: $n) { nodes { b } } }", {"n": "30"}, 20),
    ("query($n: Int!) { page(first: $n) { nodes { b } } }", {"n": True}, 20),
    ("query($n: Int!) { page(first: $n) { nodes { b } } }", {"n": -5}, 1),
    ("query($n: Int!) { page(first: $n) { nodes { b } } }", {"n": 10**18}, 1_000),
    ("query($n: Int!, $m: Int!) { page(first: $n, last: $m) { nodes { b } } }", {"m": 9}, 9),
    ("query($n: Int!) { page(first: $n) { nodes { ...F } } } fragment F on Query "
     "{ page(first: $n) { nodes { b } } }", {"n": 9}, 9 * 10),
    ("query($i: [ID!]!) { nodes(ids: $i) { page(first: 2) { nodes { b } } } }",
     {"i": ["1"] * 50}, 50 * 3),
    ("query($i: [ID!] = [\"1\", \"2\"]) { nodes(ids: $i) { b } }", {}, 2),
    ("{ __schema { types { name } } }", {}, 0),
]  # fmt: skip


@pytest.mark.parametrize(("text", "variables", "cost"), PAGES)
def test_the_cost_multiplies_page_sizes(text: str, variables: dict[str, object], cost: int) -> None:
    [program] = Guard(SCHEMA, Limits()).measure(parse(text)).costs.values()
    assert program.evaluate(variables) == cost


def test_fragments_that_double_cost_no_more_than_their_number() -> None:
    guard = Guard(SCHEMA, Limits())
    document = parse(doubling(100).replace("hello", "b"))
    before = process_time()
    measured = guard.measure(document)
    assert process_time() - before < 0.1
    assert [error.extensions["limit"] for error in measured.refusals if error.extensions] == [
        "root_fields",
        "fields",
        "spreads",
    ]


def test_fragments_that_all_spread_each_other_are_one_mistake() -> None:
    names = [f"F{n}" for n in range(60)]
    every = " ".join(f"...{name}" for name in names[:8])
    text = f"{{ {every} }} " + " ".join(
        f"fragment {name} on Query {{ b {every} }}" for name in names[:40]
    )
    before = process_time()
    prepared = Documents(SCHEMA, Limits()).prepare(text)
    assert process_time() - before < 0.1
    assert prepared.errors[0]["extensions"] == {"code": "GRAPHQL_VALIDATION_FAILED"}
    assert "within itself" in prepared.errors[0]["message"]


@pytest.mark.parametrize("deep", [False, True])
def test_the_standard_introspection_query_passes(deep: bool) -> None:
    query = get_introspection_query(
        specified_by_url=True,
        directive_is_repeatable=True,
        schema_description=True,
        input_value_deprecation=True,
        one_of=deep,
    )
    assert Documents(SCHEMA, Limits()).prepare(query).errors == ()


def test_introspection_has_a_depth_bound_of_its_own() -> None:
    text = "{ __schema { queryType { " + "ofType { " * 20 + "name" + " }" * 23
    [error] = Guard(SCHEMA, Limits()).measure(parse(text)).refusals
    assert error.extensions == {
        "code": "QUERY_TOO_COMPLEX",
        "limit": "introspection_depth",
        "value": 23,
        "bound": 20,
    }


def test_the_cache_of_documents_is_bounded_in_number_and_in_size() -> None:
    documents = Documents(SCHEMA, Limits(), kept_documents=10, kept_characters=200)
    first = documents.prepare("{ b }")
    assert documents.prepare("{ b }") is first
    for number in range(20):
        documents.prepare(f"{{ b }} # {number}")
    assert len(documents) == 10
    assert documents.prepare("{ b }") is not first
    documents.prepare("{ b } #" + "x" * 190)
    assert len(documents) <= 2
