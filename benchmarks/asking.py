"""Requests for a peer, and the proof that all peers give the same answers."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256
from http.client import HTTPConnection
from typing import Any

import orjson

from benchmarks.dataset import Dataset, Person
from benchmarks.load import SERIAL
from benchmarks.peers import Running
from benchmarks.workloads import Middle, Workload, comparable

ANSWER_SECONDS = 60
FRESH = ("id", "createdAt")
"""What every insert answers anew."""


class Disagreement(Exception):
    """Two peers, or one peer twice, gave different answers."""


@dataclass(frozen=True)
class Request:
    """One request to one peer, as bytes, and the digest of what it must answer."""

    path: str
    headers: dict[str, str]
    body: bytes
    digest: str | None

    def job(self, port: int) -> dict[str, str | None]:
        """What the load generator is told."""
        lines = [
            f"POST {self.path} HTTP/1.1",
            f"host: 127.0.0.1:{port}",
            "accept: application/json",
            "content-type: application/json",
            f"content-length: {len(self.body)}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        head = "\r\n".join([*lines, "", ""]).encode()
        return {
            "head": b64encode(head).decode(),
            "body": b64encode(self.body).decode(),
            "digest": self.digest,
        }


@dataclass
class Asked:
    """The requests of a workload to a peer, and the content of their answers."""

    requests: list[Request]
    answers: list[Any]


def ask(running: Running, workload: Workload, dataset: Dataset) -> Asked:
    """Make a workload's requests and send each of them once."""
    asked = Asked([], [])
    dialect = running.peer.dialect
    for person in dataset.writers if workload.writes else dataset.readers:
        variables = dialect.variables(person, workload.arguments(person))
        for name, given in variables.items():
            if isinstance(given, Middle):
                variables[name] = _cursor(running, person, given)
        body = dialect.body(workload, variables)
        headers = dialect.headers(person)
        sent = body.replace(SERIAL, b"0" * len(SERIAL)) if workload.writes else body
        answer = _post(running, dialect.path, headers, sent)
        digest = None if workload.writes else sha256(answer).hexdigest()
        asked.requests.append(Request(dialect.path, headers, body, digest))
        asked.answers.append(_content(running, answer, workload))
    return asked


def compare(workload: Workload, asked: dict[str, Asked]) -> None:
    """Raise Disagreement unless all peers answered the same."""
    first, *others = asked
    for other in others:
        for one, two in zip(asked[first].answers, asked[other].answers, strict=True):
            if one != two:
                where = _difference(one, two)
                raise Disagreement(f"{workload.name}: {first} and {other} differ: {where}")
    if {"engram", "limit"} <= asked.keys():
        ours, limits = asked["engram"].requests, asked["limit"].requests
        if [one.digest for one in ours] != [one.digest for one in limits]:
            raise Disagreement(f"{workload.name}: the limit's answers are not Engram's to the byte")


def _post(running: Running, path: str, headers: dict[str, str], body: bytes) -> bytes:
    connection = HTTPConnection("127.0.0.1", running.port, timeout=ANSWER_SECONDS)
    try:
        fixed = {"accept": "application/json", "content-type": "application/json"}
        connection.request("POST", path, body, {**fixed, **headers})
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    if response.status != 200 or b'"errors"' in answer:
        said = answer[:1_000].decode(errors="replace")
        raise Disagreement(f"{running.peer.name} answers {response.status}: {said}")
    return answer


def _content(running: Running, answer: bytes, workload: Workload) -> Any:
    content = comparable(orjson.loads(answer)["data"])
    if not workload.writes:
        return content
    made = content["createConversation"]
    if not all(made.get(name) for name in FRESH):
        raise Disagreement(f"{running.peer.name} did not say what it inserted: {made}")
    return {name: value for name, value in made.items() if name not in FRESH}


def _cursor(running: Running, person: Person, place: Middle) -> str:
    """Where the row in the middle is, by walking there once."""
    dialect = running.peer.dialect
    after: str | None = None
    left = place.position + (place.parent.type == "conversation")  # depths count from 0
    while left:
        size = min(left, dialect.page)
        variables = {"id": dialect.id(place.parent), "first": size, "after": after}
        if "$owner" in dialect.cursors[place.parent.type]:
            variables["owner"] = person.owner
        body = dialect.ask(dialect.cursors[place.parent.type], variables)
        answer = orjson.loads(_post(running, dialect.path, dialect.headers(person), body))
        after = answer["data"]["parent"]["page"]["pageInfo"]["endCursor"]
        left -= size
    assert after is not None
    return after


def _difference(one: Any, two: Any, path: str = "") -> str:
    if isinstance(one, dict) and isinstance(two, dict) and one.keys() == two.keys():
        for key in one:
            if one[key] != two[key]:
                return _difference(one[key], two[key], f"{path}.{key}")
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        for number, (left, right) in enumerate(zip(one, two, strict=True)):
            if left != right:
                return _difference(left, right, f"{path}[{number}]")
    return f"{path}: {str(one)[:300]} and {str(two)[:300]}"
