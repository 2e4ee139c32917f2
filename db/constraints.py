"""Which constraint a write ran into: the last line of defence, told as a refusal."""

from typing import Any

from sqlalchemy.exc import IntegrityError


def violated(error: IntegrityError) -> str | None:
    """The name of the constraint that refused a write, as the migrations spell it."""
    cause: Any = error.orig
    while cause is not None:
        name = getattr(cause, "constraint_name", None)
        if name is not None:
            return str(name)
        cause = cause.__cause__
    return None
