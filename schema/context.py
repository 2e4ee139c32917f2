"""What one operation carries: who asks, its session and its loaders.

A context lives for one operation, also on a socket that carries many: sessions and loaders that
outlive an operation would leak rows from one snapshot, or from one person, into the next.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol
from uuid import UUID

import strawberry
from graphql import (
    FieldNode,
    FragmentDefinitionNode,
    GraphQLResolveInfo,
    OperationDefinitionNode,
    SelectionSetNode,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from db.idempotency import LIFETIME
from db.session import Author, Recorder, Session, SessionOptions
from schema.errors import ErrorCode, RequestError
from schema.gate import Allowance, Gate
from schema.loaders import Loaders
from schema.mirror import Mirror, Scope
from schema.rows import Row

if TYPE_CHECKING:
    from db.notifications import Subscription, Watch
    from db.repositories.conversations_generations import Lease
    from db.repositories.conversations_runs import Delta
    from schema.plans import Plans

ALL_SCOPES: frozenset[str] = frozenset({"read", "write", "account"})


@dataclass(frozen=True)
class Actor:
    """Who asks: a plain value, so that it survives rollbacks."""

    owner_id: UUID
    kind: Literal["user", "key"]
    id: UUID
    """The login session or the API key."""
    scopes: frozenset[str] = ALL_SCOPES
    secret: bytes = field(default=b"", repr=False)
    """The secret part of the bearer token. Never stored, never logged."""

    def may(self, scope: Scope) -> bool:
        """Whether the scopes allow it: who may write sees in any payload what there is to read."""
        return scope in self.scopes or (scope == "read" and "write" in self.scopes)


@dataclass(frozen=True)
class Client:
    """Where a request comes from, as far as it says."""

    ip: str | None = None
    user_agent: str | None = None


class Passwords(Protocol):
    """Hashes passwords with bounded concurrency, off the event loop."""

    async def hash(self, password: str) -> str:
        """The argon2id hash of a password."""
        ...

    async def verify(self, password: str, password_hash: str | None) -> bool:
        """Whether the hash is of this password; takes as long when there is no hash."""
        ...

    def outdated(self, password_hash: str) -> bool:
        """Whether the hash is weaker than a new one would be."""
        ...


class Changes(Protocol):
    """The process's one source of change notices."""

    def subscribe(self, owner_id: UUID, entity_type: str, scope_id: UUID) -> "Subscription":
        """The changes of this owner's rows of one type in one scope, from now on.

        Close it to unsubscribe.
        """
        ...

    def watch(self, owner_id: UUID) -> "Watch":
        """Be woken, from now on, when something of the owner's changes. Drop it to end it."""
        ...

    def wake_past(self, position: int, watch: "Watch") -> None:
        """Wake a watch when what stands in the change feed at a position has settled."""
        ...


class Ear(Protocol):
    """What a follower hears of a reply that this process writes."""

    @property
    def ended(self) -> bool:
        """Whether nothing more comes from here."""
        ...

    async def next(self, after_seq: int) -> "Sequence[Delta]":
        """Wait; then what follows a delta without a gap. Empty when it is to be looked up."""
        ...


class Replies(Protocol):
    """What asks models for replies."""

    @property
    def available(self) -> bool:
        """Whether there is a provider to ask."""
        ...

    @property
    def models(self) -> tuple[str, ...]:
        """The models that may be asked for, the default first; one or none allows any."""
        ...

    @property
    def lease(self) -> "Lease":
        """What a generation is stored with that this process is to run."""
        ...

    def start(self, generation: Any) -> None:
        """Run a generation that was stored with the lease; its row, committed."""
        ...

    def stop(self, id: UUID) -> None:
        """A generation has been ended: run it no further."""
        ...

    def listen(self, owner_id: UUID, id: UUID) -> Ear | None:
        """What is stored of a reply from now on; None when it is not written here."""
        ...


class NoEmbedding(Exception):
    """There is no embedding of a query; the message says why, and is for the user."""

    def __init__(self, message: str, *, configured: bool = True) -> None:
        """`configured`: whether there is a provider at all."""
        self.configured = configured
        super().__init__(message)


class QueryVectors(Protocol):
    """Embeds queries."""

    @property
    def available(self) -> bool:
        """Whether there is a provider to ask."""
        ...

    async def query_vector(self, model: str, dimensions: int, text: str) -> list[float]:
        """The embedding of a query. Raises NoEmbedding."""
        ...


@dataclass(frozen=True)
class Services:
    """What all operations of a process share."""

    engine: AsyncEngine
    passwords: Passwords
    changes: Changes | None = None
    replies: Replies | None = None
    embeddings: QueryVectors | None = None
    gate: Gate | None = None
    """Without one, sign-ups and passwords may be tried at will."""
    options: SessionOptions = field(default_factory=SessionOptions)
    login_days: int = 90
    """How many days a login session lasts."""
    idempotency_lifetime: timedelta = LIFETIME
    """How long the answer to a write is kept for a client that sends it again."""


