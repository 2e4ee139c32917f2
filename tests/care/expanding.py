"""The revisions of docs/migrations.md, as Alembic finds them behind those of the repository.

As a plugin of pytest (`-p tests.care.expanding`) it lets a run of tests have databases that are a
release ahead: migrated by the example, all but what a later release takes away.
"""

from __future__ import annotations

import importlib
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

import db.migrate
from db.migrate import ROOT, head_revision, upgrade
from tests.docs.pages import page
from tests.structure.migration_rules import config

STEPS = {
    "expand": "e00000000001",
    "index": "e00000000002",
    "fill": "e00000000003",
    "check": "e00000000004",
    "validate": "e00000000005",
    "require": "e00000000006",
    "contract": "e00000000007",
}
"""The names of the revisions, and what Alembic knows them by."""
REQUIRED = STEPS["require"]
"""The last revision before what is taken away."""
VERSIONS = ROOT / "migrations" / "versions"


def write_example(folder: Path) -> None:
    """Write the revisions of the page into a folder."""
    found = re.findall(r"```python\n# (\w+)\n(.*?)```", page("docs/migrations.md"), re.DOTALL)
    assert [name for name, _ in found] == list(STEPS)
    for name, text in found:
        (folder / f"{name}.py").write_text(str(text).replace("the newest one", head_revision()))


@contextmanager
def ahead(folder: Path) -> Iterator[None]:
    """Let `db.migrate` know the example for as long as the block runs."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(db.migrate, "_config", lambda: config(VERSIONS, folder))
        yield


async def upgrade_ahead(target: str | AsyncEngine, revision: str = "head") -> None:
    """`upgrade`, and the example on top of it. Afterwards nobody knows of it."""
    await upgrade(target, revision)
    with tempfile.TemporaryDirectory() as folder:
        write_example(Path(folder))
        with ahead(Path(folder)):
            await upgrade(target, REQUIRED)


def pytest_configure() -> None:
    """Make the template of all databases of the run a release ahead."""
    conftest = importlib.import_module("tests.conftest")
    setattr(conftest, "upgrade", upgrade_ahead)  # noqa: B010  # the name that its fixture calls
