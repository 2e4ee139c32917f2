"""What can be done with conversations and their messages."""

from typing import Any

import strawberry
from strawberry import auto
from strawberry.types.unset import UNSET

from db.models import conversations
from db.refusals import invalid
from db.repositories import conversations as repository
from schema.context import Info
from schema.conversations import Conversation, Message
from schema.inputs import (
    ChangeInput,
    CreateInput,
    OnceInput,
    all_of,
    checked,
    checked_items,
    create_input,
    expected_version,
    new_id,
    reference,
    update_input,
)
from schema.mutation import Payload, mutation, payload, shown

MAX_PARTS = 100


@create_input(conversations.Conversation)
class CreateConversationInput(CreateInput):
    """What a new conversation is made of."""

    title: auto
    metadata: auto
    tags: auto


@update_input(conversations.Conversation)
class UpdateConversationInput(ChangeInput):
    """What to change in a conversation; what is left out stays as it is."""

    title: auto
    metadata: auto
    tags: auto
    pinned: bool | None = strawberry.field(
        default=UNSET, description="Whether it is pinned; `pinnedAt` tells since when."
    )


@strawberry.input(description="Which conversation to archive, or to take out of the archive.")
class ArchiveConversationInput(ChangeInput):
    """The input of archiveConversation."""

    archived: bool = strawberry.field(
        default=True, description="False takes it out of the archive again."
    )


@strawberry.input(description="Which conversation to delete.")
class DeleteConversationInput(ChangeInput):
    """The input of deleteConversation."""


@strawberry.input(description="Which conversation to bring back.")
class RestoreConversationInput(ChangeInput):
    """The input of restoreConversation."""


@create_input(conversations.MessagePart)
class MessagePartInput:
    """A part of a message; its position is its place in the list."""

    type: auto
    text: auto
    data: auto
    tool_call_id: auto


@create_input(conversations.Message)
class AppendMessageInput(CreateInput):
    """What a new message is made of, and where it goes."""

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
    model: auto
    input_tokens: auto
    output_tokens: auto
    parts: list[MessagePartInput] = strawberry.field(
        default_factory=list, description=f"What it holds beyond its text; at most {MAX_PARTS}."
    )


@update_input(conversations.Message)
class EditMessageInput(ChangeInput):
    """What is different in the new variant of a message; what is left out is as in the old one."""

    new_id: strawberry.ID | None = strawberry.field(
        default=UNSET,
        description=(
            "The id of the new message, chosen by the client: a fresh UUIDv7 as a global id; else"
            " the server chooses."
        ),
    )
    content: auto
    metadata: auto
    model: auto
    input_tokens: auto
    output_tokens: auto
    parts: list[MessagePartInput] | None = strawberry.field(
        default=UNSET,
        description=f"All its parts, at most {MAX_PARTS}; those of the old one when left out.",
    )


@strawberry.input(description="Which branch of a conversation to make the active one.")
class SetActiveLeafInput(OnceInput):
    """The input of setActiveLeaf."""

    conversation_id: strawberry.ID = strawberry.field(description="The id of the conversation.")
    message_id: strawberry.ID = strawberry.field(
        description="The message that the active branch is to end with."
    )
    expected_version: int | None = strawberry.field(
        default=UNSET,
        description="The version of the conversation that the caller has seen.",
    )


@payload
class ConversationPayload(Payload):
    """The changed conversation."""

    conversation: Conversation | None = strawberry.field(
        default=None, description="The conversation as it is now."
    )


@payload
class MessagePayload(Payload):
    """The new message and the conversation it is in."""

    message: Message | None = strawberry.field(default=None, description="The new message.")
    conversation: Conversation | None = strawberry.field(
        default=None, description="The conversation as it is now."
    )


def _conversation(row: Any) -> ConversationPayload:
    return ConversationPayload(conversation=shown(conversations.Conversation, [row])[0])


def _message(added: repository.Added) -> MessagePayload:
    return MessagePayload(
        message=shown(conversations.Message, [added.message])[0],
        conversation=shown(conversations.Conversation, [added.conversation])[0],
    )


