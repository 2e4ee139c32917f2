"""Subscriptions as the parts of one HTTP response, as Apollo Client reads them.

https://www.apollographql.com/docs/graphos/routing/operations/subscriptions/multipart-protocol.
Each answer is the ``payload`` of a part. What ends the subscription, because it was refused, broke,
or lost its login, is a part whose payload is null, with the errors beside it. An empty object is
the heartbeat. The boundary that ends a part is sent with it, so that the part is whole at once.
"""

from __future__ import annotations

import orjson

from server.execution import Answer
from server.negotiation import MULTIPART
from server.streams import Framing

__all__ = ["MULTIPART_SUBSCRIPTION"]

BOUNDARY = b"\r\n--graphql"


def part(body: bytes) -> bytes:
    return b"\r\ncontent-type: application/json\r\n\r\n" + body + BOUNDARY


def answer_part(answer: Answer, request_id: str) -> bytes:
    if not answer.executed:
        return part(orjson.dumps({"payload": None, "errors": answer.errors}))
    return part(b'{"payload":' + answer.encode(request_id) + b"}")


MULTIPART_SUBSCRIPTION = Framing(
    media=f'{MULTIPART};boundary="graphql";subscriptionSpec=1.0',
    opening=BOUNDARY,
    heartbeat=part(b"{}"),
    answer=answer_part,
    ending=b"--\r\n",
)
