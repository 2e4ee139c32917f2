"""GraphQL over HTTP: what goes in, what comes out, and what is refused."""

import httpx
import pytest

from tests.edge.conftest import GRAPHQL, JSON, NewLogin, Served

HELLO = {"data": {"hello": "Hello, world!"}}


async def test_answers_a_query(served: Served) -> None:
    answer = await served.post("{ hello }")
    assert answer.status_code == 200
    assert answer.json() == HELLO
    assert answer.headers["content-type"] == f"{GRAPHQL}; charset=utf-8"
    assert answer.headers["vary"] == "Accept"


async def test_x(served: Served) -> None:
    for q in ["{ boom hello }", "{ boomNonNull }", "{ badId }", "{ tooBig }", "{ noJson }", "{ surrogate }", "{ nope }", "{", "query($a:Int!){number(value:$a)}", "{ number(value: \"x\") }", "{ echo(input:{text:\"\\u0000\"}) }", "{ json(value: 1"+"1"*5000+") }", "{number(value:1"+"1"*5000+")}", "{ sleep(seconds: 0.01) whoami requestId }"]:
        answer = await served.post(q)
        print(q[:60], answer.status_code, answer.text[:400])