class Context:
    """One operation. Use it in `async with`: leaving it gives the connection back."""

    def __init__(
        self,
        services: Services,
        actor: Actor | None,
        *,
        request_id: str,
        client: Client = Client(),
        allowance: Allowance | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.services = services
        self.actor = actor
        self.request_id = request_id
        self.client = client
        self.allowance = allowance
        self._recorder = recorder
        self._session = Session(
            services.engine,
            actor.owner_id if actor else None,
            services.options,
            author=_author(actor, request_id) if actor else None,
            recorder=recorder,
        )
        self._loaders = Loaders(self._session, self.require)
        self._names: frozenset[str] | None = None
        self.after_commit: list[Callable[[], None]] = []
        """What the mutation field that is running wants to be begun once it is committed."""
        self.prepared: Any = None
        """What the mutation field that is running has prepared before its transaction."""
        self.problem_codes: list[str] = []
        """The codes of the problems that mutation fields answered."""
        self.plans: Plans | None = None
        """The plans of the operation; None leaves everything to graphql-core."""

    async def __aenter__(self) -> "Context":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    @property
    def forsaken(self) -> Exception | None:
        """Why a replica did not answer, after which all that was read is void."""
        return self._session.forsaken

    @property
    def anonymous_session(self) -> Session:
        """The session without a check of who asks: for signing up and logging in alone."""
        return self._session

    @property
    def session(self) -> Session:
        """The session.

        Raises:
            RequestError: UNAUTHENTICATED.
        """
        if self.actor is None:
            raise RequestError("Log in first.", ErrorCode.UNAUTHENTICATED)
        return self._session

    @property
    def loaders(self) -> Loaders:
        """The loaders; they refuse rows that an API key may not see.

        Raises:
            RequestError: UNAUTHENTICATED.
        """
        if self.actor is None:
            raise RequestError("Log in first.", ErrorCode.UNAUTHENTICATED)
        return self._loaders

    def aside(self) -> Session:
        """A session of the same owner beside the operation's, to be closed before anything slow.

        What it reads is not of the operation's snapshot. Raises RequestError.
        """
        assert self.session is self._session
        return self.anonymous_aside(self._session.owner_id)

    def anonymous_aside(self, owner_id: UUID | None) -> Session:
        """The same without a check of who asks: to find out about a log-in that is tried."""
        services = self.services
        return Session(services.engine, owner_id, services.options, recorder=self._recorder)

    def require(self, scope: Scope) -> Actor:
        """The actor, who may do what `scope` says.

        Raises:
            RequestError: UNAUTHENTICATED or FORBIDDEN.
        """
        if self.actor is None:
            raise RequestError("Log in first.", ErrorCode.UNAUTHENTICATED)
        if not self.actor.may(scope):
            raise RequestError(f"This key does not have the scope {scope}.", ErrorCode.FORBIDDEN)
        return self.actor

    def become(self, actor: Actor | None) -> None:
        """Go on as who has just signed up or logged in, or as nobody; nothing may be open."""
        self._session.owner_id = actor.owner_id if actor else None
        self._session.author = _author(actor, self.request_id) if actor else None
        self.actor = actor

    async def renew(self) -> None:
        """After a write: end the snapshot and forget what was loaded."""
        self._loaders.renew()
        if not self._session.writing:
            await self._session.end_snapshot()

    def field_names(self, info: Any) -> frozenset[str]:
        """Every field name in the operation's document: no other column can be asked for."""
        if self._names is None:
            raw: GraphQLResolveInfo[Context] = info._raw_info
            self._names = field_names(raw.operation, raw.fragments)
        return self._names


def _author(actor: Actor, request_id: str) -> Author:
    if actor.kind == "key":
        return Author("key", actor.id, request_id)
    return Author("user", actor.owner_id, request_id)


def field_names(
    operation: OperationDefinitionNode, fragments: Mapping[str, FragmentDefinitionNode]
) -> frozenset[str]:
    """The names of all fields in an operation and in the fragments of its document."""
    names: set[str] = set()
    pending: list[SelectionSetNode] = [
        operation.selection_set,
        *(fragment.selection_set for fragment in fragments.values()),
    ]
    while pending:
        for selection in pending.pop().selections:
            if isinstance(selection, FieldNode):
                names.add(selection.name.value)
            selections = getattr(selection, "selection_set", None)
            if selections is not None:
                pending.append(selections)
    return frozenset(names)


Info = strawberry.Info[Context, None]


@dataclass(frozen=True)
class Event:
    """A subscription's event: an id, read anew under the subscriber's own rights."""

    mirror: Mirror
    id: UUID

    async def load(self, context: Context) -> Row | None:
        """The row as it is now, deleted or not; None when the subscriber may not see it."""
        loaders = context.loaders
        rows = await loaders.rows(self.mirror, loaders.keys(self.id), deleted=None)
        return rows.get(self.id)
