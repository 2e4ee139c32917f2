"""The lock files pin what pyproject.toml names, by hash, wherever it is downloaded from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIN = re.compile(r"([a-z0-9.-]+)(?:\[[a-z,]+\])?==([^\s;]+)", re.IGNORECASE)


def pins(lines: list[str]) -> set[tuple[str, str]]:
    found = (PIN.match(line) for line in lines)
    return {(match[1].lower().replace("_", "-"), match[2]) for match in found if match}


@pytest.mark.parametrize(
    ("name", "extras"),
    [
        ("requirements.lock", ()),
        ("requirements-tracing.lock", ("tracing",)),
        ("requirements-dev.lock", ("dev", "tracing")),
    ],
)
def test_a_lock_pins_by_hash_what_the_project_names(name: str, extras: tuple[str, ...]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"]]
    for extra in extras:
        named += project["optional-dependencies"][extra]
    text = (ROOT / name).read_text()
    entries = re.split(r"\n(?=\S)", text.strip())
    assert len(pins(named)) == len(named)
    assert pins(named) <= pins(entries)
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text
