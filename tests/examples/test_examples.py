"""Every example is listed, and has a test of its own."""

from __future__ import annotations

import pytest

from tests.docs.pages import page
from tests.processes import ROOT

SCRIPTS = sorted(file.name for file in (ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_example_is_listed_and_tested(script: str) -> None:
    assert f"[{script}]({script})" in page("examples/README.md")
    assert (ROOT / "tests/examples" / f"test_{script}").is_file()


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_example_knows_nothing_of_our_code(script: str) -> None:
    text = page(f"examples/{script}")
    for package in ("db", "schema", "server", "tests"):
        assert f"import {package}" not in text
        assert f"from {package}" not in text
