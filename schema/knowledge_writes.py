"""What can be done with documents."""

from functools import partial
from typing import Any

import strawberry
from strawberry import auto
from strawberry.types.unset import UNSET

from db.models import knowledge
from db.repositories import knowledge as repository
from schema.context import Info
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
from schema.knowledge import Document
from schema.mutation import Payload, mutation, payload, shown

MAX_DOCUMENTS = 1_000


class _DocumentFields:
    title: auto
    kind: auto
    content: auto
    source_uri: auto
    mime_type: auto
    author: auto
    metadata: auto


@create_input(knowledge.Document)
class CreateDocumentInput(_DocumentFields, CreateInput):
    """What a new document is made of."""


@create_input(knowledge.Document)
class NewDocumentInput(_DocumentFields):
    """What one of several new documents is made of."""

    id: strawberry.ID | None = strawberry.field(
        default=UNSET,
        description="Chosen by the client: a fresh UUIDv7 as a global id; else the server chooses.",
    )


@strawberry.input(description="New documents, of which all are created or none.")
class CreateDocumentsInput(OnceInput):
    """The input of createDocuments."""

    documents: list[NewDocumentInput] = strawberry.field(
        description=f"The documents, at most {MAX_DOCUMENTS:,}."
    )


@update_input(knowledge.Document)
class UpdateDocumentInput(_DocumentFields, ChangeInput):
    """What to change in a document; what is left out stays as it is."""


@strawberry.input(description="Which document to delete.")
class DeleteDocumentInput(ChangeInput):
    """The input of deleteDocument."""


@strawberry.input(description="Which document to bring back.")
class RestoreDocumentInput(ChangeInput):
    """The input of restoreDocument."""


@strawberry.input(description="Which document to cut and to embed anew.")
class ReindexDocumentInput(ChangeInput):
    """The input of reindexDocument."""


@payload
class DocumentPayload(Payload):
    """The changed document."""

    document: Document | None = strawberry.field(
        default=None, description="The document as it is now."
    )


@payload
class DocumentsPayload(Payload):
    """The new documents."""

    documents: list[Document] | None = strawberry.field(
        default=None, description="The documents in the order of the input."
    )


def _document(row: Any) -> DocumentPayload:
    return DocumentPayload(document=shown(knowledge.Document, [row])[0])


def _new(input: CreateDocumentInput | NewDocumentInput, path: tuple[str, ...]) -> dict[str, Any]:
    """The checked values of a new document, with its id when the client chose one."""
    values: dict[str, Any]
    values, id = all_of(
        partial(checked, input, path=path),
        partial(new_id, "document", input.id, (*path, "id")),
    )
    return values if id is None else {**values, "id": id}


class KnowledgeMutation:
    """Documents."""

    @mutation(description="Create a document.")
    async def create_document(self, info: Info, input: CreateDocumentInput) -> DocumentPayload:
        values = _new(input, ())
        rows = await repository.create_documents(info.context.session, [values], [("id",)])
        return _document(rows[0])

    @mutation(description="Create several documents at once: all of them, or none.")
    async def create_documents(self, info: Info, input: CreateDocumentsInput) -> DocumentsPayload:
        values = checked_items(input.documents, "documents", longest=MAX_DOCUMENTS, check=_new)
        paths = [("documents", str(n), "id") for n in range(len(values))]
        rows = await repository.create_documents(info.context.session, values, paths)
        return DocumentsPayload(documents=shown(knowledge.Document, rows))

    @mutation(
        description=(
            "Change a document. Other content makes it another revision, cut into chunks anew:"
            " those whose text is the same stay, with their ids."
        )
    )
    async def update_document(self, info: Info, input: UpdateDocumentInput) -> DocumentPayload:
        id, values = all_of(lambda: reference("document", input.id), lambda: checked(input))
        session = info.context.session
        return _document(
            await repository.update_document(session, id, values, expected_version(input))
        )

    @mutation(
        description=(
            "Cut a document into chunks and embed them anew, as after a provider refused them. Its"
            " chunks have new ids then."
        )
    )
    async def reindex_document(self, info: Info, input: ReindexDocumentInput) -> DocumentPayload:
        id = reference("document", input.id)
        session = info.context.session
        return _document(await repository.reindex_document(session, id, expected_version(input)))

    @mutation(description="Delete a document with its chunks; it can be restored.")
    async def delete_document(self, info: Info, input: DeleteDocumentInput) -> DocumentPayload:
        id = reference("document", input.id)
        session = info.context.session
        return _document(await repository.delete_document(session, id, expected_version(input)))

    @mutation(description="Bring back a deleted document and what was deleted with it.")
    async def restore_document(self, info: Info, input: RestoreDocumentInput) -> DocumentPayload:
        id = reference("document", input.id)
        session = info.context.session
        return _document(await repository.restore_document(session, id, expected_version(input)))
