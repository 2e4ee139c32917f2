"""A mirror: one's projects, tasks, conversations and documents in a SQLite file, kept up to date.

    ENGRAM_TOKEN=eg_… python examples/follow_changes.py mine.sqlite

At first it reads everything; then it follows the changes. Each change, and the cursor that says
how far it has come, are written to the file in one transaction. However it ends (Ctrl-C, kill -9, a
lost connection, a server that is replaced), it goes on where it was, and misses nothing. With
`--once` it catches up with what has changed since the last time, and ends.

What it needs to know:

- A change may come twice, so writing it must be repeatable. This stores the row as it is now, or
  removes it when there is none.
- A cursor may be refused (BAD_CURSOR) when the server's database was restored from a backup. Then
  everything is read anew.

It needs Python 3.11 and httpx.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx

URL = os.environ.get("ENGRAM_URL", "http://127.0.0.1:8000/graphql")
LONGEST_PAUSE_SECONDS = 5.0
QUIET_SECONDS = 30.0
"""The server sends a heartbeat more often than this; without one the connection is dead."""

TYPES = {
    "PROJECT": ("projects", "Project", "name key description version"),
    "TASK": ("tasks", "Task", "title status priority number version"),
    "CONVERSATION": ("conversations", "Conversation", "subject: title tags version"),
    "DOCUMENT": ("documents", "Document", "title kind version"),
}
"""What is mirrored: the list to read it from, its type, its fields."""
NODE = (
    "node { " + " ".join(f"... on {name} {{ {show} }}" for _, name, show in TYPES.values()) + " }"
)
CHANGE = f"cursor action entityId entityType {NODE}"
LATEST = "{ changes(first: 0) { latestCursor } }"
PAGE = """query($after: String) {{
    page: {field}(first: 500, after: $after) {{
        nodes {{ id {show} }} pageInfo {{ hasNextPage endCursor }}
    }}
}}"""
CATCH_UP = f"""query($after: String!, $types: [EntityType!]) {{
    page: changes(first: 500, after: $after, entityTypes: $types) {{
        nodes {{ {CHANGE} }} pageInfo {{ hasNextPage endCursor }}
    }}
}}"""
FOLLOW = f"""subscription($after: String!, $types: [EntityType!]) {{
    changes(after: $after, entityTypes: $types) {{ {CHANGE} }}
}}"""
Object = dict[str, Any]


class CursorRefused(Exception):
    """The feed no longer holds the place where we were."""


class Mirror:
    """The file: the rows, and how far the feed was followed."""

    def __init__(self, path: str) -> None:
        self._file = sqlite3.connect(path)
        self._file.executescript(
            """
            CREATE TABLE IF NOT EXISTS rows (id TEXT PRIMARY KEY, type TEXT, data TEXT);
            CREATE TABLE IF NOT EXISTS place (one INTEGER PRIMARY KEY CHECK (one = 1), cursor TEXT);
            """
        )

    @property
    def cursor(self) -> str | None:
        """How far we have come; None at first."""
        row = self._file.execute("SELECT cursor FROM place").fetchone()
        return None if row is None else str(row[0])

    def replace(self, rows: list[tuple[str, str, Object]], cursor: str) -> None:
        """Hold these rows and no others."""
        with self._file:
            self._file.execute("DELETE FROM rows")
            for kind, identifier, data in rows:
                self._put(kind, identifier, data)
            self._go_to(cursor)

    def apply(self, changes: list[Object], cursor: str) -> None:
        """Take over changes, and how far we have come with them, in one transaction."""
        with self._file:
            for change in changes:
                self._put(change["entityType"], change["entityId"], change["node"])
            self._go_to(cursor)

    def _put(self, kind: str, identifier: str, data: Object | None) -> None:
        self._file.execute("DELETE FROM rows WHERE id = ?", [identifier])
        if data is not None:
            row = [identifier, kind, json.dumps(data, sort_keys=True)]
            self._file.execute("INSERT INTO rows VALUES (?, ?, ?)", row)

    def _go_to(self, cursor: str) -> None:
        self._file.execute("INSERT OR REPLACE INTO place VALUES (1, ?)", [cursor])


class Api:
    """Engram, over HTTP."""

    def __init__(self, token: str) -> None:
        timeout = httpx.Timeout(10, read=QUIET_SECONDS)
        headers = {"authorization": f"Bearer {token}"}
        self._client = httpx.Client(headers=headers, timeout=timeout)

    def ask(self, document: str, **variables: Any) -> Object:
        """The data of an answer."""
        body = {"query": document, "variables": variables}
        response = self._client.post(URL, json=body)
        if response.status_code >= 500:
            raise httpx.ReadError(f"it answered {response.status_code}")
        return data_of(response.json())

    def follow(self, document: str, **variables: Any) -> Iterator[Object]:
        """The data of each event of a subscription, as server-sent events."""
        body = {"query": document, "variables": variables}
        headers = {"accept": "text/event-stream"}
        with self._client.stream("POST", URL, json=body, headers=headers) as response:
            if response.status_code != 200:
                response.read()
                raise httpx.ReadError(f"it answered {response.status_code}")
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    yield data_of(json.loads(line.removeprefix("data: ")))


def data_of(answer: Object) -> Object:
    """The data of an answer without errors."""
    for error in answer.get("errors", ()):
        match error["extensions"]["code"]:
            case "BAD_CURSOR":
                raise CursorRefused
            case "INTERNAL_SERVER_ERROR" | "RATE_LIMITED":
                raise httpx.ReadError(error["message"])
        raise SystemExit(f"Engram refused: {error['message']}")
    data: Object = answer["data"]
    return data


def read_everything(api: Api, mirror: Mirror) -> None:
    """Begin: the end of the feed first, then the rows, so that nothing falls in between."""
    cursor = api.ask(LATEST)["changes"]["latestCursor"]
    rows: list[tuple[str, str, Object]] = []
    for kind, (field, _, show) in TYPES.items():
        after, more = None, True
        while more:
            page = api.ask(PAGE.format(field=field, show=show), after=after)["page"]
            rows += [(kind, node.pop("id"), node) for node in page["nodes"]]
            after, more = page["pageInfo"]["endCursor"], page["pageInfo"]["hasNextPage"]
    mirror.replace(rows, cursor)
    say(f"read {len(rows)} rows")


def catch_up(api: Api, mirror: Mirror) -> None:
    """Take over what has changed since, a page at a time."""
    more, count = True, 0
    while more:
        page = api.ask(CATCH_UP, after=mirror.cursor, types=list(TYPES))["page"]
        mirror.apply(page["nodes"], page["pageInfo"]["endCursor"])
        count += len(page["nodes"])
        more = page["pageInfo"]["hasNextPage"]
    say(f"caught up with {count} changes")


def follow(api: Api, mirror: Mirror) -> None:
    """Take over changes as they happen, until the connection ends."""
    for event in api.follow(FOLLOW, after=mirror.cursor, types=list(TYPES)):
        change = event["changes"]
        mirror.apply([change], change["cursor"])
        say(f"{change['action']} {change['entityId']}")


def run(api: Api, mirror: Mirror, *, once: bool) -> None:
    """Go on where we were, again and again."""
    pause = 0.1
    while True:
        try:
            if mirror.cursor is None:
                read_everything(api, mirror)
            catch_up(api, mirror)
            if once:
                return
            pause = 0.1
            follow(api, mirror)
        except CursorRefused:
            say("the feed has lost our place: reading everything anew")
            read_everything(api, mirror)
        except httpx.TransportError as error:
            say(f"cut off ({error or type(error).__name__}), trying again")
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    """Read the command line, and run."""
    parser = argparse.ArgumentParser(description="Mirror one's rows into a SQLite file.")
    parser.add_argument("file", help="The SQLite file, made if it is not there.")
    parser.add_argument("--once", action="store_true", help="Catch up and end.")
    options = parser.parse_args()
    token = os.environ.get("ENGRAM_TOKEN")
    if not token:
        sys.exit("Set ENGRAM_TOKEN: `python -m server token <email>` prints one.")
    try:
        run(Api(token), Mirror(options.file), once=options.once)
    except KeyboardInterrupt:
        say("stopped; it will go on from here")


if __name__ == "__main__":
    main()
