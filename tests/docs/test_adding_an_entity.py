"""The page on adding an entity does what it says, in a copy of this repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import FreshDatabase
from tests.docs.pages import ROOT, blocks, files, page
from tests.processes import environment, serving

PAGE = page("docs/adding-an-entity.md")
TESTS = (
    "tests/structure",
    "tests/data/test_tenancy.py",
    "tests/data/test_migrations.py::test_migrations_make_what_the_models_say",
    "tests/data/test_migrations.py::test_revisions_stand_alone_and_are_dated",
)
"""Those that read what there is: they must hold for what was added."""


def test_the_patch_has_less_than_40_lines() -> None:
    (patch,) = blocks(PAGE, "diff")
    added = [line for line in patch.splitlines() if line.startswith("+")]
    files = [line for line in added if line.startswith("+++ ")]
    assert len(added) - len(files) < 40


async def test_an_entity_is_added_as_the_page_says(
    tmp_path: Path, fresh_database: FreshDatabase
) -> None:
    url = await fresh_database()
    tree = copied(tmp_path / "tree")
    settings = environment(tmp_path / "data", DATABASE_URL=url, ENGRAM_ENVIRONMENT="development")
    (patch,), (commands,) = blocks(PAGE, "diff"), blocks(PAGE, "sh")
    done("git", "apply", "-", root=tree, settings=settings, given=patch)
    done("sh", "-eux", root=tree, settings=settings, given=commands)
    python = (sys.executable, "-m")
    done(*python, "server", "migrate", root=tree, settings=settings)
    done(*python, "ruff", "check", "--fix", "db", "schema", "migrations", root=tree)
    done(*python, "ruff", "format", "db", "schema", "migrations", root=tree)
    # on a server of their own, not that of this run
    alone = environment(tmp_path / "data")
    done(*python, "pytest", "-q", "-p", "no:cacheprovider", *TESTS, root=tree, settings=alone)
    with serving(tmp_path / "data", tree, DATABASE_URL=url) as served:
        mutation, query = blocks(PAGE, "graphql")
        headers = {"authorization": f"Bearer {sign_up(served.url)}"}
        created = ask(served.url, mutation, headers)["createBookmark"]
        assert created["problems"] == []
        assert created["bookmark"]["id"].startswith("bookmark_")
        (node,) = ask(served.url, query, headers)["bookmarks"]["nodes"]
        assert node["url"] == created["bookmark"]["url"]
        others = {"authorization": f"Bearer {sign_up(served.url, 'other')}"}
        assert ask(served.url, query, others)["bookmarks"]["totalCount"] == 0


def copied(tree: Path) -> Path:
    """A copy of what is in the repository, with a virtual environment that is this one."""
    for name in files():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name)
    python = tree / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    for stamp in ("run", "dev"):
        (tree / f".venv/{stamp}.stamp").touch()
    return tree


def done(
    *command: str, root: Path, settings: Mapping[str, str] | None = None, given: str | None = None
) -> str:
    """What a command prints; it must succeed."""
    ended = subprocess.run(
        command, cwd=root, env=settings, input=given, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    if ended.returncode:
        pytest.fail(f"{command}\n{ended.stdout}\n{ended.stderr}")
    return ended.stdout


def ask(url: str, document: str, headers: Mapping[str, str]) -> Any:
    """The data of an answer without errors."""
    answer = httpx.post(f"{url}/graphql", json={"query": document}, headers=headers).json()
    assert "errors" not in answer, answer
    return answer["data"]


def sign_up(url: str, name: str = "reader") -> str:
    """The token of somebody new."""
    document = f"""
        mutation {{
          signUp(input: {{username: "{name}", email: "{name}@e.org", password: "long enough 1"}}) {{
            token
            problems {{ message path }}
          }}
        }}"""
    token = ask(url, document, {})["signUp"]["token"]
    assert isinstance(token, str)
    return token
