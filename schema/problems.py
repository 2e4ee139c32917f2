"""Problems: what a mutation's payload says instead of doing it."""

from enum import Enum

import strawberry
from strawberry.utils.str_converters import to_camel_case

from db import refusals
from schema.mirror import by_key
from schema.node import Node
from schema.rows import Level, Row


@strawberry.enum(description="What kind of problem it is.")
class ProblemCode(Enum):
    """One per type of problem."""

    VALIDATION = strawberry.enum_value("validation", description="A value breaks a rule.")
    NOT_FOUND = strawberry.enum_value("not_found", description="There is no such row.")
    CONFLICT = strawberry.enum_value(
        "conflict", description="The row has changed since the version that was expected."
    )
    IDEMPOTENCY_CONFLICT = strawberry.enum_value(
        "idempotency_conflict", description="The idempotency key belongs to another request."
    )
    UNAUTHENTICATED = strawberry.enum_value(
        "unauthenticated", description="Nobody is logged in, or the credentials are wrong."
    )
    FORBIDDEN = strawberry.enum_value("forbidden", description="The caller may not do this.")
    RATE_LIMITED = strawberry.enum_value("rate_limited", description="Not now: try again later.")
    PROVIDER_UNAVAILABLE = strawberry.enum_value(
        "provider_unavailable", description="The provider of models is not there, or failed."
    )


@strawberry.interface(description="Why a mutation did nothing, or not all.")
class Problem:
    """The base of all problems."""

    code: ProblemCode = strawberry.field(description="What kind of problem it is.")
    message: str = strawberry.field(description="A sentence for people.")
    path: list[str] | None = strawberry.field(
        default=None, description="Where in the arguments: names, and indexes in lists."
    )


@strawberry.type(description="A value breaks a rule. There is one for each bad field.")
class ValidationProblem(Problem):
    """A bad field."""

    rule: str = strawberry.field(description="The rule, such as `max_length`.")
    bound: str | None = strawberry.field(description="What the rule asks for, such as `500`.")


@strawberry.type(description="There is no such row, or it is not the caller's.")
class NotFound(Problem):
    """A missing row."""


@strawberry.type(description="The row has changed since the version that was expected.")
class Conflict(Problem):
    """A stale version."""

    current_version: int = strawberry.field(description="The version it is at.")
    current: Node = strawberry.field(description="The row as it is.")


@strawberry.type(description="The idempotency key belongs to another request.")
class IdempotencyConflict(Problem):
    """A key used twice."""


@strawberry.type(description="Nobody is logged in, or the credentials are wrong.")
class Unauthenticated(Problem):
    """An unknown caller."""


@strawberry.type(description="The caller may not do this.")
class Forbidden(Problem):
    """A caller without the right."""


@strawberry.type(
    description="Not now: the caller asks too often, or others change the same rows. Try later."
)
class RateLimited(Problem):
    """A caller who has to wait."""

    retry_after_seconds: int = strawberry.field(description="When to try again.")


@strawberry.type(
    description="No provider of models is configured, or the one that is did not do its part."
)
class ProviderUnavailable(Problem):
    """A provider that is missing or failed."""

    reason: str = strawberry.field(
        description=(
            "What it was, in a word: `not_configured`, `unreachable`, `timeout`, `unauthorized`,"
            " `rate_limited`, `not_found`, `rejected`, `provider_error`, `disconnected`,"
            " `malformed`, `too_long`, `interrupted`, `internal`."
        )
    )
    retry_after_seconds: int | None = strawberry.field(
        default=None, description="When the provider may be asked again, if it said so."
    )


PROBLEM_TYPES = (
    ValidationProblem,
    NotFound,
    Conflict,
    IdempotencyConflict,
    Unauthenticated,
    Forbidden,
    RateLimited,
    ProviderUnavailable,
)


def problems(refused: refusals.Refused) -> list[Problem]:
    """What a refusal looks like in a payload.

    Raises:
        TypeError: a kind of refusal that has no problem yet.
    """
    message = str(refused)
    match refused:
        case refusals.Invalid():
            return [
                ValidationProblem(
                    code=ProblemCode.VALIDATION,
                    message=violation.message,
                    path=input_path(violation.path),
                    rule=violation.rule,
                    bound=violation.bound,
                )
                for violation in refused.violations
            ]
        case refusals.Missing():
            return [
                NotFound(code=ProblemCode.NOT_FOUND, message=message, path=input_path(refused.path))
            ]
        case refusals.Stale():
            current = Level(by_key()[refused.entity], [dict(refused.current)]).rows[0]
            return [_conflict(refused, current)]
        case refusals.Several():
            return [problem for one in refused.refusals for problem in problems(one)]
        case refusals.KeyReused():
            return [
                IdempotencyConflict(
                    code=ProblemCode.IDEMPOTENCY_CONFLICT,
                    message=message,
                    path=input_path(("idempotency_key",)),
                )
            ]
        case refusals.Denied():
            return [Forbidden(code=ProblemCode.FORBIDDEN, message=message)]
        case refusals.Unauthenticated():
            return [Unauthenticated(code=ProblemCode.UNAUTHENTICATED, message=message)]
        case refusals.Limited():
            return [
                RateLimited(
                    code=ProblemCode.RATE_LIMITED,
                    message=message,
                    retry_after_seconds=refused.retry_after_seconds,
                )
            ]
        case refusals.Unavailable():
            return [
                ProviderUnavailable(
                    code=ProblemCode.PROVIDER_UNAVAILABLE,
                    message=message,
                    path=None if refused.path is None else input_path(refused.path),
                    reason=refused.reason,
                )
            ]
    raise TypeError(f"No problem stands for {type(refused).__name__}.")


def _conflict(refused: refusals.Stale, current: Row) -> Conflict:
    return Conflict(
        code=ProblemCode.CONFLICT,
        message=str(refused),
        path=input_path(refused.path),
        current_version=current.values["version"],
        current=current,  # type: ignore[arg-type]  # a mirrored type's values are rows
    )


def input_path(path: tuple[str, ...]) -> list[str]:
    """A path in the words of the schema."""
    return ["input", *(to_camel_case(part) for part in path)]
