"""What guards a table besides its constraints: its policies and the application's rights.

Alembic knows neither. It learns them here, so that the revision of a new table protects it, and
`alembic check` finds a table that is not protected.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import sqlalchemy as sa
from alembic.autogenerate import renderers
from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import ExecuteSQLOp, MigrateOperation, UpgradeOps
from alembic.runtime.plugins import Plugin
from alembic.util import DispatchPriority, PriorityDispatchResult

from db.policies import FOUND, Policy, mending

PLUGIN = "engram.protection"
"""What Alembic knows this by."""
ROLE = "engram_app"
RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")
APPEND_ONLY = RIGHTS[:2]
READ_ONLY = RIGHTS[:1]

_GUARDS = sa.text(
    f"""
    SELECT relname, relrowsecurity, relforcerowsecurity,
        array(
            SELECT privilege_type FROM aclexplode(relacl) WHERE grantee = to_regrole('{ROLE}')
        )
    FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
    """  # noqa: S608  # constants of this module
)


@dataclass(frozen=True)
class Guards:
    """What a table has of what guards it."""

    enabled: bool = False
    forced: bool = False
    rights: Collection[str] = ()
    policies: list[Policy] = field(default_factory=list)


class Protect(ExecuteSQLOp):
    """A statement that guards a table."""

    def reverse(self) -> MigrateOperation:
        """A table that is dropped takes its guards along; one that stays keeps them."""
        return Keep()

    def to_diff_tuple(self) -> tuple[str, sa.Executable | str]:
        """How `alembic check` tells of it."""
        return ("protect_table", self.sqltext)


class Keep(MigrateOperation):
    """Nothing, in the place of an operation that is not undone."""


def missing(table: sa.Table, guards: Guards) -> Iterator[str]:
    """The statements that give a table what it lacks, and nobody more than they need."""
    name = f"public.{table.name}"
    wanted = (
        READ_ONLY if table.info["shared"] else APPEND_ONLY if table.info["append_only"] else RIGHTS
    )
    granted = [right for right in wanted if right not in guards.rights]
    revoked = sorted(set(guards.rights) - set(wanted))
    if granted:
        yield f"GRANT {', '.join(granted)} ON {name} TO {ROLE}"
    if revoked:
        yield f"REVOKE {', '.join(revoked)} ON {name} FROM {ROLE}"
    if not guards.enabled:
        yield f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY"
    if not guards.forced:
        yield f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY"
    yield from mending(table.name, guards.policies)


def compare(
    autogen: AutogenContext, upgrade: UpgradeOps, _schemas: set[str | None]
) -> PriorityDispatchResult:
    """Compare the guards of every table with what it needs."""
    assert autogen.connection is not None
    found = {row[0]: Guards(*row[1:]) for row in autogen.connection.execute(_GUARDS)}
    for name, *policy in autogen.connection.execute(FOUND):
        if name in found:
            found[name].policies.append(Policy(*policy))
    for table in autogen.sorted_tables:
        for statement in missing(table, found.get(table.name, Guards())):
            upgrade.ops.append(Protect(statement))
    return PriorityDispatchResult.CONTINUE


@renderers.dispatch_for(Keep)
def render_nothing(_autogen: AutogenContext, _operation: Keep) -> list[str]:
    """Keeping what is there takes no line."""
    return []


# Last, so that a new table is created before it is guarded.
Plugin(PLUGIN).add_autogenerate_comparator(compare, "schema", priority=DispatchPriority.LAST)
