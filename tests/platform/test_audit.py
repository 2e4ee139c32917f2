"""The audit of what is pinned says what it knows, and what it does not."""

from typing import Any

import pytest

from tests.audit import verdict

FINE = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "CVE-2026-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("found", "passes", "said"),
    [
        ([FINE], True, "audited, x: 1 packages, no known vulnerability"),
        ([FINE, UNKNOWN], True, "NOT AUDITED, x: nothing is known of 1 of 2"),
        ("no answer within 120 s", True, "NOT AUDITED, x: no answer within 120 s"),
        ([BAD, UNKNOWN], False, "b 2: CVE-2026-1, mended in 3"),
    ],
)
def test_only_a_known_vulnerability_fails_and_silence_is_named(
    found: list[dict[str, Any]] | str, passes: bool, said: str
) -> None:
    good, line = verdict("x", found)
    assert good is passes
    assert said in line
