"""What a migration may do while requests go on, read from the SQL that Alembic would send.

A revision may say `CONTRACTS = "<reason>"`: it takes away what no code that still runs uses. Or
`NEEDS_DOWNTIME = "<reason>"`: it cannot be run beside requests, and its author knows. The rules are
in docs/migrations.md.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import Script, ScriptDirectory

from db.migrate import ROOT

MARKS = ("CONTRACTS", "NEEDS_DOWNTIME")
NAME = r"(?:public\.)?\"?(\w+)\"?"
PIECE = re.compile(
    r"""\$(\w*)\$.*?\$\1\$|'(?:[^']|'')*'|"[^"]*"|--[^\n]*|/\*.*?\*/|;|[^;$'"/-]+|.""", re.DOTALL
)
VOLATILE = re.compile(r"\b(uuidv[47]|gen_random_uuid|random|clock_timestamp|nextval)\s*\(", re.I)
INDEX = re.compile(
    rf"CREATE (?:UNIQUE )?INDEX (CONCURRENTLY )?(?:IF NOT EXISTS )?{NAME} ON (?:ONLY )?{NAME}", re.I
)
ALTER = re.compile(rf"ALTER TABLE (?:IF EXISTS )?(?:ONLY )?{NAME} (.*)", re.I)
AWAY = re.compile(r"DROP (TABLE|TYPE|SCHEMA|VIEW)\b|TRUNCATE\b|ALTER TABLE .*\bRENAME\b", re.I)
TAKEN_AWAY = "What code may still use is taken away in a revision that says CONTRACTS"


@dataclass(frozen=True)
class Step:
    """One statement of a revision."""

    sql: str
    transaction: int | None
    """Which of all transactions it is in; None outside of any."""


@dataclass
class Known:
    """What the revisions before have left."""

    added: dict[str, int | None] = field(default_factory=dict)
    """Constraints that are not validated, by the transaction they were added in."""
    checks: dict[str, tuple[str, str]] = field(default_factory=dict)
    """CHECKs that a column is not null: the table and the column."""
    not_null: set[tuple[str, str]] = field(default_factory=set)
    """Columns of which such a CHECK was validated."""
    transactions: int = 0


def config(*folders: Path) -> Config:
    """Alembic's, of this repository or with other folders of revisions."""
    made = Config(ROOT / "alembic.ini")
    if folders:
        made.set_main_option("path_separator", "newline")
        made.set_main_option("version_locations", "\n".join(map(str, folders)))
    return made


def revisions(of: Config) -> list[Script]:
    """All revisions, oldest first."""
    return list(ScriptDirectory.from_config(of).walk_revisions())[::-1]


def sql_of(of: Config, script: Script) -> str:
    """What a revision sends."""
    out = io.StringIO()
    of.output_buffer = out
    command.upgrade(of, f"{script.down_revision or 'base'}:{script.revision}", sql=True)
    return out.getvalue()


def statements(sql: str) -> Iterator[str]:
    """The statements of a script, without comments, on one line each."""
    parts: list[str] = []
    for match in PIECE.finditer(f"{sql};"):
        piece = match[0]
        if piece == ";":
            if "".join(parts).strip():
                yield " ".join("".join(parts).split())
            parts = []
        elif not piece.startswith(("--", "/*")):
            parts.append(piece)


def steps(sql: str, known: Known) -> Iterator[Step]:
    """The statements of a revision with the transactions they are in."""
    inside = False
    for statement in statements(sql):
        if statement.upper() in ("BEGIN", "COMMIT"):
            inside = statement.upper() == "BEGIN"
            known.transactions += inside
        else:
            yield Step(statement, known.transactions if inside else None)


def faults(sql: str, known: Known, marks: frozenset[str] = frozenset()) -> list[str]:
    """What is wrong with a revision, each as a sentence and the statement."""
    new, dropped = {"alembic_version"}, set[str]()
    found: list[str] = []
    sent = list(steps(sql, known))
    inside = [step for step in sent if step.transaction and "alembic_version" not in step.sql]
    if inside and len(inside) < sum("alembic_version" not in step.sql for step in sent):
        found.append(f"What leaves its transaction does nothing inside of one: {inside[0].sql}")
    for step in sent:
        if created := re.match(rf"CREATE TABLE {NAME}", step.sql, re.I):
            new.add(created[1])
        if gone := re.match(rf"DROP INDEX CONCURRENTLY IF EXISTS {NAME}", step.sql, re.I):
            dropped.add(gone[1])
        wrong = [*_of_indexes(step, new, dropped, marks), *_of_rows(step, new, marks)]
        altered = ALTER.match(step.sql)
        if altered and altered[1] not in new:
            wrong += _of_columns(altered[2], marks)
            wrong += _of_constraints(altered[1], altered[2], step, known)
        found += [f"{one}: {step.sql[:120]}" for one in wrong]
    return [] if "NEEDS_DOWNTIME" in marks else found


