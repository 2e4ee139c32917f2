"""Random rows of one owner in every table, stored by bulk insert.

Rows are made from the tables' own columns: types, bounds, enums and keys are read from the
models, so that a new table or column is part of every property test without a line here. The
values are few and awkward on purpose: ties, nulls, wildcards, letters in both cases.
"""

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from ipaddress import IPv4Address
from types import UnionType
from typing import Any, Union, get_args, get_origin
from uuid import UUID

import annotated_types as bounds
import sqlalchemy as sa
from pydantic.fields import FieldInfo
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from db.base import Base, column_fields
from db.models import metadata

Row = dict[str, Any]
Rows = dict[str, list[Row]]
"""Rows by table name."""

MOMENTS = [
    datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC) + timedelta(microseconds=step)
    for step in (-86_400_000_000, -1, 0, 1, 250_000, 3_600_000_000, 90_000_000_000)
]
# Letters whose lower case is one letter for PostgreSQL and Python alike, and LIKE's own characters.
WORDS = [
    "a",
    "A",
    "ab",
    "aB",
    "b",
    "é",
    "É",
    "éa",
    "ЖЯ",
    "жя",
    "%",
    "_",
    "a%",
    "\\",
    "a_b",
    "'\"",
    " ",
]
LABELS = ["a", "A", "b", "é", "%", "x y"]
JSON: list[Any] = [None, True, 0, 1, 1.5, "a", "A", "", [], [1], ["a", 1], {}, {"a": 1}]

COUNTS = {"users": 1, "messages": 30, "tasks": 30, "task_dependencies": 20, "message_parts": 20}
DEFAULT_COUNT = 9
RESTARTS = 20
"""How often a row is made anew when it collides with a unique key, before it is left out."""


def models() -> dict[str, type[Base]]:
    """Every model by the name of its table."""
    found: dict[str, type[Base]] = {}
    pending: list[type[Base]] = [Base]
    while pending:
        model = pending.pop()
        pending += model.__subclasses__()
        if "__tablename__" in vars(model):
            found[str(model.__table__.name)] = model
    return found


FOLLOWING = {
    "embedding_choices",
    "embedding_models",
    "embeddings",
    "message_embeddings",
    "generation_deltas",
    "swept_events",
}
"""Tables without rows: here is no embedding model, nobody writes replies, nothing is swept."""

LAST = ("account_exports", "account_export_parts")
"""Tables that nothing names: made last, so that the rows of all others are what they were."""
MODEL = "none"
"""A retired embedding model, which jobs name."""


def sorted_tables() -> list[sa.Table]:
    """The tables, each after those that its keys name."""
    return [table for table in metadata.sorted_tables if table.name not in FOLLOWING]


