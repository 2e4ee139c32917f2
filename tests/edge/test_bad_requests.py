"""The corpus of bad requests, each with its exact answer.

None is answered with a 500, none takes long, none shows SQL, paths or anything of the server.
"""

import re
from pathlib import Path
from time import process_time

import pytest

from tests.edge.bad import Bad
from tests.edge.bad_documents import BOMBS, DOCUMENTS
from tests.edge.bad_transport import BODIES, TRANSPORT
from tests.edge.conftest import GRAPHQL, JSON, Served

CPU_SECONDS = 0.1  # for server and client together, in the best of three tries
ROOT = re.escape(str(Path(__file__).parents[2]))
LEAKS = re.compile(rf"Traceback|\.py|SELECT|asyncpg|sqlalchemy|{ROOT}|site-packages", re.IGNORECASE)

CORPUS = BODIES + TRANSPORT + DOCUMENTS + BOMBS


@pytest.mark.parametrize("bad", CORPUS, ids=lambda bad: bad.name)
async def test_a_bad_request_has_its_exact_answer(served: Served, bad: Bad) -> None:
    headers = {"accept": GRAPHQL, "content-type": JSON} | bad.headers
    headers = {name: value for name, value in headers.items() if value}
    spent = []
    for attempt in range(3):
        # A document is kept once checked: each try is another one, and checked again.
        body = bad.body.replace(b'"query":"', b'"query":"' + b" " * attempt)
        before = process_time()
        answer = await served.client.post("/graphql", content=body, headers=headers)
        spent.append(process_time() - before)
        if attempt == 0:
            first = answer
    errors = first.json()["errors"]
    assert (first.status_code, errors[0]["extensions"]["code"], errors[0]["message"]) == (
        bad.status,
        bad.code,
        bad.message,
    )
    assert errors[0]["extensions"] == {"code": bad.code} | bad.extensions
    assert "data" not in first.json()
    assert LEAKS.search(first.text) is None
    print(f"{min(spent) * 1000:.1f} ms of CPU")
    assert min(spent) < CPU_SECONDS
