"""The trusted documents of the servers `trusting` and `strict`."""

GREET = """\
query Greet($name: String! = "world") {
  hello(name: $name)
}"""  # as Apollo Client prints it, to have the same hash
WRITE = "mutation Write($name: String!) { write(name: $name) }"
TWO = 'query A { hello } mutation B { write(name: "two") }'
COUNT = "subscription Count { count(to: 2) }"
BOOM = "query Boom { hello boom }"
PAGES = (
    "query Pages($first: Int!) { things(first: $first) { nodes { things(first: 1000)"
    " { nodes { name } } } } }"
)
WHO = "query Who { whoami }"
DOCUMENTS = {
    "greet": GREET,
    "write": WRITE,
    "two": TWO,
    "count": COUNT,
    "boom": BOOM,
    "pages": PAGES,
    "who": WHO,
}
