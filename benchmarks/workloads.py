"""What is asked, of whom, and how each peer is asked it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from benchmarks.dataset import Person
from benchmarks.documents import ENGRAM, ENGRAM_CURSOR, PLAIN, POSTGRAPHILE_CURSOR, postgraphile
from benchmarks.load import SERIAL
from benchmarks.shape import LONG

MIDDLE = LONG // 2
SERIAL_TEXT = SERIAL.decode()


@dataclass(frozen=True)
class Id:
    """A row by its type and its UUID."""

    type: str
    uuid: str


@dataclass(frozen=True)
class Middle:
    """The row in the middle of the list below a parent: a page is asked for after it."""

    parent: Id
    position: int
    uuid: str


Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class Workload:
    """One kind of request, asked for many people in turn."""

    name: str
    title: str
    requests: int
    """Of one measurement: about two seconds of work, and enough for a 99th percentile."""
    arguments: Callable[[Person], Arguments]
    writes: bool = False

    @property
    def document(self) -> str:
        """The name of its document: with and without a key it is the same."""
        return self.name.removesuffix("_keyed")


def _project(person: Person) -> Id:
    return Id("project", str(person.long_project))


def _conversation(person: Person) -> Id:
    return Id("conversation", str(person.long_conversation))


def _deep_task(person: Person) -> Arguments:
    project = _project(person)
    after = Middle(project, MIDDLE, str(person.middle_task))
    return {"id": project, "first": 20, "after": after}


def _deep_message(person: Person) -> Arguments:
    conversation = _conversation(person)
    after = Middle(conversation, MIDDLE - 1, str(person.middle_message))
    return {"id": conversation, "first": 20, "after": after}


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(
            "one_row",
            "One row",
            4_000,
            lambda person: {"id": Id("conversation", str(person.conversation))},
        ),
        Workload("lists", "20 lists of 20", 400, lambda _: {"first": 20, "each": 20}),
        Workload(
            "levels",
            "Three levels, 710 rows",
            300,
            lambda _: {"projects": 10, "tasks": 10, "steps": 6},
        ),
        Workload(
            "rows",
            "1,000 rows of 6 fields",
            200,
            lambda person: {"id": _project(person), "first": 1_000},
        ),
        Workload(
            "insert",
            "Insert",
            2_000,
            lambda _: {"input": {"title": f"Inserted {SERIAL_TEXT}"}},
            writes=True,
        ),
        Workload(
            "insert_keyed",
            "Insert, in Engram with an idempotency key",
            2_000,
            lambda _: {
                "input": {
                    "title": f"Inserted {SERIAL_TEXT}",
                    "idempotencyKey": f"key-{SERIAL_TEXT}",
                }
            },
            writes=True,
        ),
        Workload("deep", "20 rows in the middle of 10,000", 2_000, _deep_task),
        # Engram walks the active branch of a tree here; the others list all messages.
        Workload("chat_lists", "20 conversations of 20", 400, lambda _: {"first": 20, "each": 20}),
        Workload(
            "chat_rows",
            "1,000 messages",
            200,
            lambda person: {"id": _conversation(person), "first": 1_000},
        ),
        Workload("chat_deep", "20 messages in the middle of 10,000", 2_000, _deep_message),
    )
}
USUAL = ("one_row", "lists", "levels", "rows", "insert", "insert_keyed", "deep")
"""Those that `make bench` measures unless told otherwise."""


class Dialect:
    """How a peer is asked. This is Engram's; the others say what differs."""

    path = "/graphql"
    documents: Mapping[str, str] = ENGRAM
    cursors: Mapping[str, str] = ENGRAM_CURSOR
    """Documents that find the cursor of a place; none where a cursor can be written by hand."""
    page = 1_000
    """The most rows of a page."""

    def headers(self, person: Person) -> dict[str, str]:
        return {"authorization": f"Bearer {person.token}"}

    def id(self, row: Id) -> str:
        return f"{row.type}_{UUID(row.uuid).hex}"

    def cursor(self, place: Middle) -> str:
        raise NotImplementedError

    def variables(self, person: Person, arguments: Arguments) -> dict[str, Any]:
        """The variables of a request, but for cursors that have to be looked up."""
        return {name: self.value(given) for name, given in arguments.items()}

    def value(self, given: Any) -> Any:
        if isinstance(given, Id):
            return self.id(given)
        if isinstance(given, Middle) and not self.cursors:
            return self.cursor(given)
        return given

    def body(self, workload: Workload, variables: dict[str, Any]) -> bytes:
        return self.ask(self.documents[workload.document], variables)

    @staticmethod
    def ask(document: str, variables: dict[str, Any]) -> bytes:
        query = re.sub(r"\s+", " ", document).strip()
        return _json({"query": query, "variables": variables})


class PostGraphile(Dialect):
    """With row-level security, or open and with owners as arguments."""

    cursors = POSTGRAPHILE_CURSOR
    page = LONG

    def __init__(self, *, open_: bool) -> None:
        self.documents = postgraphile(open_=open_)

    def headers(self, person: Person) -> dict[str, str]:
        return {"x-owner": person.owner}

    def id(self, row: Id) -> str:
        return row.uuid

    def variables(self, person: Person, arguments: Arguments) -> dict[str, Any]:
        if "input" in arguments:
            row = {"ownerId": person.owner, "title": arguments["input"]["title"]}
            return {"input": {"conversation": row}}
        return {"owner": person.owner, **super().variables(person, arguments)}


class Plain(Dialect):
    """Apollo and Strawberry."""

    documents = PLAIN
    cursors: Mapping[str, str] = {}

    def headers(self, person: Person) -> dict[str, str]:
        return {"x-owner": person.owner}

    def id(self, row: Id) -> str:
        return row.uuid

    def cursor(self, place: Middle) -> str:
        return f"{place.position}:{place.uuid}"

    def variables(self, person: Person, arguments: Arguments) -> dict[str, Any]:
        if "input" in arguments:
            return {"input": {"title": arguments["input"]["title"]}}
        return super().variables(person, arguments)


class Limit(Plain):
    """No document, only the name of the question; ids are written as Engram writes them."""

    path = "/"

    def id(self, row: Id) -> str:
        return Dialect.id(self, row)

    def body(self, workload: Workload, variables: dict[str, Any]) -> bytes:
        return _json({"name": workload.document, "variables": variables})


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def comparable(answer: Any, name: str = "") -> Any:
    """An answer with what differs by dialect taken out: connections, ids, times, enum cases."""
    if isinstance(answer, dict):
        if set(answer) == {"nodes"}:
            return comparable(answer["nodes"])
        if "problems" in answer:
            assert answer["problems"] == [], answer
            answer = answer["conversation"]
        elif set(answer) == {"conversation"} and name == "createConversation":
            answer = answer["conversation"]
        return {key: comparable(value, key) for key, value in answer.items()}
    if isinstance(answer, list):
        return [comparable(value, name) for value in answer]
    if isinstance(answer, str):
        if name == "id":
            return answer.replace("-", "")[-32:]
        if name.endswith("At"):
            return datetime.fromisoformat(answer).timestamp()
        if name in {"status", "role"}:
            return answer.upper()
    return answer
