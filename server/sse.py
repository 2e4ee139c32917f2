"""GraphQL over server-sent events, one connection per operation ("distinct connections").

https://github.com/enisdenjo/graphql-sse/blob/master/PROTOCOL.md. Each answer is an event ``next``,
the end is an event ``complete``, and comment lines are the heartbeat.
"""

from __future__ import annotations

from server.execution import Answer
from server.negotiation import EVENTS
from server.streams import Framing

__all__ = ["SERVER_SENT_EVENTS"]

COMMENT = b":\n\n"


def event(answer: Answer, request_id: str) -> bytes:
    return b"event: next\ndata: " + answer.encode(request_id) + b"\n\n"


SERVER_SENT_EVENTS = Framing(
    media=f"{EVENTS}; charset=utf-8",
    opening=COMMENT,
    heartbeat=COMMENT,
    answer=event,
    ending=b"event: complete\ndata:\n\n",
)
