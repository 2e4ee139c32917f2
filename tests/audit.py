"""Known vulnerabilities of what is pinned: `python -m tests.audit`, a part of `make check`.

It fails for a vulnerability, and for nothing else. Where the advisories cannot be asked, as without
a network, it passes and says so in one line, so that `make check` works on a train; whoever
releases has to read that line.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCKS = ("requirements.lock", "requirements-dev.lock")
ROOT = Path(__file__).parents[1]
TIMEOUT_SECONDS = 120


def audited(lock: str) -> list[dict[str, Any]] | str:
    """What pip-audit says of each package of a lock file, or why it says nothing."""
    command = [sys.executable, "-m", "pip_audit", "--require-hashes", "--disable-pip", "-r", lock]
    command += ["--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {TIMEOUT_SECONDS} s"
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        lines = done.stderr.strip().splitlines()
        return lines[-1][:200] if lines else f"it ended with {done.returncode}"
    return packages


def verdict(lock: str, found: list[dict[str, Any]] | str) -> tuple[bool, str]:
    """Whether a lock file may pass, and what there is to say."""
    if isinstance(found, str):
        return True, f"NOT AUDITED, {lock}: {found}"
    bad = [
        f"{package['name']} {package['version']}: {weakness['id']}, mended in "
        f"{', '.join(weakness['fix_versions']) or 'no version yet'}"
        for package in found
        for weakness in package.get("vulns", ())
    ]
    if bad:
        return False, "\n".join([f"{lock} pins what is known to be vulnerable:", *bad])
    unknown = [package["name"] for package in found if "skip_reason" in package]
    if unknown:
        return True, f"NOT AUDITED, {lock}: nothing is known of {len(unknown)} of {len(found)}"
    return True, f"audited, {lock}: {len(found)} packages, no known vulnerability"


def main() -> int:
    passes = True
    for lock in LOCKS:
        good, said = verdict(lock, audited(lock))
        print(said)
        passes &= good
    return 0 if passes else 1


if __name__ == "__main__":
    sys.exit(main())
