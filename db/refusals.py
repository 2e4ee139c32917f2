"""Writes that were understood and are not done. Repositories raise these.

Refused
├── Invalid          values that break a rule, every one of them
├── Missing          no such row, or not the caller's
├── Stale            the row has changed since the version the caller saw
├── Several          more than one of these
├── KeyReused        an idempotency key that came with another request before
├── Denied           the caller may not do this
├── Unauthenticated  nobody is logged in, or the credentials are wrong
├── Unavailable      what it needs beyond the database is not there
└── Limited          not now: the row is busy, or the caller asks too often
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


class Refused(Exception):
    """The transaction is rolled back and the caller is told why."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One value that breaks one rule."""

    path: tuple[str, ...]
    """Where the value stands in the input, in the words of the table: `("title",)`."""
    rule: str
    """The rule's name, such as `max_length`."""
    message: str
    bound: str | None = None
    """What the rule asks for, such as `500`."""


class Invalid(Refused):
    """Values that break rules."""

    def __init__(self, violations: Iterable[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(violation.message for violation in self.violations))


def invalid(field: str, rule: str, message: str, bound: object = None) -> Invalid:
    """One bad field."""
    return Invalid([Violation((field,), rule, message, None if bound is None else str(bound))])


class Missing(Refused):
    """No such live row of this owner. `entity` is the type's key, such as `task`."""

    def __init__(self, entity: str, path: tuple[str, ...] = ("id",)) -> None:
        self.entity = entity
        self.path = path
        super().__init__(f"There is no {entity.replace('_', ' ')} with this id.")


class Stale(Refused):
    """The row is not as the caller expected; `current` is the row as it is."""

    def __init__(
        self,
        entity: str,
        current: Mapping[str, Any],
        path: tuple[str, ...] = (),
        *,
        message: str | None = None,
    ) -> None:
        """`message` says what was expected where it is not the version."""
        self.entity = entity
        self.current = current
        self.path = path
        default = f"This {entity.replace('_', ' ')} is at version {current['version']}."
        super().__init__(message or default)


class Several(Refused):
    """More than one refusal, as of the items of a list."""

    def __init__(self, refusals: Iterable[Refused]) -> None:
        self.refusals = tuple(refusals)
        super().__init__("; ".join(str(refusal) for refusal in self.refusals))


class KeyReused(Refused):
    """The idempotency key belongs to another request."""


class Denied(Refused):
    """The caller is known and may not do this."""


class Unauthenticated(Refused):
    """The caller is not known."""


class Limited(Refused):
    """Not now: others are at the same rows, or too much is asked for.

    It may be tried again in `retry_after_seconds`.
    """

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class Unavailable(Refused):
    """Something beyond the database is needed and is not there, such as a provider of models."""

    def __init__(
        self, message: str, *, reason: str = "not_configured", path: tuple[str, ...] | None = None
    ) -> None:
        """`path` is of the value that needs it, if one does."""
        self.reason = reason
        self.path = path
        super().__init__(message)


class Overtaken(Exception):
    """What was read before the transaction is not so any more: the write is to be tried anew."""
