"""Requests whose document, name or variables are refused."""

from tests.edge.bad import Bad, ask, complex_document


def doubling(times: int) -> str:
    """Fragments that each spread the next one twice."""
    links = "".join(f"fragment F{n} on Query {{ ...F{n + 1} ...F{n + 1} }} " for n in range(times))
    return f"{{ ...F0 }} {links} fragment F{times} on Query {{ hello }}"


def nested_things(levels: int) -> str:
    return "{ " + "things { nodes { " * levels + "name" + " } }" * levels + " }"


DOCUMENTS = [
    Bad(
        "a document cut off",
        ask("{ hello"),
        400,
        "GRAPHQL_PARSE_FAILED",
        "Syntax Error: Expected Name, found <EOF>.",
    ),
    Bad(
        "a document of the schema language",
        ask("type A { b: Int }"),
        400,
        "GRAPHQL_VALIDATION_FAILED",
        "The 'A' definition is not executable.",
    ),
    Bad(
        "a fragment alone",
        ask("fragment F on Query { hello }"),
        400,
        "GRAPHQL_VALIDATION_FAILED",
        "Fragment 'F' is never used.",
    ),
    Bad(
        "an unknown field, with no hint at known ones",
        ask("{ helo }"),
        400,
        "GRAPHQL_VALIDATION_FAILED",
        "Cannot query field 'helo' on type 'Query'.",
    ),
    Bad(
        "a fragment that spreads itself",
        ask("{ ...F } fragment F on Query { hello ...F }"),
        400,
        "GRAPHQL_VALIDATION_FAILED",
        "Cannot spread fragment 'F' within itself.",
    ),
    Bad(
        "two operations and no name",
        ask("query A { hello } query B { hello }"),
        400,
        "OPERATION_RESOLUTION_FAILURE",
        "The document has several operations: say which operationName.",
    ),
    Bad(
        "an unknown operation name",
        ask("query A { hello }", operationName="B"),
        400,
        "OPERATION_RESOLUTION_FAILURE",
        "The document has no operation of that name.",
    ),
    Bad(
        "an empty operation name",
        ask("query A { hello }", operationName=""),
        400,
        "OPERATION_RESOLUTION_FAILURE",
        "The document has no operation of that name.",
    ),
    Bad(
        "a variable of the wrong type",
        ask("query($n: Int!) { number(value: $n) }", variables={"n": "one"}),
        400,
        "BAD_USER_INPUT",
        "Variable '$n' has invalid value: Int cannot represent non-integer value: 'one'",
    ),
    Bad(
        "a variable left out",
        ask("query($n: Int!) { number(value: $n) }"),
        400,
        "BAD_USER_INPUT",
        "Variable '$n' has invalid value: Expected a value of non-null type 'Int!' to be provided.",
    ),
    Bad(
        "an integer of 40 bits",
        ask("query($n: Int!) { number(value: $n) }", variables={"n": 2**40}),
        400,
        "BAD_USER_INPUT",
        "Variable '$n' has invalid value: "
        "Int cannot represent non 32-bit signed integer value: 1099511627776",
    ),
    Bad(
        "an integer of 30 digits",
        b'{"query": "query($n: Int!) { number(value: $n) }", "variables": {"n": '
        + b"1" * 30
        + b"}}",
        400,
        "BAD_USER_INPUT",
        "Variable '$n' has invalid value: "
        "Int cannot represent non 32-bit signed integer value: 1.111111111111111e+29",
    ),
    Bad(
        "a NUL in a variable",
        ask("query($i: EchoInput!) { echo(input: $i) }", variables={"i": {"text": "a\0b"}}),
        400,
        "BAD_USER_INPUT",
        "Variable '$i' has invalid value at 'i.text': text must not hold the character U+0000.",
        {"variable": "i", "path": ["text"]},
    ),
    Bad(
        "a NUL in a list in a variable",
        ask("query($j: JSON) { json(value: $j) }", variables={"j": [{"a": ["x", "\0"]}]}),
        400,
        "BAD_USER_INPUT",
        "Variable '$j' has invalid value at 'j.0.a.1': text must not hold the character U+0000.",
        {"variable": "j", "path": ["0", "a", "1"]},
    ),
    Bad(
        "a NUL in a key",
        ask("query($j: JSON) { json(value: $j) }", variables={"j": {"\0": 1}}),
        400,
        "BAD_USER_INPUT",
        "Variable '$j' has invalid value: text must not hold the character U+0000.",
        {"variable": "j", "path": []},
    ),
    Bad(
        "a NUL in a literal",
        ask('{ hello(name: "\\u0000") }'),
        400,
        "BAD_USER_INPUT",
        "Text must not hold the character U+0000.",
    ),
    Bad(
        "half a surrogate pair in a literal",
        ask('{ hello(name: "\\uD800") }'),
        400,
        "GRAPHQL_PARSE_FAILED",
        "Syntax Error: Invalid Unicode escape sequence: '\\uD800'.",
    ),
    Bad(
        "a literal of 5,000 digits",
        ask(f"{{ number(value: {'9' * 5_000}) }}"),
        400,
        "BAD_USER_INPUT",
        "An integer must fit 64 bits.",
    ),
    Bad(
        "a literal of 5,000 digits as JSON",
        ask(f"{{ json(value: [{'9' * 5_000}]) }}"),
        400,
        "BAD_USER_INPUT",
        "An integer must fit 64 bits.",
    ),
    Bad(
        "a literal beyond a double",
        ask("{ json(value: 1e999) }"),
        400,
        "BAD_USER_INPUT",
        "A number must fit a double.",
    ),
    Bad(
        "two members of a oneOf",
        ask('{ choose(choice: {left: "l", right: 1}) }'),
        400,
        "GRAPHQL_VALIDATION_FAILED",
        "OneOf Input Object 'Choice' must specify exactly one key.",
    ),
    Bad(
        "a subscription asked as JSON",
        ask("subscription { count(to: 1) }"),
        406,
        "NOT_ACCEPTABLE",
        "A subscription is answered over a WebSocket (graphql-transport-ws), or as a stream to a "
        "request that accepts text/event-stream or multipart/mixed;subscriptionSpec=1.0.",
    ),
    Bad(
        "values nested 300 deep",
        ask("{ json(value: " + "[" * 300 + "]" * 300 + ") }"),
        400,
        "GRAPHQL_PARSE_FAILED",
        "Syntax Error: Document is nested too deeply. Parsing aborted.",
    ),
]

