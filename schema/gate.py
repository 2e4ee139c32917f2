"""What the schema knows of limits: what is left of one, and who counts attempts."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

if TYPE_CHECKING:
    from schema.context import Client


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a caller has of the points of a window, after an operation was charged or refused."""

    limit: int
    used: int
    resets_at: float
    """When the window ends, in seconds since 1970."""
    cost: int
    """The points of the operation."""
    refused: bool = False
    """Whether it did not fit; then it is not in `used`."""

    @property
    def remaining(self) -> int:
        """The points that are left."""
        return max(0, self.limit - self.used)


class Attempt(Protocol):
    """One try of a password that is under way; it counts as wrong until it is said to be right."""

    async def succeeded(self) -> None:
        """The password was right."""
        ...


class Gate(Protocol):
    """Counts sign-ups and passwords, and refuses those that are too many.

    Its methods raise `db.refusals.Limited`, which says nothing about whether an account exists.
    """

    async def sign_up(self, client: "Client") -> None:
        """Someone wants to open an account, or asks whether its name is free to take."""
        ...

    async def log_in(
        self, identifier: str, client: "Client", familiar: Callable[[], Awaitable[bool]]
    ) -> Attempt:
        """Someone tries a password for what they call an account.

        `familiar` finds out whether the account was logged in to from the same address before.
        """
        ...

    async def confirm(self, owner_id: UUID) -> Attempt:
        """Someone who is logged in proves that they know the password."""
        ...
