"""Every revision can be run while requests go on, or says why not; the rules find what cannot."""

from __future__ import annotations

import pytest

from tests.structure.migration_rules import Known, config, faults, lint, statements

BLOCK = "COMMIT; {} ; BEGIN;"
GOOD = [
    "CREATE TABLE new (a int); CREATE INDEX i ON new (a); ALTER TABLE new ADD UNIQUE (a);"
    " INSERT INTO new VALUES (1); ALTER TABLE new ALTER COLUMN a SET NOT NULL",
    "ALTER TABLE tasks ADD COLUMN a int",
    "ALTER TABLE tasks ADD COLUMN a int DEFAULT 1 NOT NULL",
    "ALTER TABLE tasks ADD COLUMN a timestamptz DEFAULT now() NOT NULL",
    "ALTER TABLE tasks ALTER COLUMN a SET DEFAULT uuidv7()",
    "ALTER TABLE tasks ADD CONSTRAINT c CHECK (a > 0) NOT VALID",
    "ALTER TABLE tasks ADD CONSTRAINT c FOREIGN KEY (a) REFERENCES b (a) NOT VALID",
    "ALTER TABLE tasks ADD CONSTRAINT c UNIQUE USING INDEX i",
    BLOCK.format("DROP INDEX CONCURRENTLY IF EXISTS i; CREATE INDEX CONCURRENTLY i ON tasks (a)"),
    BLOCK.format("DROP INDEX CONCURRENTLY i"),
    BLOCK.format("DO $$ BEGIN LOOP UPDATE tasks SET a = 1; COMMIT; END LOOP; END $$"),
    "ALTER TABLE tasks ADD CONSTRAINT c CHECK (a IS NOT NULL) NOT VALID; COMMIT; BEGIN;"
    " ALTER TABLE tasks VALIDATE CONSTRAINT c; COMMIT; BEGIN;"
    " ALTER TABLE tasks ALTER a SET NOT NULL; ALTER TABLE tasks DROP CONSTRAINT c",
    "CREATE FUNCTION f() RETURNS void AS $x$ UPDATE tasks SET a = 1; DROP TABLE tasks $x$",
    "-- DROP TABLE tasks;\n ALTER TABLE tasks ALTER COLUMN a SET DEFAULT 'DROP; TABLE'",
    "CREATE POLICY p ON tasks USING (true); GRANT SELECT ON tasks TO engram_app",
]
BAD = [
    ("CREATE INDEX i ON tasks (a)", "made CONCURRENTLY"),
    ("CREATE UNIQUE INDEX i ON public.tasks (a)", "made CONCURRENTLY"),
    ("DROP INDEX CONCURRENTLY i", "outside of a transaction"),
    (BLOCK.format("CREATE INDEX CONCURRENTLY i ON tasks (a)"), "leaves an invalid one"),
    ("DROP INDEX i", "dropped CONCURRENTLY"),
    ("ALTER TABLE tasks ADD COLUMN a int NOT NULL", "nullable or has a default"),
    ("ALTER TABLE tasks ADD COLUMN a uuid DEFAULT uuidv7() NOT NULL", "volatile default"),
    ("ALTER TABLE tasks ADD a float DEFAULT random()", "volatile default"),
    ("ALTER TABLE tasks ADD COLUMN a int GENERATED ALWAYS AS (b + 1) STORED", "rewrites the table"),
    ("ALTER TABLE tasks ADD COLUMN a bigserial", "rewrites the table"),
    ("ALTER TABLE tasks ADD COLUMN a int REFERENCES b (id)", "added by themselves"),
    ("ALTER TABLE tasks ALTER COLUMN a TYPE bigint", "Another type rewrites"),
    ('ALTER TABLE "tasks" ALTER COLUMN "a" SET DATA TYPE bigint', "Another type rewrites"),
    ("ALTER TABLE tasks ALTER COLUMN a SET NOT NULL", "needs a CHECK"),
    (
        "ALTER TABLE tasks ADD CONSTRAINT c CHECK (b IS NOT NULL) NOT VALID; COMMIT; BEGIN;"
        " ALTER TABLE tasks VALIDATE CONSTRAINT c; ALTER TABLE tasks ALTER a SET NOT NULL",
        "needs a CHECK",
    ),
    ("ALTER TABLE tasks ADD CONSTRAINT c CHECK (a > 0)", "added NOT VALID"),
    ("ALTER TABLE tasks ADD CONSTRAINT c FOREIGN KEY (a) REFERENCES b (a)", "added NOT VALID"),
    ("ALTER TABLE tasks ADD CONSTRAINT c UNIQUE (a)", "USING INDEX"),
    (
        "ALTER TABLE tasks ADD CONSTRAINT c CHECK (a > 0) NOT VALID;"
        " ALTER TABLE tasks VALIDATE CONSTRAINT c",
        "in a later transaction",
    ),
    ("UPDATE tasks SET a = 1", "in batches"),
    ("DELETE FROM public.tasks", "in batches"),
    ("DO $$ BEGIN FOR x IN SELECT 1 LOOP UPDATE tasks SET a = 1; END LOOP; END $$", "in batches"),
    (BLOCK.format("DO $$ BEGIN UPDATE tasks SET a = 1; END $$"), "commits each batch"),
    ("ALTER TABLE tasks DROP COLUMN a", "says CONTRACTS"),
    ("ALTER TABLE tasks DROP a", "says CONTRACTS"),
    ("ALTER TABLE tasks ALTER COLUMN a DROP DEFAULT", "says CONTRACTS"),
    ("ALTER TABLE tasks RENAME COLUMN a TO b", "says CONTRACTS"),
    ("DROP TABLE tasks", "says CONTRACTS"),
    ("SET lock_timeout = 0", "limits of time"),
    ("CREATE TABLE new (a int); COMMIT; DROP INDEX CONCURRENTLY i; BEGIN", "inside of one"),
    ("SET LOCAL statement_timeout = '1h'", "limits of time"),
]


def test_every_revision_keeps_the_rules() -> None:
    assert lint(config()) == {}


@pytest.mark.parametrize("sql", GOOD, ids=range(len(GOOD)))
def test_what_is_allowed(sql: str) -> None:
    assert faults(f"BEGIN; {sql}; COMMIT;", Known()) == []


@pytest.mark.parametrize(("sql", "fault"), BAD, ids=range(len(BAD)))
def test_what_is_not(sql: str, fault: str) -> None:
    (found,) = faults(f"BEGIN; {sql}; COMMIT;", Known())
    assert fault in found
    assert faults(f"BEGIN; {sql}; COMMIT;", Known(), frozenset({"NEEDS_DOWNTIME"})) == []
    contracts = faults(f"BEGIN; {sql}; COMMIT;", Known(), frozenset({"CONTRACTS"}))
    assert contracts == ([] if fault == "says CONTRACTS" else [found])


def test_statements_end_where_postgresql_ends_them() -> None:
    sql = "A 'x;''y' ; B $f$ ; $$ ; $f$ -- ;\n c; /* ; */ D \";\""
    assert list(statements(sql)) == ["A 'x;''y'", "B $f$ ; $$ ; $f$ c", 'D ";"']
