"""The reader of statements finds what it looks for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.owned_statements import WITH_SESSIONS, unowned

ROOT = Path(__file__).parents[2]


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
        ("INSERT INTO projects (id, owner_id) VALUES (f($1, 2), $2::UUID)", []),
        ("INSERT INTO projects (owner_id, id) SELECT $1::UUID AS owner_id, 2 FROM x", []),
        (
            "INSERT INTO projects (owner_id, id) SELECT t.owner_id, 2 FROM unnest($1) t",
            ["projects"],
        ),
        ("INSERT INTO projects (owner_id, id) VALUES ('0b…', $2)", ["projects"]),
        (
            "WITH done AS (UPDATE tasks SET number = 1 WHERE tasks.owner_id = $1 RETURNING *)"
            " INSERT INTO projects (owner_id, id) SELECT done.owner_id AS o, done.id FROM done",
            [],
        ),
        (
            "SELECT t.id FROM tasks AS t, workers AS w WHERE t.owner_id = w.owner_id",
            ["tasks", "workers"],
        ),
        (
            "SELECT t.id FROM tasks AS t, workers AS w WHERE t.owner_id = $1 AND w.owner_id = $2",
            ["tasks", "workers"],
        ),
        (
            "WITH done AS (UPDATE tasks SET number = 1 WHERE tasks.owner_id = $1 RETURNING *)"
            " INSERT INTO projects (owner_id, id) SELECT $2, done.id FROM done",
            ["projects", "tasks"],
        ),
        ("SELECT n.id, messages.depth FROM unnest($1) AS n(id)", []),
    ],
)
def test_a_table_without_its_owner_is_found(sql: str, tables: list[str]) -> None:
    assert unowned(sql) == tables


def test_every_module_that_makes_sessions_is_read() -> None:
    makers = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in ("db", "schema", "server")
        for file in (ROOT / package).rglob("*.py")
        if makes_sessions(file)
    }
    # It looks at tables without naming an owner, to prove that PostgreSQL hides their rows.
    makers.remove("db.security")
    assert makers == {module.__name__ for module in WITH_SESSIONS}


def makes_sessions(file: Path) -> bool:
    nodes = ast.walk(ast.parse(file.read_text()))
    calls = (node.func for node in nodes if isinstance(node, ast.Call))
    return any(isinstance(called, ast.Name) and called.id == "Session" for called in calls)