@dataclass
class Factory:
    """Makes one owner's rows from a seed."""

    owner_id: UUID
    seed: int
    marker: str = ""
    """Part of every free text, so that a leak shows."""
    rows: Rows = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self._taken: dict[tuple[str, tuple[str, ...]], set[tuple[Any, ...]]] = defaultdict(set)

    def fill(self, counts: Mapping[str, int] = COUNTS) -> Rows:
        """Rows in every table."""
        for table in sorted_tables():
            if table.name not in LAST:
                self.add(table, counts.get(table.name, DEFAULT_COUNT))
        for conversation in self.rows["conversations"]:
            conversation["active_leaf_id"] = self._leaf(conversation["id"])
        for name in LAST:
            self.add(metadata.tables[name], counts.get(name, DEFAULT_COUNT))
        return self.rows

    def add(self, table: sa.Table, count: int, **fixed: Any) -> list[Row]:
        """More rows in one table; fewer than `count` where unique keys leave no room.

        `fixed` are keys that the rows must have.
        """
        made = []
        for _ in range(count):
            row = self._fresh(table, fixed)
            if row is not None:
                self.rows[table.name].append(row)
                made.append(row)
        return made

    def uuid(self) -> UUID:
        """A UUID of version 7 with a random time."""
        value = self.random.getrandbits(128)
        return UUID(int=value & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62)

    def text(self) -> str:
        """One to three words, with the marker in front."""
        words = self.random.choices(WORDS, k=self.random.choice((1, 1, 1, 2, 3)))
        return self.marker + "".join(words)

    def _leaf(self, conversation_id: UUID) -> UUID | None:
        own = [
            row["id"] for row in self.rows["messages"] if row["conversation_id"] == conversation_id
        ]
        return self.random.choice(own) if own and self.random.random() < 0.7 else None

    def _fresh(self, table: sa.Table, fixed: Row) -> Row | None:
        for _ in range(RESTARTS):
            row = self._row(table, fixed)
            if row is None:
                return None
            keys = list(self._unique_values(table, row))
            if not any(value in self._taken[name] for name, value in keys):
                for name, value in keys:
                    self._taken[name].add(value)
                return row
        return None

    def _unique_values(
        self, table: sa.Table, row: Row
    ) -> Iterator[tuple[tuple[str, tuple[str, ...]], tuple[Any, ...]]]:
        for constraint in table.constraints:
            if isinstance(constraint, sa.UniqueConstraint | sa.PrimaryKeyConstraint):
                names = tuple(column.name for column in constraint.columns)
                yield (table.name, names), tuple(row[name] for name in names)
        if table.name == "workers" and row["kind"] == "human":
            yield (table.name, ("human",)), ()
        if table.name == "account_exports" and row["status"] in ("pending", "running"):
            yield (table.name, ("unfinished",)), ()

    def _row(self, table: sa.Table, fixed: Row) -> Row | None:
        """A row that satisfies the table's own CHECKs; None when a key has nothing to name."""
        row: Row = {"owner_id": self.owner_id} if "owner_id" in table.c else {}
        row["id"] = self.uuid() if "owner_id" in table.c else self.owner_id
        row |= fixed
        for constraint in sorted(table.foreign_key_constraints, key=_key_rank):
            column = constraint.column_keys[-1]
            if column in row:
                continue
            if constraint.use_alter:
                row[column] = None
                continue
            if constraint.referred_table.info["shared"]:
                row[column] = MODEL
                continue
            referred = self._referred(constraint, row)
            optional = table.c[column].nullable
            if optional and (not referred or self.random.random() < 0.4):
                row[column] = None
            elif referred:
                # The newest often, so that trees grow deep as well as wide.
                recent = referred[-2:] if self.random.random() < 0.5 else referred
                row[column] = self.random.choice(recent)["id"]
            else:
                return None
        fields = column_fields(models()[table.name])
        for column_ in table.c:
            if column_.name not in row and column_.computed is None:
                name = column_.name
                if column_.nullable and self.random.random() < 0.3:
                    row[name] = None
                else:
                    row[name] = self._special(table.name, name, row, fields[name])
        if "deleted_at" in row:
            dead = self.random.random() < 0.15
            row["deleted_at"] = self.random.choice(MOMENTS) if dead else None
            row["deletion_id"] = self.uuid() if dead else None
        if row.get("task_id") is not None and row["task_id"] == row.get("depends_on_id"):
            return self._row(table, fixed)
        if table.name == "audit_events":
            del row["xid"]  # PostgreSQL says in which transaction it was
        if table.name == "embedding_jobs" and (row["document_id"] is None) == (
            row["message_id"] is None
        ):
            return self._row(table, fixed)
        return row

    def _referred(self, constraint: sa.ForeignKeyConstraint, row: Row) -> list[Row]:
        """The rows that a key can name, given the columns it shares with others."""
        shared = [
            (here, element.column.name)
            for here, element in zip(constraint.column_keys, constraint.elements, strict=True)
        ][:-1]
        return [
            other
            for other in self.rows[constraint.referred_table.name]
            if all(other[there] == row[here] for here, there in shared)
        ]

    def _special(self, table: str, name: str, row: Row, declared: FieldInfo) -> Any:
        match table, name:
            case "users", "username":
                return f"u{self.owner_id.hex}"
            case "users", "email":
                return f"{self.owner_id.hex}@example.org"
            case "projects", "key":
                return "".join(self.random.choices("ABC", k=self.random.randint(1, 8)))
            case "messages", "depth":
                parent = next((m for m in self.rows[table] if m["id"] == row["parent_id"]), None)
                return parent["depth"] + 1 if parent else 0
            case "generations", "lease_expires_at":
                return None  # else servers of other tests take it for abandoned
            case "documents", "status":
                # One that waits would be cut into chunks by servers of other tests.
                status = self._value(declared)
                return "ready" if status == "pending" else status
            case (("chunks" | "citations"), "start"):
                return self.random.randint(0, 3)
            case (("chunks" | "citations"), "end"):
                return row["start"] + self.random.randint(0, 3)
            case "audit_events", "entity_type":
                return self.random.choice(["task", "project", "message"])
            case "tasks", "attempts":
                left = row["max_attempts"] - (row["status"] == "pending")
                return self.random.randint(0, left)
            case "tasks", "number":
                return self.random.randint(1, 500)
            case (("chunks" | "message_parts" | "citations"), "position"):
                return self.random.randint(0, 100)
        return self._value(declared)

    def _value(self, declared: FieldInfo) -> Any:
        annotation = _inner(declared.annotation)
        kind = get_origin(annotation) or annotation
        if get_origin(annotation) in (Union, UnionType):
            return IPv4Address(f"10.0.0.{self.random.randint(1, 3)}")
        if kind is list:
            return self._labels(declared, get_args(annotation)[0])
        if issubclass(kind, StrEnum):
            return self.random.choice(list(kind)).value
        if kind is dict:
            keys = self.random.sample(["a", "A", "b"], self.random.randint(0, 2))
            return {key: self.random.choice(JSON) for key in keys}
        if kind is bool:
            return self.random.random() < 0.8
        if kind is int:
            low = _bound(declared, bounds.Ge, "ge", -3)
            return self.random.randint(
                low, min(_bound(declared, bounds.Le, "le", low + 6), low + 6)
            )
        if kind is float:
            # What both JSON and PostgreSQL write as Python does.
            return self.random.choice((0.0, 0.25, 0.5, 1.0, 1.75))
        if kind is datetime:
            return self.random.choice(MOMENTS)
        if kind is UUID:
            return self.uuid()
        if kind is bytes:
            return self.random.randbytes(_bound(declared, bounds.MinLen, "min_length", 32))
        if kind is str:
            return self.text()
        raise TypeError(f"no random value for {declared!r}")

    def _labels(self, declared: FieldInfo, item: Any) -> list[str]:
        is_enum = isinstance(item, type) and issubclass(item, StrEnum)
        options = [one.value for one in item] if is_enum else LABELS
        return self.random.sample(
            options, self.random.randint(_bound(declared, bounds.MinLen, "min_length", 0), 3)
        )