def _of_indexes(
    step: Step, new: set[str], dropped: set[str], marks: frozenset[str]
) -> Iterator[str]:
    match = INDEX.match(step.sql)
    if match and match[3] not in new:
        if not match[1]:
            yield "An index on a table in use is made CONCURRENTLY"
        elif match[2] not in dropped:
            yield "An interrupted CREATE INDEX leaves an invalid one: DROP INDEX IF EXISTS before"
    if re.match(r"DROP INDEX (?!CONCURRENTLY)", step.sql, re.I):
        yield "An index is dropped CONCURRENTLY"
    concurrent = re.match(r"(CREATE|DROP) (UNIQUE )?INDEX CONCURRENTLY", step.sql, re.I)
    if concurrent and step.transaction is not None:
        yield "CONCURRENTLY is outside of a transaction: use autocommit_block()"


def _of_rows(step: Step, new: set[str], marks: frozenset[str]) -> Iterator[str]:
    if re.match(r"(SET|RESET)\b.*(lock|statement)_timeout", step.sql, re.I):
        yield "The runner sets the limits of time"
    change = re.match(rf"(?:UPDATE|DELETE FROM|INSERT INTO) (?:ONLY )?{NAME}", step.sql, re.I)
    if change and change[1] not in new:
        yield "Rows are changed in batches that are committed, outside of a transaction"
    loop = re.match(r"DO\b", step.sql, re.I)
    if loop and step.transaction is None and not re.search(r"\bCOMMIT;", step.sql, re.I):
        yield "A loop over rows commits each batch"
    if loop and step.transaction is not None and re.search(r"\bLOOP\b", step.sql, re.I):
        yield "Rows are changed in batches that are committed, outside of a transaction"
    if AWAY.match(step.sql) and "CONTRACTS" not in marks:
        yield TAKEN_AWAY


def _of_columns(change: str, marks: frozenset[str]) -> Iterator[str]:
    added = re.match(
        rf"ADD (?:COLUMN )?(?!CONSTRAINT\b)(?:IF NOT EXISTS )?{NAME} (.*)", change, re.I
    )
    if added:
        rest = added[2]
        if re.search(r"\bSTORED\b|\bIDENTITY\b|\b(big|small)?serial\b", rest, re.I):
            yield "A column that is computed for each row rewrites the table"
        if VOLATILE.search(rest):
            yield "A volatile default rewrites the table: add the column, then the default"
        if re.search(r"\bNOT NULL\b", rest, re.I) and not re.search(r"\bDEFAULT\b", rest, re.I):
            yield "A column that code does not know yet is nullable or has a default"
        if re.search(r"\b(CHECK|REFERENCES|UNIQUE|PRIMARY KEY)\b", rest, re.I):
            yield "Constraints are added by themselves, NOT VALID"
    if re.match(r"DROP (COLUMN\b|(?!CONSTRAINT\b)\w)", change, re.I) and "CONTRACTS" not in marks:
        yield TAKEN_AWAY
    if re.match(rf"ALTER (?:COLUMN )?{NAME} DROP DEFAULT", change, re.I) and not marks:
        yield TAKEN_AWAY
    if re.match(rf"ALTER (?:COLUMN )?{NAME} (?:SET DATA )?TYPE\b", change, re.I):
        yield "Another type rewrites the table: add a column, and let code move to it"


def _of_constraints(table: str, change: str, step: Step, known: Known) -> Iterator[str]:
    if added := re.match(rf"ADD CONSTRAINT {NAME} (.*)", change, re.I):
        name, rest = added[1], added[2]
        if re.match(r"UNIQUE|PRIMARY KEY", rest, re.I):
            if not re.search(r"\bUSING INDEX\b", rest, re.I):
                yield "A unique constraint takes an index that was made CONCURRENTLY: USING INDEX"
        elif not re.search(r"\bNOT VALID\b", rest, re.I):
            yield "A constraint on a table in use is added NOT VALID, and validated later"
        else:
            known.added[name] = step.transaction
            if says := re.match(rf"CHECK \(+{NAME} IS NOT NULL\)", rest, re.I):
                known.checks[name] = (table, says[1])
    if validated := re.match(rf"VALIDATE CONSTRAINT {NAME}", change, re.I):
        since = known.added.pop(validated[1], None)
        if since is not None and since == step.transaction:
            yield "A constraint is validated in a later transaction than it is added in"
        if validated[1] in known.checks:
            known.not_null.add(known.checks[validated[1]])
    required = re.match(rf"ALTER (?:COLUMN )?{NAME} SET NOT NULL", change, re.I)
    if required and (table, required[1]) not in known.not_null:
        yield "NOT NULL needs a CHECK that says so and was validated before"


def marks_of(script: Script) -> frozenset[str]:
    """What a revision says of itself. Raises AssertionError for a mark without a reason."""
    said = {mark: getattr(script.module, mark, None) for mark in MARKS}
    for mark, reason in said.items():
        assert reason is None or re.fullmatch(r"[A-Z].{15,}\.", reason), (script.path, mark)
    return frozenset(mark for mark, reason in said.items() if reason is not None)


def lint(of: Config) -> dict[str, list[str]]:
    """What is wrong, by revision; only those with something wrong."""
    known = Known()
    found = {
        Path(script.path).name: faults(sql_of(of, script), known, marks_of(script))
        for script in revisions(of)
    }
    return {name: wrong for name, wrong in found.items() if wrong}
