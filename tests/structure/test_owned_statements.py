"""The reader of statements finds what it looks for."""

from __future__ import annotations

import pytest

from tests.owned_statements import unowned


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("SELECT tasks.id FROM tasks WHERE tasks.id = $1", ["tasks"]),
        ("SELECT tasks.id FROM tasks WHERE tasks.owner_id = $1::UUID", []),
        ("SELECT t.id FROM tasks AS t WHERE tasks.owner_id = $1::UUID", ["tasks"]),
        ("SELECT t.id FROM tasks AS t WHERE t.owner_id = $1::UUID", []),
        ("SELECT users.id FROM users WHERE users.username = $1", ["users"]),
        ("SELECT users.id FROM users WHERE users.id = $1::UUID", []),
        (
            "SELECT m.id FROM conversations AS c, messages AS m WHERE c.owner_id = $1",
            ["messages"],
        ),
        (
            "SELECT 1 FROM tasks WHERE tasks.owner_id = $1 AND"
            " EXISTS (SELECT 1 FROM workers AS w WHERE w.id = tasks.assignee_id)",
            ["workers"],
        ),
        ("UPDATE workers SET name = $1 WHERE workers.id = $2", ["workers"]),
        ("DELETE FROM chunks WHERE chunks.id = $1", ["chunks"]),
        ("INSERT INTO projects (id, name) VALUES ($1, $2)", ["projects"]),
        ("INSERT INTO projects (owner_id, id) VALUES ($1, $2)", []),
        ("SELECT n.id, messages.depth FROM unnest($1) AS n(id)", []),
    ],
)
def test_a_table_without_its_owner_is_found(sql: str, tables: list[str]) -> None:
    assert unowned(sql) == tables
