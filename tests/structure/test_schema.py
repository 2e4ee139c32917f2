"""What the schema must hold whatever is added to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from graphql import (
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLNonNull,
    GraphQLObjectType,
)

from db.models import metadata
from db.models.accounts import LoginSession
from db.models.work import Task
from schema import build_schema
from schema.changes import EntityType
from schema.mirror import MIRRORS, Mirror, forgotten_columns
from schema.problems import ProblemCode

SCHEMA = build_schema()._schema
TESTS = Path(__file__).parents[1]
NOT_SERVED = {
    "account_export_parts",
    "idempotency_keys",
    # What `generationStream` is made of.
    "generation_deltas",
    "swept_events",
    # As types of their own, beside searches.
    "embedding_choices",
    "embedding_models",
    "embeddings",
    "message_embeddings",
}

# Sending these twice changes nothing more, or, as `logIn` says, is no harm.
IDEMPOTENT = {
    "logIn",
    "logOut",
    "deleteAccount",
    "revokeLoginSession",
    "revokeOtherLoginSessions",
    "revokeApiKey",
}
CHANGES = ("update", "archive", "delete", "restore", "edit", "set")
# Each of its items has a version.
BULK = {"updateTasks"}


def described() -> Iterator[tuple[str, str | None]]:
    """Everything that a client can read about, with its description."""
    for kind in SCHEMA.type_map.values():
        if kind.name.startswith("__"):
            continue
        yield kind.name, kind.description
        match kind:
            case GraphQLObjectType() | GraphQLInterfaceType():
                for name, field in kind.fields.items():
                    yield f"{kind.name}.{name}", field.description
                    for argument, about in field.args.items():
                        yield f"{kind.name}.{name}({argument})", about.description
            case GraphQLInputObjectType():
                for name, given in kind.fields.items():
                    yield f"{kind.name}.{name}", given.description
            case GraphQLEnumType():
                for name, value in kind.values.items():
                    yield f"{kind.name}.{name}", value.description


def test_everything_has_a_description() -> None:
    everything = dict(described())
    assert len(everything) > 1_000
    assert [name for name, text in everything.items() if not (text or "").strip()] == []


@pytest.mark.parametrize("mirror", MIRRORS.values(), ids=lambda mirror: mirror.name)
def test_a_column_is_shown_or_private(mirror: Mirror) -> None:
    assert forgotten_columns(mirror) == set()
    assert mirror.private <= set(mirror.table.columns.keys()) - set(mirror.columns)


def test_a_forgotten_column_is_found() -> None:
    login_sessions = MIRRORS[LoginSession]
    assert forgotten_columns(replace(login_sessions, private=frozenset())) == {"token_hash"}
    tasks = MIRRORS[Task]
    without_title = tuple(name for name in tasks.columns if name != "title")
    assert forgotten_columns(replace(tasks, columns=without_title)) == {"title"}


@pytest.mark.parametrize("code", ProblemCode, ids=lambda code: code.name)
def test_a_problem_code_is_met_in_a_test(code: ProblemCode) -> None:
    tests = (file for file in TESTS.rglob("test_*.py") if file != Path(__file__))
    assert any(f'"{code.name}"' in file.read_text() for file in tests)


def test_a_table_is_served_or_known_not_to_be() -> None:
    assert set(metadata.tables) - {mirror.table.name for mirror in MIRRORS.values()} == NOT_SERVED


def test_a_type_whose_changes_are_recorded_is_in_the_change_feed() -> None:
    """A module that declares one is named in `schema.changes.DECLARING`."""
    recorded = {mirror.key for mirror in MIRRORS.values() if mirror.audited}
    assert {one.value for one in EntityType} == recorded


def mutations() -> dict[str, GraphQLField]:
    assert SCHEMA.mutation_type is not None
    fields: dict[str, GraphQLField] = SCHEMA.mutation_type.fields
    return fields


@pytest.mark.parametrize("name", mutations())
def test_a_mutation_can_be_sent_again_and_says_what_it_is_based_on(name: str) -> None:
    field = mutations()[name]
    assert list(field.args) == ["input"]
    required = field.args["input"].type
    assert isinstance(required, GraphQLNonNull)
    given = required.of_type
    assert isinstance(given, GraphQLInputObjectType)
    assert ("idempotencyKey" in given.fields) is (name not in IDEMPOTENT)
    if name.startswith(CHANGES) and name not in BULK:
        assert "expectedVersion" in given.fields
    assert "clientMutationId" in given.fields


@pytest.mark.parametrize("name", mutations())
def test_a_mutation_answers_with_problems(name: str) -> None:
    required = mutations()[name].type
    assert isinstance(required, GraphQLNonNull)
    answered = required.of_type
    assert isinstance(answered, GraphQLObjectType)
    assert str(answered.fields["problems"].type) == "[Problem!]!"
    assert "clientMutationId" in answered.fields
