"""Asking a model for replies, and stopping it."""

from functools import partial
from typing import Any

import strawberry
from strawberry import auto
from strawberry.types.unset import UNSET

from db.models import conversations, conversations_generations
from db.refusals import Invalid, Unavailable, Violation, invalid
from db.repositories import conversations_generations as repository
from schema.context import Context, Info, Replies
from schema.conversations import Conversation, Message
from schema.conversations_generations import Generation
from schema.conversations_writes import MAX_PARTS, MessagePartInput, parts_of
from schema.inputs import (
    CreateInput,
    OnceInput,
    all_of,
    checked,
    create_input,
    new_id,
    reference,
)
from schema.mutation import Payload, mutation, payload, shown
from schema.retrieval import Retrieval, RetrievalInput, RetrievalReport

ASKING = ("user", "tool")
"""The roles that a reply answers."""


@create_input(
    conversations_generations.Generation,
    description="What a model is asked, and how. What is left out is up to the server.",
    optional={"model"},
)
class ReplyInput:
    """The options of a reply."""

    model: auto
    instructions: auto
    temperature: auto
    max_output_tokens: auto
    tools: auto


@create_input(conversations.Message, optional={"role"})
class SendMessageInput(CreateInput):
    """A new message, where it goes, and what is asked of the model that answers it."""

    conversation_id: auto
    parent_id: strawberry.ID | None = strawberry.field(
        default=UNSET,
        description=(
            "The message it follows: the active leaf when this is left out. Null for the first"
            " message of a conversation alone."
        ),
    )
    role: auto
    content: auto
    metadata: auto
    parts: list[MessagePartInput] = strawberry.field(
        default_factory=list, description=f"What it holds beyond its text; at most {MAX_PARTS}."
    )
    reply: ReplyInput | None = strawberry.field(
        default=UNSET, description="What is asked of the model."
    )
    reply_id: strawberry.ID | None = strawberry.field(
        default=UNSET,
        description="The id of the reply, chosen by the client, as `id` is that of the message.",
    )
    retrieval: RetrievalInput | None = strawberry.field(
        default=UNSET,
        description="Which of the caller's documents to put before the model; none if left out.",
    )


@strawberry.input(
    description=(
        "Which message is answered anew: one of a model gets another answer beside it, any other"
        " one an answer of its own."
    )
)
class RegenerateMessageInput(OnceInput):
    """The input of regenerateMessage."""

    id: strawberry.ID = strawberry.field(description="The id of the message.")
    reply: ReplyInput | None = strawberry.field(
        default=UNSET, description="What is asked of the model."
    )
    reply_id: strawberry.ID | None = strawberry.field(
        default=UNSET, description="The id of the new answer, chosen by the client."
    )


@strawberry.input(description="Which generation is to be stopped.")
class StopGenerationInput(OnceInput):
    """The input of stopGeneration."""

    id: strawberry.ID = strawberry.field(description="The id of the generation.")


@payload
class ReplyPayload(Payload):
    """What was asked, and the answer that is being written."""

    message: Message | None = strawberry.field(
        default=None, description="The message that is answered."
    )
    reply: Message | None = strawberry.field(
        default=None, description="The answer: a placeholder until something of it is there."
    )
    generation: Generation | None = strawberry.field(
        default=None, description="The run that writes the answer: follow it by `generationStream`."
    )
    conversation: Conversation | None = strawberry.field(
        default=None, description="The conversation as it is now."
    )
    retrieved: strawberry.Private[dict[str, Any] | None] = None

    @strawberry.field(description="How passages were looked for; null where none were asked for.")
    def retrieval(self) -> RetrievalReport | None:
        return None if self.retrieved is None else RetrievalReport.of(self.retrieved)


@payload
class GenerationPayload(Payload):
    """The generation and the message it wrote."""

    generation: Generation | None = strawberry.field(
        default=None, description="The generation as it is now."
    )
    message: Message | None = strawberry.field(
        default=None, description="The message, with what was written of it."
    )


async def _retrieve(info: Info, input: SendMessageInput) -> Retrieval | None:
    """The search that was asked for, its query embedded. Raises Invalid."""
    if input.retrieval is UNSET or input.retrieval is None:
        return None
    content = input.content if isinstance(input.content, str) else ""
    retrieval = Retrieval(input.retrieval, content)
    await retrieval.prepare(info.context)
    return retrieval


