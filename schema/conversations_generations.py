"""Replies of a model, as GraphQL shows them and streams them."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Annotated, Any
from uuid import UUID

import strawberry
from strawberry import auto

from db.models import conversations, conversations_generations
from db.notifications import FellBehind
from db.repositories.conversations_generations import Progress, follow, told
from db.repositories.conversations_runs import Delta
from schema.context import Changes, Context, Ear, Event, Info
from schema.conversations import Conversation, Message
from schema.errors import ErrorCode, RequestError
from schema.knowledge import Chunk, Document
from schema.mirror import MIRRORS, mirror
from schema.node import Node
from schema.problems import ProblemCode, ProviderUnavailable
from schema.relation_fields import decoded
from schema.relations import one

POLL_SECONDS = 2.0
"""How often who follows a reply looks for more of it although nothing was announced."""


@mirror(
    conversations_generations.Generation,
    private={"runner_id", "epoch", "lease_expires_at"},
    order_by=("created_at",),
    default_order=("created_at",),
)
class Generation(Node):
    model: auto
    instructions: auto
    temperature: auto
    max_output_tokens: auto
    tools: auto
    status: auto
    finish_reason: auto
    input_tokens: auto
    output_tokens: auto
    last_seq: auto
    context: auto
    error: auto
    first_delta_at: auto
    finished_at: auto
    stop_requested_at: auto
    version: auto
    created_at: auto
    updated_at: auto
    deleted_at: auto
    conversation: Conversation = one(conversations_generations.Generation.conversation_id)
    user_message: Message = one(conversations_generations.Generation.user_message_id)
    assistant_message: Message = one(conversations_generations.Generation.assistant_message_id)


@mirror(conversations_generations.Citation, order_by=("position",), default_order=("position",))
class Citation(Node):
    position: auto
    quote: auto
    start: auto
    end: auto
    score: auto
    created_at: auto
    deleted_at: auto
    message: Message = one(conversations_generations.Citation.message_id)
    document: Document = one(conversations_generations.Citation.document_id)
    chunk: Chunk = one(conversations_generations.Citation.chunk_id)


@strawberry.type(description="More of a reply, or its end.")
class GenerationDelta:
    """What a follower of a reply is told."""

    seq: int = strawberry.field(
        description="Where the reply is after this: give it as `afterSeq` to go on from here."
    )
    text: str = strawberry.field(default="", description="More of the text.")
    reasoning: str = strawberry.field(
        default="", description="More of what the model thought before it answered."
    )
    message: Message | None = strawberry.field(
        default=None,
        description=(
            "The message, when it has ended; null before. It is whole, whatever was missed."
        ),
    )
    problem: ProviderUnavailable | None = strawberry.field(
        default=None, description="Why it failed or was interrupted; null when it did neither."
    )


class GenerationsQuery:
    """What can be asked for."""

    @strawberry.field(
        description=(
            "The models that a reply can be asked of, the default first; empty when no provider of"
            " models is configured, or when it must be named in each request."
        )
    )
    async def reply_models(self, info: Info) -> list[str]:
        info.context.require("read")
        replies = info.context.services.replies
        return list(replies.models) if replies is not None and replies.available else []


class GenerationsSubscription:
    @strawberry.subscription(
        description=(
            "A reply as it is written: what was missed after `afterSeq`, then what comes, then the"
            " whole message. It can be taken up again at any time, on any server; a reply that has"
            " ended gives its message at once."
        )
    )
    async def generation_stream(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="The generation's id.")],
        after_seq: Annotated[
            int, strawberry.argument(description="The last `seq` that was seen; 0 for none.")
        ] = 0,
    ) -> AsyncGenerator[GenerationDelta, None]:
        """Yields what was written since, again and again, then the end.

        Raises:
            RequestError: BAD_ID, BAD_USER_INPUT, or NOT_FOUND when it is not the caller's.
        """
        context = info.context
        owner_id = context.require("read").owner_id
        identifier = decoded(MIRRORS[conversations_generations.Generation], id)
        if after_seq < 0:
            raise RequestError("`afterSeq` must be 0 or more.", ErrorCode.BAD_USER_INPUT)
        source = context.services.changes
        assert source is not None, "a process that serves subscriptions listens to changes"
        replies = context.services.replies
        ear = replies.listen(owner_id, identifier) if replies is not None else None
        async with aclosing(_Hints(source, ear, owner_id, identifier)) as hints:
            # Under the subscriber's own rights, as everything that is not heard in this process.
            progress = await _read(context, identifier, after_seq)
            if progress is None:
                raise RequestError("There is no such generation.", ErrorCode.NOT_FOUND)
            while progress is not None:
                if progress.text or progress.reasoning:
                    after_seq = progress.last_seq
                    yield GenerationDelta(
                        seq=after_seq, text=progress.text, reasoning=progress.reasoning
                    )
                if not progress.running:
                    yield _End(identifier, progress.message_id)  # type: ignore[misc]  # the runner loads it
                    return
                heard = () if progress.more else await hints.next(after_seq)
                if heard:
                    progress = replace(progress, more=False, **told(heard))
                else:
                    progress = await _read(context, identifier, after_seq)


async def _read(context: Context, id: UUID, after_seq: int) -> Progress | None:
    progress = await follow(context.session, id, after_seq)
    await context.session.end_snapshot()
    return progress


class _Hints:
    """Hints that there may be more: one for any number of notices, and one now and then."""

    def __init__(self, source: Changes, ear: Ear | None, owner_id: UUID, id: UUID) -> None:
        self._source = source
        self._ear = ear
        self._topic = (owner_id, "generation", id)
        self._changes = None if ear else source.subscribe(*self._topic)

    async def next(self, after_seq: int) -> Sequence[Delta]:
        """Return when there may be more: with it, if it was stored by this process."""
        try:
            async with asyncio.timeout(POLL_SECONDS):
                if self._ear is not None and not self._ear.ended:
                    return await self._ear.next(after_seq)
                if self._changes is None:
                    self._changes = self._source.subscribe(*self._topic)
                else:
                    await anext(self._changes)
        except TimeoutError:
            pass
        except FellBehind:
            # What was missed is read anyway, all at once.
            self._changes = None
        return ()

    async def aclose(self) -> None:
        if self._changes is not None:
            await self._changes.aclose()


@dataclass(frozen=True)
class _End:
    """The last event: the generation and its message, read under the subscriber's rights."""

    id: UUID
    message_id: UUID

    async def load(self, context: Context) -> GenerationDelta | None:
        """What it shows; None when it was deleted meanwhile."""
        generation: Any = await Event(MIRRORS[conversations_generations.Generation], self.id).load(
            context
        )
        message: Any = await Event(MIRRORS[conversations.Message], self.message_id).load(context)
        if generation is None or message is None:
            return None
        return GenerationDelta(
            seq=generation.last_seq, message=message, problem=problem_of(generation.error)
        )


def problem_of(error: Any) -> ProviderUnavailable | None:
    """The error of a generation as a problem."""
    if error is None:
        return None
    known = json.loads(error) if isinstance(error, str) else error
    return ProviderUnavailable(
        code=ProblemCode.PROVIDER_UNAVAILABLE,
        message=known["message"],
        reason=known["code"],
        retry_after_seconds=known.get("retryAfterSeconds"),
    )
