"""Start-up proof that row-level security binds the sessions of this process."""

from __future__ import annotations

from uuid import uuid4

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from db.policies import FOUND, STRANGERS, Policy, mending, strays
from db.session import Session, SessionOptions

MIGRATE = "run `python -m server migrate` with the owner's URL in DATABASE_MIGRATION_URL"

# What the role of a session may do, and how the tables stand to it.
ROLE = text(
    "SELECT current_user AS name, rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user"
)
TABLES = text(
    """
    SELECT c.relname AS name,
           c.relrowsecurity AND c.relforcerowsecurity AS forced,
           pg_has_role(current_user, c.relowner, 'USAGE') AS owned,
           row_security_active(c.oid) AS active
      FROM pg_class c
     WHERE c.relnamespace = 'public'::regnamespace
       AND c.relkind IN ('r', 'p')
       AND c.relname <> 'alembic_version'
     ORDER BY 1
    """
)


class RowSecurityError(Exception):
    """Rows of one person could be shown to another; the message says what to do."""


async def verify_row_security(
    engine: AsyncEngine,
    options: SessionOptions = SessionOptions(),  # noqa: B008 - frozen
) -> None:
    """Refuse to serve unless row-level security binds.

    Looks from inside a session, as a request would, so whatever URL and role are configured is
    what is proven. Raises RowSecurityError, DatabaseUnavailable.
    """
    async with Session(engine, uuid4(), options) as session:
        try:
            role = (await session.execute(ROLE))[0]
        except DBAPIError as error:
            raise _refusal(error, options) from error
        if role.rolsuper or role.rolbypassrls:
            raise RowSecurityError(
                f"The role {role.name} of the application goes past row-level security: "
                "let the server take the role engram_app, or connect with a role that is "
                "neither superuser nor BYPASSRLS."
            )
        tables = await session.execute(TABLES)
        if "users" not in {table.name for table in tables}:
            raise RowSecurityError(f"The database has no tables yet: {MIGRATE}.")
        for table in tables:
            if table.owned:
                raise RowSecurityError(
                    f"The role {role.name} of the application owns the table {table.name}: "
                    "let the server take the role engram_app, or connect with another role."
                )
            if not (table.forced and table.active):
                raise RowSecurityError(
                    f"Row-level security does not bind on the table {table.name}: as the owner, "
                    f"run ALTER TABLE {table.name} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL "
                    "SECURITY."
                )
        policies: dict[str, list[Policy]] = {table.name: [] for table in tables}
        for name, *policy in await session.execute(FOUND):
            policies.setdefault(name, []).append(Policy(*policy))
        for name, found in policies.items():
            for wrong in strays(name, found):
                mend = "; ".join(mending(name, found))
                raise RowSecurityError(f"The table {name} {wrong}: as its owner, run {mend}.")
        for (name,) in await session.execute(STRANGERS):
            raise RowSecurityError(
                f"The function {name} goes past row-level security and is none of Engram's: as its "
                f"owner, run DROP FUNCTION {name}, or REVOKE EXECUTE ON FUNCTION {name} FROM "
                "PUBLIC, engram_app."
            )
        try:
            strangers = await session.scalar(text("SELECT EXISTS (SELECT FROM users)"))
        except DBAPIError as error:
            raise _refusal(error, options) from error
        if strangers:
            raise RowSecurityError("A session of nobody sees people in the table users.")


def _refusal(error: DBAPIError, options: SessionOptions) -> RowSecurityError:
    state = getattr(error.orig, "sqlstate", None)
    if state in {"22023", "42704"}:  # SET ROLE to a role that does not exist
        return RowSecurityError(f"The role {options.role} does not exist: {MIGRATE}.")
    if state == "42501":
        return RowSecurityError(
            f"The role of DATABASE_URL may not act as {options.role or 'the application'}: "
            f"{MIGRATE}, which grants it, or run GRANT {options.role or 'engram_app'} TO that role."
        )
    return RowSecurityError(f"Row-level security could not be proven: {error.orig}.")
