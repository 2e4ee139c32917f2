"""What every declared column has, and what the JSON bounds mean."""

import json
from enum import StrEnum
from typing import get_args

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncEngine

from db.base import Base, Owned, Restorable, Versioned, column_fields
from db.json_bounds import check_json, printed_size
from db.models import (
    accounts,
    conversations,
    conversations_generations,
    journal,
    knowledge,
    knowledge_search,
    metadata,
    work,
)

MODELS: list[type[Base]] = [
    found
    for module in (
        accounts,
        conversations,
        conversations_generations,
        journal,
        knowledge,
        knowledge_search,
        work,
    )
    for found in vars(module).values()
    if isinstance(found, type) and issubclass(found, Base) and "__tablename__" in vars(found)
]

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)


def test_every_table_is_a_model() -> None:
    assert {model.__table__.name for model in MODELS} == set(metadata.tables)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_column_is_described_and_bounded(model: type[Base]) -> None:
    fields = column_fields(model)
    assert list(fields) == [column.name for column in model.__table__.c]
    assert (model.__doc__ or "").strip()
    for column in model.__table__.c:
        field = fields[column.name]
        assert field.description, column
        assert field.description.endswith("."), column
        if isinstance(column.type, sa.String) and not isinstance(column.type, sa.Text):
            assert column.type.length, column
        kinds = [one for one in get_args(field.annotation) or (field.annotation,) if one]
        enums = [one for one in kinds if isinstance(one, type) and issubclass(one, StrEnum)]
        for enum in enums:
            assert enum.__doc__
            assert all(member.name == member.value.upper() for member in enum)
        if "owner_id" in fields and "id" not in fields:
            continue  # its key is that of other rows
        made_by_us = column.primary_key and not model.__table__.info["shared"]
        if made_by_us or column.name in {"created_at", "updated_at", "version"}:
            assert column.server_default is not None or column.name == "owner_id"


def test_the_kinds_of_rows_are_those_of_the_design() -> None:
    def named(kind: type[Base]) -> set[str]:
        return {model.__name__ for model in MODELS if issubclass(model, kind)}

    versioned = {"Conversation", "Message", "Document", "Project", "Worker", "Task", "Generation"}
    assert named(Versioned) == versioned | {"User"}
    assert named(Restorable) == versioned | {"MessagePart", "Chunk", "Citation"}
    # Of these the key is that of the rows they are about; nobody owns a model.
    keyed = {"Embedding", "MessageEmbedding", "EmbeddingModel", "GenerationDelta"}
    assert named(Owned) == {model.__name__ for model in MODELS} - keyed - {"User"}


def test_inputs_are_validated_by_the_same_fields() -> None:
    task = work.TaskFields.model_validate({"title": "x", "tags": ["a"], "status": "in_progress"})
    assert task.status is work.TaskStatus.IN_PROGRESS
    assert task.priority == 2
    with pytest.raises(ValidationError) as caught:
        work.TaskFields.model_validate(
            {"title": "", "priority": 5, "tags": ["x" * 101], "status": "over"}
        )
    wrong = {error["loc"][0] for error in caught.value.errors()}
    assert wrong == {"title", "priority", "tags", "status"}
    with pytest.raises(ValidationError) as caught:
        conversations.ConversationFields.model_validate({"metadata": {"a": "x" * 70_000}})
    assert [error["loc"] for error in caught.value.errors()] == [("metadata",)]
    with pytest.raises(ValidationError, match="pattern"):
        accounts.UserFields.model_validate({"username": "a b c", "email": "a@b"})


@given(st.lists(values, max_size=20))
@settings(max_examples=100, deadline=None)
async def test_json_is_measured_as_postgresql_prints_it(
    admin_engine: AsyncEngine, batch: list[object]
) -> None:
    statement = sa.text(
        "SELECT octet_length(value::text) FROM jsonb_array_elements(:batch)"
        " WITH ORDINALITY AS given(value, n) ORDER BY n"
    ).bindparams(sa.bindparam("batch", type_=JSONB))
    async with admin_engine.connect() as connection:
        printed = (await connection.execute(statement, {"batch": batch})).scalars().all()
    assert [printed_size(value) for value in batch] == list(printed)


@pytest.mark.parametrize(
    "value", ["a\0b", "\ud800", {"\0": 1}, [float("nan")], [float("inf")], 10**400, {1: 2}, [{1}]]
)
def test_what_jsonb_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must"):
        check_json(1000)(value)


def test_depth_is_bounded_before_the_stack_is() -> None:
    value: object = []
    for _ in range(900):
        value = [value]
    json.dumps(value)
    with pytest.raises(ValueError, match="32 levels"):
        check_json(100_000)(value)
