"""What happened to operations: how many there were, how they ended, how long they took.

A client chooses the names of its operations, so only so many are told apart: those of trusted
documents, and the first ones that succeeded. All others are counted together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from db.meter import Histogram
from server.observability.exposition import Family

__all__ = ["ANONYMOUS", "OTHER", "OUTCOMES", "Measures"]

OUTCOMES = ("ok", "problems", "errors", "failed", "cancelled")
"""As the log says: with problems in a payload, with errors, unanswered by a fault, left by the
client."""
MOST_NAME_CHARS = 100
MOST_CODES = 100
"""Codes are the server's own; this is for the day one is not."""
# No names of GraphQL.
ANONYMOUS, OTHER = "(anonymous)", "(other)"


class Tally:
    """What is counted of one operation."""

    __slots__ = ("outcomes", "rows", "seconds", "statements")

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self.seconds = Histogram()
        self.statements = 0
        self.rows = 0


class Measures:
    """Counts operations, errors and problems. Only to be used on the event loop."""

    def __init__(self, most_operations: int = 100, known: Iterable[tuple[str | None, str]] = ()):
        """``known`` are names and types that are always told apart."""
        self.running = 0
        """Queries and mutations."""
        self.subscriptions = 0
        self.sockets = 0
        self.events = 0
        """What subscribers were told."""
        self.errors: Counter[str] = Counter()
        self.problems: Counter[str] = Counter()
        self._tallies: dict[tuple[str | None, str], Tally] = {key: Tally() for key in known}
        self._places = most_operations

    def operation(
        self, name: str | None, kind: str, outcome: str, seconds: float, statements: int, rows: int
    ) -> None:
        """Count one that has ended. A subscription's duration says nothing, and is left out."""
        tally = self._tallies.get((name, kind)) or self._admit(name, kind, outcome)
        tally.outcomes[outcome] += 1
        tally.statements += statements
        tally.rows += rows
        if kind != "subscription":
            tally.seconds.observe(seconds)

    def error(self, code: str) -> None:
        """Count an error of an answer."""
        self.errors[code if code in self.errors or len(self.errors) < MOST_CODES else OTHER] += 1

    def _admit(self, name: str | None, kind: str, outcome: str) -> Tally:
        """The tally of an operation that has none yet: its own, if there is room."""
        if name is not None:
            succeeded = outcome in ("ok", "problems")
            if succeeded and self._places > 0 and len(name) <= MOST_NAME_CHARS:
                self._places -= 1
            else:
                name = OTHER
        return self._tallies.setdefault((name, kind), Tally())

    def families(self) -> Iterator[Family]:
        """What was counted."""
        operations = Family("engram_operations_total", "counter", "Operations that ended.")
        durations = Family(
            "engram_operation_duration_seconds",
            "histogram",
            "How long queries and mutations took.",
        )
        statements = Family(
            "engram_operation_statements_total", "counter", "SQL statements of operations."
        )
        rows = Family("engram_operation_rows_total", "counter", "Rows that operations read.")
        for (name, kind), tally in self._tallies.items():
            labels = {"operation": ANONYMOUS if name is None else name, "type": kind}
            for outcome, count in tally.outcomes.items():
                operations.add(count, **labels, outcome=outcome)
            statements.add(tally.statements, **labels)
            rows.add(tally.rows, **labels)
            if kind != "subscription":
                durations.add_histogram(tally.seconds, **labels)
        yield from (operations, durations, statements, rows)
        yield Family("engram_operations_running", "gauge", "Queries and mutations under way.").add(
            self.running
        )
        yield Family("engram_subscriptions_open", "gauge", "Subscriptions under way.").add(
            self.subscriptions
        )
        yield Family("engram_sockets_open", "gauge", "WebSockets that are open.").add(self.sockets)
        yield Family(
            "engram_subscription_events_total", "counter", "Events that subscribers were told."
        ).add(self.events)
        for family, counted in (
            (Family("engram_errors_total", "counter", "Errors, by code."), self.errors),
            (
                Family("engram_problems_total", "counter", "Problems of payloads, by code."),
                self.problems,
            ),
        ):
            for code, count in counted.items():
                family.add(count, code=code)
            yield family