def _inner(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, UnionType):
        rest = [one for one in get_args(annotation) if one is not type(None)]
        return rest[0] if len(rest) == 1 else Union[tuple(rest)]  # noqa: UP007  # made at run time
    return annotation


def _bound(declared: FieldInfo, kind: type, name: str, default: int) -> int:
    found = [getattr(item, name) for item in declared.metadata if isinstance(item, kind)]
    return int(found[0]) if found else default


def _key_rank(constraint: sa.ForeignKeyConstraint) -> tuple[int, str]:
    """Keys that others share columns with come first; all in the same order in every process."""
    return len(constraint.column_keys), str(constraint.name)


def multiplied(rows: Rows, owner_id: UUID, times: int) -> Rows:
    """Another owner's rows: the same shape `times` over, each copy with keys of its own.

    The copies of a row stand together, the first of them at `times` its place.
    """
    makers = [Factory(owner_id, seed) for seed in range(times)]
    renamed: list[dict[UUID, UUID]] = [{} for _ in range(times)]
    result: Rows = {}
    for table in sorted_tables():
        for row in rows[table.name]:
            for copy, maker in enumerate(makers):
                renamed[copy][row["id"]] = maker.uuid()
    for table in sorted_tables():
        names = [
            key.column_keys[-1]
            for key in table.foreign_key_constraints
            if key.column_keys[-1] != "owner_id" and not key.referred_table.info["shared"]
        ]
        result[table.name] = []
        for row in rows[table.name]:
            for copy, maker in enumerate(makers):
                copied = {**row, "id": renamed[copy][row["id"]]}
                if "owner_id" in row:
                    copied["owner_id"] = owner_id
                copied |= {name: renamed[copy].get(row[name]) for name in names}
                _set_apart(table.name, copied, copy, maker)
                result[table.name].append(copied)
    user = {**rows["users"][0], "id": owner_id}
    user |= {"username": f"u{owner_id.hex}", "email": f"{owner_id.hex}@example.org"}
    result["users"] = [user]
    return result


def _set_apart(table: str, row: Row, copy: int, maker: Factory) -> None:
    """Change what must be unique per owner."""
    for name in ("token_hash", "key_hash", "key_salt"):
        if name in row:
            row[name] = maker.random.randbytes(32)
    if table == "projects":
        row["key"] = f"{row['key']}{copy}"
    if table == "idempotency_keys":
        row["key"] = f"{row['key']}{copy}{maker.random.random()}"
    if table == "workers" and copy and row["kind"] == "human":
        row["kind"] = "agent"
    if table == "account_exports" and copy and row["status"] in ("pending", "running"):
        row["status"] = "complete"


async def store(engine: AsyncEngine, rows: Mapping[str, Sequence[Row]]) -> None:
    """Insert rows in one transaction, one statement per table; `engine` is the superuser's."""
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="READ COMMITTED")
        async with connection.begin():
            model = "INSERT INTO embedding_models VALUES (:id, 2, 'retired') ON CONFLICT DO NOTHING"
            await connection.execute(sa.text(model), {"id": MODEL})
            for table in sorted_tables():
                if rows.get(table.name):
                    await connection.execute(
                        _insertion(table, rows[table.name][0]), list(rows[table.name])
                    )


def _insertion(table: sa.Table, row: Row) -> sa.Insert:
    """An insert of rows in which None is null, also in a jsonb column."""
    values: dict[str, Any] = {
        column.name: sa.bindparam(column.name, type_=JSONB(none_as_null=True))
        for column in table.c
        if isinstance(column.type, JSONB) and column.name in row
    }
    return table.insert().values(values)


async def stored(connection: AsyncConnection, table: sa.Table, owner_id: UUID) -> list[Row]:
    """An owner's rows as the database holds them."""
    owner = table.c.owner_id if "owner_id" in table.c else table.c.id
    found = await connection.execute(sa.select(table).where(owner == owner_id))
    return [dict(row._mapping) for row in found]
