"""Conversations, messages and their parts, as GraphQL shows them."""

from strawberry import auto

from db.models import conversations
from schema.mirror import mirror
from schema.node import Node
from schema.pages import Connection
from schema.relations import many, one, root, root_row


@mirror(
    conversations.Conversation,
    order_by=("last_message_at",),
    default_order=("-last_message_at",),
)
class Conversation(Node):
    title: auto
    metadata: auto
    tags: auto
    pinned_at: auto
    archived_at: auto
    last_message_at: auto
    version: auto
    created_at: auto
    updated_at: auto
    deleted_at: auto
    active_leaf: "Message" = one(conversations.Conversation.active_leaf_id)


@mirror(
    conversations.Message,
    private={"search"},
    order_by=("depth", "created_at"),
    default_order=("depth",),
)
class Message(Node):
    role: auto
    status: auto
    content: auto
    metadata: auto
    model: auto
    input_tokens: auto
    output_tokens: auto
    depth: auto
    version: auto
    created_at: auto
    updated_at: auto
    deleted_at: auto
    conversation: Conversation = one(conversations.Message.conversation_id)
    parent: "Message" = one(conversations.Message.parent_id)
    children: Connection["Message"] = many(
        conversations.Message.parent_id, default_order=("created_at",)
    )
    parts: Connection["MessagePart"] = many(conversations.MessagePart.message_id)


@mirror(conversations.MessagePart, default_order=("position",))
class MessagePart(Node):
    position: auto
    type: auto
    text: auto
    data: auto
    tool_call_id: auto
    created_at: auto
    deleted_at: auto
    message: Message = one(conversations.MessagePart.message_id)


class ConversationsQuery:
    conversation: Conversation = root_row(
        conversations.Conversation, description="The conversation with this id."
    )
    conversations: Connection[Conversation] = root(
        conversations.Conversation,
        description="The caller's conversations, those with the newest messages first.",
    )
