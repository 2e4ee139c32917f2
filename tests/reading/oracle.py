"""What filters and relations mean, said again in Python over all rows of one owner."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from schema.mirror import Mirror
from schema.relation_fields import Relation
from tests.connections import camel_columns, paths
from tests.factories import Row, Rows
from tests.filters import EnumLiteral

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "in": lambda value, operand: value in operand,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "hasAny": lambda value, operand: any(item in value for item in operand),
    "hasAll": lambda value, operand: all(item in value for item in operand),
    "startsWith": lambda value, operand: value.lower().startswith(operand.lower()),
}
OPPOSITES = {"neq": "eq", "notIn": "in"}

REFERRING = {
    "Message.children": ("messages", "parent_id"),
    "Message.parts": ("message_parts", "message_id"),
    "Message.citations": ("citations", "message_id"),
    "Document.chunks": ("chunks", "document_id"),
    "Project.tasks": ("tasks", "project_id"),
    "Worker.assignedTasks": ("tasks", "assignee_id"),
    "Worker.createdTasks": ("tasks", "created_by_id"),
    "Worker.claimedTasks": ("tasks", "claimed_by_id"),
    "Task.subtasks": ("tasks", "parent_id"),
    "Task.dependencies": ("task_dependencies", "task_id"),
    "Task.dependents": ("task_dependencies", "depends_on_id"),
}
"""Connections to the rows whose key names the parent."""


def is_live(row: Row) -> bool:
    """Whether a row is not deleted; most tables have no such mark."""
    return row.get("deleted_at") is None


def contains(value: Any, part: Any) -> bool:
    """jsonb's `@>`."""
    if isinstance(value, dict) and isinstance(part, dict):
        return all(key in value and contains(value[key], item) for key, item in part.items())
    if isinstance(value, list) and isinstance(part, list):
        return all(any(contains(item, wanted) for item in value) for wanted in part)
    if isinstance(value, bool) or isinstance(part, bool):
        return value is part
    return not isinstance(part, dict | list) and bool(value == part)


@dataclass
class Oracle:
    """All rows of one owner."""

    rows: Rows

    def matches(self, mirror: Mirror, filter_: dict[str, Any], row: Row) -> bool:
        """Whether a row meets a filter."""
        return all(self._member(mirror, name, given, row) for name, given in filter_.items())

    def related(self, parent: str, name: str, row: Row, argument: UUID | None = None) -> list[Row]:
        """The rows that a connection of a type leads to from a row."""
        path = f"{parent}.{name}"
        if path in REFERRING:
            table, column = REFERRING[path]
            return [one for one in self.rows[table] if one[column] == row["id"] and is_live(one)]
        messages = [one for one in self.rows["messages"] if is_live(one)]
        match path:
            case "Conversation.messages":
                return _branch(messages, row["active_leaf_id"])
            case "Conversation.branch":
                leaf = next((one for one in messages if one["id"] == argument), None)
                mine = leaf is not None and leaf["conversation_id"] == row["id"]
                return _branch(messages, argument) if mine else []
            case "Message.siblings":
                if not is_live(row):
                    return []
                same = ("conversation_id", "parent_id")
                return [one for one in messages if all(one[key] == row[key] for key in same)]
        raise NotImplementedError(f"say what {path} means")

    def _member(self, mirror: Mirror, name: str, given: Any, row: Row) -> bool:
        if name == "and":
            return all(self.matches(mirror, one, row) for one in given)
        if name == "or":
            return any(self.matches(mirror, one, row) for one in given)
        if name == "not":
            return not self.matches(mirror, given, row)
        if (mirror.name, name) in paths():
            relation = paths()[mirror.name, name].relation
            rows = self._ends(mirror, name, relation, row)
            found = {
                quantifier: any(self.matches(relation.target, inner, one) for one in rows)
                for quantifier, inner in given.items()
            }
            return all(met == (quantifier == "some") for quantifier, met in found.items())
        column = mirror.table.c[camel_columns(mirror)[name]]
        return all(_holds(column, row, one, operand) for one, operand in given.items())

    def _ends(self, mirror: Mirror, name: str, relation: Relation, row: Row) -> Sequence[Row]:
        if relation.to_one:
            table = self.rows[relation.target.table.name]
            return [one for one in table if one["id"] == row[relation.key]]
        return self.related(mirror.name, name, row)


def _branch(messages: list[Row], leaf_id: UUID | None) -> list[Row]:
    by_id = {one["id"]: one for one in messages}
    found = []
    while leaf_id in by_id:
        found.append(by_id[leaf_id])
        leaf_id = found[-1]["parent_id"]
    return found


def _holds(column: sa.Column[Any], row: Row, name: str, operand: Any) -> bool:
    value = row[column.name]
    if isinstance(value, IPv4Address):
        value = str(value)
    if name == "isNull":
        return bool((value is None) == operand)
    if name in OPPOSITES:
        return not _holds(column, row, OPPOSITES[name], operand)
    if value is None:
        return False
    if name == "contains":
        if isinstance(value, str):
            return str(operand).lower() in value.lower()
        return contains(value, operand)
    if isinstance(operand, list):
        operand = [_stored(value, item) for item in operand]
    else:
        operand = _stored(value, operand)
    return bool(COMPARISONS[name](value, operand))


def _stored(value: Any, operand: Any) -> Any:
    """An operand as the column holds it."""
    if isinstance(operand, EnumLiteral):
        return operand.lower()
    if isinstance(value, UUID):
        return UUID(hex=operand.rpartition("_")[2])
    if isinstance(value, datetime):
        return datetime.fromisoformat(operand)
    return operand
