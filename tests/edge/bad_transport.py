"""Requests that are refused before there is a document: bodies, media types, tokens."""

from tests.edge.bad import Bad, ask, json_body

BODIES = [
    json_body("nothing at all", b"", "Input is a zero-length, empty document"),
    json_body("not JSON", b"query { hello }", "unexpected character, expected a JSON value"),
    json_body("half of JSON", b'{"query": "{ hello }"', "unexpected end of data"),
    json_body(
        "bad UTF-8", b'{"query": "\xff\xfe"}', "str is not valid UTF-8: surrogates not allowed"
    ),
    json_body("half a surrogate pair", b'{"query": "\\ud800"}', "no low surrogate in string"),
    json_body("a raw NUL", b'{"query": "\0"}', "unexpected control character in string"),
    json_body(
        "an integer of 5,000 digits",
        b'{"query": "{ hello }", "variables": {"n": ' + b"9" * 5_000 + b"}}",
        "number is infinity when parsed as double",
    ),
    json_body(
        "a number beyond a double",
        b'{"query": "{ hello }", "variables": {"n": 1e999}}',
        "number is infinity when parsed as double",
    ),
    json_body(
        "Infinity",
        b'{"query": "{ hello }", "variables": {"n": Infinity}}',
        "unexpected character, expected a JSON value",
    ),
    json_body("lists 100,000 deep", b"[" * 100_000 + b"]" * 100_000, "depth limit exceeded"),
    json_body(
        "objects 100,000 deep", b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "depth limit exceeded"
    ),
    *(
        Bad(
            f"the body {body.decode()}",
            body,
            400,
            "BAD_REQUEST",
            "A GraphQL request is a JSON object.",
        )
        for body in (b"null", b"42", b'"{ hello }"', b"true")
    ),
    Bad(
        "a batch",
        b'[{"query": "{ hello }"}]',
        400,
        "BAD_REQUEST",
        "Batches are not enabled: send one request.",
    ),
    Bad("no query", b"{}", 400, "BAD_REQUEST", "query must be a string."),
    Bad("a query that is a number", b'{"query": 1}', 400, "BAD_REQUEST", "query must be a string."),
    Bad("an empty query", ask("  "), 400, "BAD_REQUEST", "query must not be empty."),
    Bad(
        "variables that are a list",
        ask("{ hello }", variables=[]),
        400,
        "BAD_REQUEST",
        "variables must be an object or null.",
    ),
    Bad(
        "variables that are a string",
        ask("{ hello }", variables="{}"),
        400,
        "BAD_REQUEST",
        "variables must be an object or null.",
    ),
    Bad(
        "a name that is a number",
        ask("{ hello }", operationName=1),
        400,
        "BAD_REQUEST",
        "operationName must be a string or null.",
    ),
    Bad(
        "a name of 300 characters",
        ask("{ hello }", operationName="n" * 300),
        400,
        "BAD_REQUEST",
        "operationName must be at most 255 characters.",
    ),
    Bad(
        "extensions that are a string",
        ask("{ hello }", extensions="x"),
        400,
        "BAD_REQUEST",
        "extensions must be an object or null.",
    ),
    Bad(
        "a body of 20 MB",
        b'{"query": "' + b"x" * 20_000_000 + b'"}',
        413,
        "PAYLOAD_TOO_LARGE",
        "The body is larger than 8,388,608 bytes.",
    ),
    *(
        Bad(
            f"a million {name}",
            b'{"query": "{ hello }", "variables": {"x": [' + value * 1_000_000 + b"0]}}",
            400,
            "BAD_REQUEST",
            "The body holds more than 100,000 values.",
        )
        for name, value in (("numbers", b"0,"), ("lists", b"[],"), ("objects", b"{},"))
    ),
    Bad(
        "100,000 values to check",
        b'{"query": "{ hello }", "variables": {"j": [' + b"0," * 100_000 + b"0]}}",
        400,
        "BAD_REQUEST",
        "The body holds more than 100,000 values.",
    ),
]

TRANSPORT = [
    Bad(
        "no content type",
        ask("{ hello }"),
        415,
        "UNSUPPORTED_MEDIA_TYPE",
        "The body must be application/json in UTF-8.",
        headers={"content-type": ""},
    ),
    *(
        Bad(
            f"the content type {kind}",
            ask("{ hello }"),
            415,
            "UNSUPPORTED_MEDIA_TYPE",
            "The body must be application/json in UTF-8.",
            headers={"content-type": kind},
        )
        for kind in (
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/graphql",
            "application/json; charset=utf-16",
        )
    ),
    Bad(
        "a compressed body",
        ask("{ hello }"),
        415,
        "UNSUPPORTED_MEDIA_TYPE",
        "The body must not be compressed.",
        headers={"content-encoding": "gzip"},
    ),
    *(
        Bad(
            f"accepts {accept}",
            ask("{ hello }"),
            406,
            "NOT_ACCEPTABLE",
            "The answer can be application/graphql-response+json, application/json or, "
            "for a stream, text/event-stream.",
            headers={"accept": accept},
        )
        for accept in (
            "text/plain",
            "application/json;q=0",
            "image/*",
            "application/json; charset=utf-16",
        )
    ),
    *(
        Bad(
            f"the authorization {value[:20]}",
            ask("{ hello }"),
            401,
            "UNAUTHENTICATED",
            "The token is not valid: log in again.",
            headers={"authorization": value},
        )
        for value in (
            "Bearer",
            "Bearer nonsense",
            "Basic dTpw",
            "Bearer " + "x" * 5_000,
            "Bearer eg_" + "0" * 32 + "_" + "A" * 43,
        )
    ),
]
