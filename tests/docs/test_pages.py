"""What the pages name is there, and the top level holds what it should and no more."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import ROOT, files, page
from tests.docs.settings_table import written

PAGES = sorted(
    str(file.relative_to(ROOT))
    for pattern in ("*.md", "docs/**/*.md", "*/README.md")
    for file in ROOT.glob(pattern)
)
TOP = {
    # the code
    "benchmarks", "db", "examples", "migrations", "schema", "server", "tests",
    # what it needs
    "Makefile", "Procfile", "alembic.ini", "pyproject.toml", "requirements-dev.lock",
    "requirements-tracing.lock", "requirements.lock",
    # words
    "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "docs",
}  # fmt: skip
PATH = re.compile(r"`((?:benchmarks|db|docs|examples|migrations|schema|server|tests)/[\w./*-]*)`")
TEST = re.compile(r"`(?:(tests/[\w/]+\.py)(?:::(test_\w+))?|(test_\w+))`")
DECISIONS = [name for name in PAGES if name.startswith("docs/decisions/")]


def test_the_table_of_settings_is_true() -> None:
    text = page("README.md")
    assert text == written(text), "Run `make docs`."


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page(name))
    local = [link for link in links if "://" not in link]
    missing = [link for link in local if not ((ROOT / name).parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("name", PAGES)
def test_files_that_are_named_exist(name: str) -> None:
    named = PATH.findall(page(name))
    # made by the commands of the pages, or on the way
    assert [path for path in named if not list(ROOT.glob(path))] == []


@pytest.mark.parametrize("name", PAGES)
def test_tests_that_are_named_exist(name: str) -> None:
    file = ""
    for path, test, in_the_same_file in TEST.findall(page(name)):
        file = path or file
        assert (ROOT / file).is_file(), file
        named = test or in_the_same_file
        assert not named or re.search(rf"^(async )?def {named}\(", page(file), re.MULTILINE), named


@pytest.mark.parametrize("name", DECISIONS)
def test_a_decision_names_the_tests_that_hold_it(name: str) -> None:
    check = page(name).partition("\n## The check\n")[2]
    sentences = re.split(r"(?<=[.)])\s+(?=[A-Z`])", check.strip())
    assert [one for one in sentences if not TEST.search(one)] == []


def test_the_top_level_holds_what_it_should() -> None:
    names = {name.partition("/")[0] for name in files()}
    assert {name for name in names if not name.startswith(".")} == TOP
