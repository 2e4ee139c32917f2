"""`rateLimit`: what a caller has left of their points."""

from datetime import UTC, datetime

import strawberry

from schema.context import Info
from schema.gate import Allowance


@strawberry.type(
    description=(
        "Points of a window of time: about one for each object that an operation may touch, and at"
        " least one for each operation. A caller who is logged in has theirs as a person; others"
        " share those of their address."
    )
)
class RateLimit:
    """What is left of a caller's points."""

    limit: int = strawberry.field(description="The points of a window.")
    used: int = strawberry.field(description="Those spent in this window, this operation's too.")
    remaining: int = strawberry.field(description="Those that are left in this window.")
    reset_at: datetime = strawberry.field(description="When the next window begins.")
    cost: int = strawberry.field(description="The points of this operation.")


class LimitsQuery:
    @strawberry.field(
        description="What the caller has left of their points; null where nothing is limited."
    )
    def rate_limit(self, info: Info) -> RateLimit | None:
        return shown(info.context.allowance)


def shown(allowance: Allowance | None) -> RateLimit | None:
    """An allowance in the words of the schema."""
    if allowance is None:
        return None
    return RateLimit(
        limit=allowance.limit,
        used=allowance.used,
        remaining=allowance.remaining,
        reset_at=datetime.fromtimestamp(allowance.resets_at, UTC).replace(microsecond=0),
        cost=allowance.cost,
    )
