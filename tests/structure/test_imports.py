"""Imports point one way: server → schema → db ← migrations."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {
    "db": {"db"},
    "schema": {"db", "schema"},
    "server": {"db", "schema", "server"},
    "migrations": {"db"},
}
# What a layer knows nothing of.
FOREIGN = {
    "db": {"graphql", "starlette", "strawberry", "uvicorn"},
    "schema": {"asyncpg", "starlette", "uvicorn"},
    "server": set(),
    "migrations": {"graphql", "starlette", "strawberry", "uvicorn"},
}


def imported(file: Path) -> set[str]:
    """The packages that a module names, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package: str) -> None:
    forbidden = ({*MAY_IMPORT, "tests"} - MAY_IMPORT[package]) | FOREIGN[package]
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = {
        str(file.relative_to(ROOT)): sorted(extra)
        for file in files
        if (extra := imported(file) & forbidden)
    }
    assert wrong == {}
