"""The schema that clients see changes knowingly: its text is checked in."""

from __future__ import annotations

from pathlib import Path

from schema import build_schema

SNAPSHOT = Path(__file__).parents[2] / "schema/schema.graphql"


def test_the_snapshot_is_what_is_served() -> None:
    served = build_schema().as_str().rstrip() + "\n"
    assert SNAPSHOT.read_text() == served, "Look at the change, then run `make sdl`."
