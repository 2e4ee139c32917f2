"""The stream of a provider is read as the HTML Standard reads events, however it is cut."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.replies.calls import Calls
from server.replies.events import END, MAX_EVENT_BYTES, Decoder, TooLong
from server.replies.provider import ToolCall

STREAM = (
    "\ufeffdata: one\n\n: no\n\nretry: 5\n\nevent: x\r\n\r\ndata\n\ndata:\n\nid: 4\rdata:two\r\r"
    "data: é\r\ndata:  three\r\nevent: y\r\n\r\ndata: [DONE]\n"
).encode()
EVENTS = ["one", "two", "é\n three", END]


def read(parts: Sequence[bytes]) -> list[str]:
    decoder = Decoder()
    return [data for part in parts for data in decoder.feed(part)] + list(decoder.finish())


@given(st.lists(st.integers(0, len(STREAM))))
def test_events_are_the_same_wherever_the_stream_is_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    parts = [STREAM[start:end] for start, end in pairwise(edges)]
    assert read(parts) == EVENTS


def test_the_end_of_the_last_line_may_be_missing_but_not_that_of_an_event() -> None:
    assert read([b"data: one\n\ndata: [DONE]"]) == ["one", END]
    assert read([b"data: one\n\ndata: two\n"]) == ["one"]
    assert read([b"data: one\n\ndata: two"]) == ["one"]


@pytest.mark.parametrize("line", [b"a", b": a", b"data: a\n"])
def test_an_event_is_not_longer_than_the_limit(line: bytes) -> None:
    decoder = Decoder()
    with pytest.raises(TooLong):
        for _ in range(MAX_EVENT_BYTES + 1):
            list(decoder.feed(line * 4096))


def test_comments_are_forgotten() -> None:
    decoder = Decoder()
    for _ in range(40):
        assert list(decoder.feed(b": ping\n\n" * 8192)) == []


def calls(*pieces: tuple[int, str, str, str]) -> list[tuple[str, str, str]]:
    found = Calls()
    for piece in pieces:
        found.take(ToolCall(*piece))
    return [(one.id, one.name, "".join(one.arguments)) for one in found]


def test_a_call_goes_on_by_its_id_or_its_index() -> None:
    begun = [(0, "a", "x", "1"), (0, "b", "y", "2")]
    assert calls(*begun, (0, "", "", "3"), (0, "a", "x", "4")) == [
        ("a", "x", "14"),
        ("b", "y", "23"),
    ]
    assert calls((1, "b", "y", "2"), (0, "a", "x", "1"), (1, "", "", "3")) == [
        ("a", "x", "1"),
        ("b", "y", "23"),
    ]


def test_an_id_that_is_made_up_for_each_piece_begins_no_call() -> None:
    assert calls((0, "a", "x", ""), (0, "b", "", "1"), (0, "c", "", "2")) == [("a", "x", "12")]
