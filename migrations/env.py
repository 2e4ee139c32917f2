"""How Alembic meets the models. The transaction and its locks are those of `db.migrate`."""

from typing import Any, Literal

import sqlalchemy as sa
from alembic import context
from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import CreateTableOp, MigrationScript
from pgvector.sqlalchemy import HALFVEC
from sqlmodel.sql.sqltypes import AutoString

from db.migrate import run_from_environment
from db.models import metadata
from db.models.journal import Xid8
from db.protection import PLUGIN


def render_item(kind: str, item: Any, autogen: AutogenContext) -> str | Literal[False]:
    """Revisions import neither our models nor SQLModel: they must run when those have changed."""
    if kind == "type" and isinstance(item, AutoString):
        return f"sa.String(length={item.length})"
    if kind == "type" and isinstance(item, Xid8):
        autogen.imports.add("from sqlalchemy.types import UserDefinedType")
        return "Xid8()"
    if kind == "type" and isinstance(item, HALFVEC):
        autogen.imports.add("from sqlalchemy.types import UserDefinedType")
        return "HalfVector()"
    return False


def is_declared(name: str | None, kind: str, _parents: object) -> bool:
    """Whether the models say if something is there: each embedding model has an index of its own,
    which an operator builds when there is much to search."""
    return not (kind == "index" and name is not None and "_hnsw_" in name)


def without_facts(_context: object, _revision: object, scripts: list[MigrationScript]) -> None:
    """What our code notes about a table is nothing that a revision needs."""
    for operations in scripts[0].upgrade_ops_list:
        for operation in operations.ops:
            if isinstance(operation, CreateTableOp):
                operation.info = {}


OPTIONS: dict[str, Any] = {
    "target_metadata": metadata,
    "transaction_per_migration": True,
    "compare_type": True,
    "compare_server_default": True,
    "render_item": render_item,
    "include_name": is_declared,
    "process_revision_directives": without_facts,
    "autogenerate_plugins": [
        "alembic.autogenerate.*",
        "alembic.ext.checkconstraint_byname",
        PLUGIN,
    ],
}


def run(connection: sa.Connection) -> None:
    """Run what the command asks for."""
    context.configure(connection=connection, **OPTIONS)
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    context.configure(dialect_name="postgresql", literal_binds=True, **OPTIONS)
    with context.begin_transaction():
        context.run_migrations()
elif (given := context.config.attributes.get("connection")) is not None:
    run(given)
else:
    run_from_environment(run)
