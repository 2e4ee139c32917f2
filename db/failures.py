"""How a statement fails, beyond what PostgreSQL says of it."""

from __future__ import annotations

OF_PRIMARY = "of_primary"
"""Why a statement is not for a replica, which was not even asked."""


class DatabaseUnavailable(Exception):
    """No connection could be had or kept: the server is away, or all connections are busy."""


class SessionClosed(RuntimeError):
    """Something was asked of a session after its end: the answer it was for has been given."""


class StatementCancelled(Exception):
    """A statement was stopped: it ran into its time limit, or the session was cancelled."""


class ReplicaFailed(DatabaseUnavailable):
    """A replica did not answer a statement: all of the operation is for the primary."""

    def __init__(self, state: str | None = None, *, lost: bool = False) -> None:
        super().__init__("The replica did not answer.")
        self.state = state
        """PostgreSQL's name of the failure, if it is one of PostgreSQL's."""
        self.lost = lost
        """Whether there was no connection, or is none any more."""