BOMBS = [
    complex_document("a bomb of 2^22 fields", doubling(22), "root_fields", 2**22, 20),
    complex_document("a bomb of 2^60 fields", doubling(60), "root_fields", 1_000_000_000, 20),
    complex_document(
        "10,000 aliases",
        "{ " + " ".join(f"a{n}: hello" for n in range(10_000)) + " }",
        "length",
        128_893,
        100_000,
    ),
    complex_document(
        "300 aliases",
        "{ " + " ".join(f"a{n}: hello" for n in range(300)) + " }",
        "aliases",
        300,
        30,
    ),
    complex_document(
        "5,000 aliases",
        "{ " + " ".join(f"a{n}:hello" for n in range(5_000)) + " }",
        "tokens",
        1_001,
        1_000,
    ),
    complex_document(
        "5,000 directives", "{ hello " + "@skip(if: false) " * 5_000 + "}", "tokens", 1_001, 1_000
    ),
    complex_document("100 directives", "{ hello " + "@a " * 100 + "}", "directives", 100, 50),
    complex_document(
        "a field repeated 900 times", "{ " + "hello " * 900 + "}", "root_fields", 900, 20
    ),
    complex_document(
        "repeated below repeated",
        "{ " + "things { nodes { name } nodes { name } } " * 19 + "}",
        "repeats",
        38,
        32,
    ),
    complex_document("14 levels", nested_things(7), "depth", 15, 12),
    complex_document(
        "3 levels of 100",
        "{ things(first: 100) { nodes { things(first: 100) { nodes { things(first: 100) "
        "{ nodes { name } } } } } } }",
        "cost",
        1_010_100,
        10_000,
    ),
    complex_document(
        "a page of 100,000 with pages",
        "{ things(first: 100000) { nodes { things(first: 20) { nodes { name } } } } }",
        "cost",
        21_000,
        10_000,
    ),
    complex_document(
        "1 MB of comments", "{ hello } #" + "x" * 1_000_000, "length", 1_000_011, 100_000
    ),
    complex_document("2,000 comments", "{ hello } " + "#\n" * 2_000, "tokens", 1_001, 1_000),
    Bad(
        "pages whose size is a variable",
        ask(
            "query($n: Int) { things(first: $n) { nodes "
            "{ things(first: $n) { nodes { name } } } } }",
            variables={"n": 500},
        ),
        400,
        "QUERY_TOO_COMPLEX",
        "The document is too complex: cost 250,500, at most 10,000 allowed.",
        {"limit": "cost", "value": 250_500, "bound": 10_000},
    ),
    *(
        Bad(
            f"{name} with too many objects",
            ask(query, variables={"j": [{}] * 2_501}),
            400,
            "QUERY_TOO_COMPLEX",
            f"The document is too complex: objects 2,501, at most {bound:,} allowed.",
            {"limit": "objects", "value": 2_501, "bound": bound},
        )
        for name, query, bound in (
            ("a query", "query($j: JSON) { json(value: $j) }", 500),
            ("a mutation", "mutation($j: JSON) { note(value: $j) }", 2_500),
        )
    ),
    Bad(
        "introspection that goes round in circles",
        ask(
            "{ __schema { types { fields { type { fields "
            "{ type { fields { type { name } } } } } } } } }"
        ),
        400,
        "GRAPHQL_VALIDATION_FAILED",
        "Maximum introspection depth exceeded",
    ),
]