def parts_of(given: list[MessagePartInput]) -> list[dict[str, Any]]:
    return checked_items(given, "parts", longest=MAX_PARTS)


class ConversationsMutation:
    """Conversations and messages."""

    @mutation(description="Start a conversation.")
    async def create_conversation(
        self, info: Info, input: CreateConversationInput
    ) -> ConversationPayload:
        values, id = all_of(lambda: checked(input), lambda: new_id("conversation", input.id))
        session = info.context.session
        return _conversation(await repository.create_conversation(session, values, id=id))

    @mutation(description="Change a conversation.")
    async def update_conversation(
        self, info: Info, input: UpdateConversationInput
    ) -> ConversationPayload:
        def pinned() -> dict[str, bool]:
            if input.pinned is None:
                raise invalid("pinned", "not_null", "This field must not be null.")
            return {} if input.pinned is UNSET else {"pinned": input.pinned}

        id, values, pin = all_of(
            lambda: reference("conversation", input.id), lambda: checked(input), pinned
        )
        return _conversation(
            await repository.update_conversation(
                info.context.session, id, {**values, **pin}, expected_version(input)
            )
        )

    @mutation(description="Put a conversation into the archive, or take it out again.")
    async def archive_conversation(
        self, info: Info, input: ArchiveConversationInput
    ) -> ConversationPayload:
        id = reference("conversation", input.id)
        return _conversation(
            await repository.archive_conversation(
                info.context.session, id, input.archived, expected_version(input)
            )
        )

    @mutation(description="Delete a conversation with all its messages; it can be restored.")
    async def delete_conversation(
        self, info: Info, input: DeleteConversationInput
    ) -> ConversationPayload:
        id = reference("conversation", input.id)
        session = info.context.session
        return _conversation(
            await repository.delete_conversation(session, id, expected_version(input))
        )

    @mutation(description="Bring back a deleted conversation and what was deleted with it.")
    async def restore_conversation(
        self, info: Info, input: RestoreConversationInput
    ) -> ConversationPayload:
        id = reference("conversation", input.id)
        session = info.context.session
        return _conversation(
            await repository.restore_conversation(session, id, expected_version(input))
        )

    @mutation(description="Add a message to a conversation and make it the active leaf.")
    async def append_message(self, info: Info, input: AppendMessageInput) -> MessagePayload:
        def parent() -> dict[str, Any]:
            if input.parent_id is UNSET:
                return {}
            if input.parent_id is None:
                return {"parent_id": None}
            return {"parent_id": reference("message", input.parent_id, ("parent_id",))}

        values, place, id, parts = all_of(
            lambda: checked(input),
            parent,
            lambda: new_id("message", input.id),
            lambda: parts_of(input.parts),
        )
        conversation_id = values.pop("conversation_id")
        return _message(
            await repository.append_message(
                info.context.session, conversation_id, {**values, **place}, parts, id=id
            )
        )

    @mutation(
        description=(
            "Add another variant of a message beside it and make it the active leaf. The old one"
            " stays as it is."
        )
    )
    async def edit_message(self, info: Info, input: EditMessageInput) -> MessagePayload:
        def parts() -> list[dict[str, Any]] | None:
            if input.parts is None:
                raise invalid("parts", "not_null", "This field must not be null.")
            return None if input.parts is UNSET else parts_of(input.parts)

        original_id, id, values, new_parts = all_of(
            lambda: reference("message", input.id),
            lambda: new_id("message", input.new_id, ("new_id",)),
            lambda: checked(input),
            parts,
        )
        return _message(
            await repository.edit_message(
                info.context.session,
                original_id,
                values,
                new_parts,
                id=id,
                expected_version=expected_version(input),
            )
        )

    @mutation(description="Make the branch that ends with a message the active one.")
    async def set_active_leaf(self, info: Info, input: SetActiveLeafInput) -> ConversationPayload:
        conversation_id, message_id = all_of(
            lambda: reference("conversation", input.conversation_id, ("conversation_id",)),
            lambda: reference("message", input.message_id, ("message_id",)),
        )
        return _conversation(
            await repository.set_active_leaf(
                info.context.session, conversation_id, message_id, expected_version(input)
            )
        )