class GenerationsMutation:
    """Replies."""

    @mutation(
        description=(
            "Add a message to a conversation, as appendMessage does, and ask a model to answer it."
            " The answer is written whether anybody follows it or not."
        ),
        prepare=_retrieve,
    )
    async def send_message(self, info: Info, input: SendMessageInput) -> ReplyPayload:
        def parent() -> dict[str, Any]:
            if input.parent_id is UNSET:
                return {}
            if input.parent_id is None:
                return {"parent_id": None}
            return {"parent_id": reference("message", input.parent_id, ("parent_id",))}

        values, place, id, reply_id, parts, reply = all_of(
            lambda: _asking(input),
            parent,
            lambda: new_id("message", input.id),
            lambda: new_id("message", input.reply_id, ("reply_id",)),
            lambda: parts_of(input.parts),
            lambda: _checked_options(input.reply),
        )
        replies = _provider(info.context)
        options = _with_model(reply, replies)
        conversation_id = values.pop("conversation_id")
        retrieval = info.context.prepared
        passages = await retrieval.passages(info.context.session) if retrieval else []
        asked = await repository.send_message(
            info.context.session,
            conversation_id,
            {**values, **place},
            parts,
            options,
            replies.lease,
            id=id,
            reply_id=reply_id,
            passages=passages,
        )
        answer = _started(info.context, replies, asked)
        answer.retrieved = retrieval.report if retrieval else None
        return answer

    @mutation(
        description=(
            "Have a message answered anew. The new answer stands beside the old one, which stays"
            " as it is, and becomes the active leaf."
        )
    )
    async def regenerate_message(self, info: Info, input: RegenerateMessageInput) -> ReplyPayload:
        id, reply_id, reply = all_of(
            lambda: reference("message", input.id),
            lambda: new_id("message", input.reply_id, ("reply_id",)),
            lambda: _checked_options(input.reply),
        )
        replies = _provider(info.context)
        options = _with_model(reply, replies)
        asked = await repository.regenerate_message(
            info.context.session, id, options, replies.lease, reply_id=reply_id
        )
        return _started(info.context, replies, asked)

    @mutation(
        description=(
            "End a reply now, on whatever server it is written, and keep what was written. One"
            " that has ended stays as it is."
        )
    )
    async def stop_generation(self, info: Info, input: StopGenerationInput) -> GenerationPayload:
        id = reference("generation", input.id)
        context = info.context
        generation, message = await repository.stop_generation(context.session, id)
        if context.services.replies is not None:
            context.after_commit.append(partial(context.services.replies.stop, id))
        return GenerationPayload(
            generation=shown(conversations_generations.Generation, [generation])[0],
            message=shown(conversations.Message, [message])[0],
        )


def _provider(context: Context) -> Replies:
    replies = context.services.replies
    if replies is None or not replies.available:
        raise Unavailable(
            "No provider of models is configured: set LLM_BASE_URL or LLM_API_KEY, and LLM_MODEL."
            " Messages can be added with appendMessage."
        )
    return replies


def _started(context: Context, replies: Replies, asked: repository.Asked) -> ReplyPayload:
    context.after_commit.append(partial(replies.start, asked.generation))
    return ReplyPayload(
        message=shown(conversations.Message, [asked.message])[0],
        reply=shown(conversations.Message, [asked.reply])[0],
        generation=shown(conversations_generations.Generation, [asked.generation])[0],
        conversation=shown(conversations.Conversation, [asked.conversation])[0],
    )


def _asking(input: SendMessageInput) -> dict[str, Any]:
    """The values of a message that can be answered. Raises Invalid."""
    values = {"role": "user", **checked(input)}
    if values["role"] not in ASKING:
        message = "A model answers a USER or a TOOL; add other messages with appendMessage."
        raise invalid("role", "one_of", message, ", ".join(role.upper() for role in ASKING))
    return values


def _checked_options(input: ReplyInput | None) -> dict[str, Any]:
    """The options of a reply. Raises Invalid."""
    values = checked(input or ReplyInput(), path=("reply",))
    for name, about in values.get("tools", {}).items():
        if not isinstance(about, dict):
            message = "Each tool is an object with a `description` and `parameters`."
            raise Invalid([Violation(("reply", "tools", name), "type", message, "object")])
    return values


def _with_model(values: dict[str, Any], replies: Replies) -> dict[str, Any]:
    """The options of a reply, with the default model. Raises Invalid."""
    if values.get("model") is None:
        if not replies.models:
            raise Invalid(
                [Violation(("reply", "model"), "required", "Name a model: there is no default.")]
            )
        values["model"] = replies.models[0]
    elif len(replies.models) > 1 and values["model"] not in replies.models:
        bound = ", ".join(replies.models)
        message = f"The model must be one of {bound}."
        raise Invalid([Violation(("reply", "model"), "one_of", message, bound)])
    return values
