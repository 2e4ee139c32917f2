"""How far the property tests look, and what they tell at the end of a run.

`HYPOTHESIS_PROFILE=nightly` looks at thousands of fresh examples for each property; otherwise the
examples are the same in every run, so that a red test is about the change at hand. `glance` is
for work on the tests themselves: fresh examples, and the first failure as it was found.
"""

import os

import pytest
from hypothesis import HealthCheck, Phase, settings

SUPPRESSED = [
    # A fixture that counts over all examples of a test is what we want.
    HealthCheck.function_scoped_fixture,
    HealthCheck.too_slow,
]

PHASES = [phase for phase in Phase if phase is not Phase.explain]

settings.register_profile(
    "default",
    max_examples=150,
    deadline=None,
    phases=PHASES,
    derandomize=True,
    database=None,
    suppress_health_check=SUPPRESSED,
)
settings.register_profile(
    "nightly",
    max_examples=3_000,
    deadline=None,
    phases=PHASES,
    print_blob=True,
    suppress_health_check=SUPPRESSED,
)
settings.register_profile(
    "glance",
    settings.get_profile("default"),
    max_examples=500,
    derandomize=False,
    phases=[Phase.generate],
)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "default")
settings.load_profile(PROFILE)

IS_LONG = PROFILE == "nightly"
"""Whether tests that come in two lengths run for long."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List what tests recorded with `record_property`: how many examples each property saw."""
    lines = [
        f"{report.nodeid.rpartition('::')[2]}: "
        + ", ".join(f"{count} {name}" for name, count in report.user_properties)
        for report in terminalreporter.getreports("")
        if report.when == "teardown" and report.user_properties
    ]
    if lines:
        terminalreporter.section("examples")
        terminalreporter.write_line("\n".join(lines))
