"""Keep a few notes and search them: by words and, where the server can, by meaning.

    ENGRAM_TOKEN=eg_… python examples/search_notes.py "how do I mend the lamp"

It imports the text files that are named with `--notes`, or notes of its own, waits until they are
searchable, and shows the best hits with the words that were found between [brackets]. Each note has
an idempotency key made from its text: run again, it imports nothing twice within a day.

It needs Python 3.11 and httpx.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import httpx

URL = os.environ.get("ENGRAM_URL", "http://127.0.0.1:8000/graphql")
PATIENCE_SECONDS = 60.0
"""How long embedding may take before the search is by what there is."""

NOTES = {
    "Lamp in the kitchen": "The lamp above the table flickers. The electrician said: tighten the "
    "socket first, then change the bulb (type E14).",
    "Garden in spring": "Sow the beans in May. The gardener recommends watering in the morning.",
    "House meeting": "Everybody agreed to repair the stairs before winter, and to paint the door.",
}
IMPORT = """
    mutation($input: CreateDocumentInput!) {
      answer: createDocument(input: $input) { document { id } problems { message } }
    }
"""
STATUS = """
    query($ids: [ID!]!) {
      nodes(ids: $ids) { ... on Document { title status embedding { status error } } }
    }
"""
SEARCH = """
    query($query: String!, $after: String) {
      searchDocuments(query: $query, first: 3, after: $after) {
        mode notice totalCount
        pageInfo { hasNextPage endCursor }
        nodes {
          score textRank vectorRank
          document { title }
          passages { snippet { start end fragments { text marked } } }
        }
      }
    }
"""


def ask(client: httpx.Client, document: str, **variables: Any) -> dict[str, Any]:
    """The data of an answer. Raises SystemExit when the server refuses."""
    response = client.post(URL, json={"query": document, "variables": variables})
    answer = response.json()
    if "errors" in answer:
        raise SystemExit(f"Engram refused: {answer['errors'][0]['message']}")
    data: dict[str, Any] = answer["data"]
    return data


def keep(client: httpx.Client, title: str, content: str) -> str:
    """Import a note and return its id."""
    key = hashlib.sha256(f"{title}\n{content}".encode()).hexdigest()
    note = {"title": title, "content": content, "kind": "NOTE", "idempotencyKey": f"note-{key}"}
    answer = ask(client, IMPORT, input=note)["answer"]
    if answer["problems"]:
        raise SystemExit(f"{title}: {answer['problems'][0]['message']}")
    id: str = answer["document"]["id"]
    return id


def wait(client: httpx.Client, ids: list[str]) -> None:
    """Wait until the notes are embedded; a server without a provider says so by no status."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        found = [one for one in ask(client, STATUS, ids=ids)["nodes"] if one is not None]
        waiting = [
            one
            for one in found
            if one["status"] == "PENDING" or (one["embedding"] or {}).get("status") == "PENDING"
        ]
        for one in found:
            if (one["embedding"] or {}).get("status") == "FAILED":
                print(f"{one['title']}: {one['embedding']['error']}", file=sys.stderr)
        if not waiting:
            return
        time.sleep(0.2)


def show(found: dict[str, Any]) -> None:
    """Print a page of hits."""
    for hit in found["nodes"]:
        ways = [("words", hit["textRank"]), ("meaning", hit["vectorRank"])]
        places = ", ".join(f"{way} {rank}" for way, rank in ways if rank is not None)
        print(f"\n{hit['document']['title']}  ({places}; score {hit['score']:.4f})")
        for passage in hit["passages"][:1]:
            snippet = passage["snippet"]
            text = "".join(
                f"[{part['text']}]" if part["marked"] else part["text"]
                for part in snippet["fragments"]
            )
            print(f"  {snippet['start']}-{snippet['end']}: {' '.join(text.split())}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Keep notes and search them.")
    parser.add_argument("query", help="what to look for")
    parser.add_argument("--notes", nargs="*", type=Path, help="text files to import")
    options = parser.parse_args()
    token = os.environ.get("ENGRAM_TOKEN")
    if not token:
        raise SystemExit("Set ENGRAM_TOKEN.")
    notes = NOTES
    if options.notes:
        notes = {file.stem: file.read_text(encoding="utf-8") for file in options.notes}
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=30) as client:
        ids = [keep(client, title, content) for title, content in notes.items()]
        wait(client, ids)
        after = None
        while True:
            found = ask(client, SEARCH, query=options.query, after=after)["searchDocuments"]
            if after is None:
                print(f"{found['totalCount']} hits, searched by {found['mode'].lower()}")
                if found["notice"]:
                    print(found["notice"])
            show(found)
            after = found["pageInfo"]["endCursor"]
            if not found["pageInfo"]["hasNextPage"]:
                return


if __name__ == "__main__":
    main()
