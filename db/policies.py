"""The policies of row-level security that tables have: these, to the letter, and no others.

One policy more would let more rows through, as policies that permit are joined by OR. So what
PostgreSQL says of a table is compared with this, by `alembic check` and whenever a server starts.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

POLICY = "owner_only"
OWNER = "OWNER"
"""Stands for the role that owns the table."""

# The setting is '' after the transaction that set it, and '' is no uuid.
_CURRENT_OWNER = "(SELECT nullif(current_setting('app.owner_id', true), '')::uuid)"
# The same as PostgreSQL prints it back.
_PRINTED_OWNER = (
    "( SELECT (NULLIF(current_setting('app.owner_id'::text, true), ''::text))::uuid AS \"nullif\")"
)


class Policy(NamedTuple):
    """A policy as PostgreSQL describes it."""

    name: str
    command: str
    """ALL, SELECT, INSERT, UPDATE or DELETE."""
    permissive: bool
    role: str
    """OWNER, PUBLIC, or whatever else it is for."""
    using: str | None
    with_check: str | None


FOUND = sa.text(
    """
    SELECT c.relname::text, p.polname::text,
        CASE p.polcmd WHEN '*' THEN 'ALL' WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT'
            WHEN 'w' THEN 'UPDATE' ELSE 'DELETE' END,
        p.polpermissive,
        CASE p.polroles WHEN array[0::oid] THEN 'PUBLIC' WHEN array[c.relowner] THEN 'OWNER'
            ELSE p.polroles::text END,
        pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
    FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
    WHERE c.relnamespace = 'public'::regnamespace
    ORDER BY 1, 2
    """
)
"""The table and the columns of `Policy`, for every policy there is."""
_SEARCH = (Policy("search", "SELECT", True, OWNER, "true", None),)
OTHERS: dict[str, tuple[Policy, ...]] = {
    # For `engram_find_login`, which runs as the owner of the table, whom FORCE binds as well.
    "users": (Policy("find_login", "SELECT", True, OWNER, "true", None),),
    # For `engram_abandoned_generations`, likewise; it tells keys and nothing else.
    "generations": (
        Policy(
            "find_abandoned",
            "SELECT",
            True,
            OWNER,
            "(status = ANY (ARRAY['pending'::text, 'streaming'::text]))",
            None,
        ),
    ),
    # For `engram_lapsed_tasks`, likewise.
    "tasks": (
        Policy("find_lapsed", "SELECT", True, OWNER, "(status = 'in_progress'::text)", None),
    ),
    # For the functions of searches, which compare the owner themselves: under a policy that is
    # not simply true, no index for `@@` could be used.
    "documents": _SEARCH,
    "chunks": _SEARCH,
    "messages": _SEARCH,
    "embeddings": _SEARCH,
    "message_embeddings": _SEARCH,
    # For the functions that give the work of all owners away; they tell keys and nothing else.
    "embedding_jobs": (Policy("claim", "ALL", True, OWNER, "true", "true"),),
    "account_exports": (Policy("find_due", "SELECT", True, OWNER, "true", None),),
}
"""What tables have beside the policy that all have."""
SHARED: dict[str, list[Policy]] = {
    "embedding_models": [
        Policy("everybody_reads", "SELECT", True, "PUBLIC", "true", None),
        Policy("operator_writes", "ALL", True, OWNER, "true", "true"),
    ],
}
"""The policies of tables that nobody owns."""
_quoted: Callable[[str], str] = postgresql.dialect().identifier_preparer.quote  # type: ignore[no-untyped-call]  # SQLAlchemy leaves dialects untyped


FUNCTIONS = frozenset(
    {
        "engram_abandoned_generations",
        "engram_any_word_chunks",
        "engram_by_index",
        "engram_claim_embedding_jobs",
        "engram_due_exports",
        "engram_find_login",
        "engram_lapsed_tasks",
        "engram_owners_to_sweep",
        "engram_register_embedding_model",
        "engram_sweep_events",
        "engram_text_chunks",
        "engram_text_messages",
        "engram_uncut_documents",
        "engram_vector_chunks",
        "engram_vector_messages",
    }
)
"""The functions that run with the rights of the tables' owner. Each sees to the owner by itself."""
STRANGERS = sa.text(
    """
    SELECT DISTINCT p.proname::text
      FROM pg_proc p
     WHERE p.pronamespace = 'public'::regnamespace
       AND p.prosecdef
       AND has_function_privilege(p.oid, 'EXECUTE')
       AND p.proname <> ALL (:known)
       AND NOT EXISTS (
           SELECT FROM pg_depend d
            WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
       )
     ORDER BY 1
    """
).bindparams(sa.bindparam("known", sorted(FUNCTIONS), type_=postgresql.ARRAY(sa.Text())))
"""Functions with such rights that are none of Engram's, and that the session's role may call."""


def _owner(table: str) -> str:
    return "id" if table == "users" else "owner_id"


def wanted(table: str) -> list[Policy]:
    """The policies that a table must have."""
    if table in SHARED:
        return SHARED[table]
    own = f"({_owner(table)} = {_PRINTED_OWNER})"
    return [Policy(POLICY, "ALL", True, "PUBLIC", own, own), *OTHERS.get(table, ())]


def strays(table: str, found: list[Policy]) -> Iterator[str]:
    """What is wrong with the policies of a table, each as the rest of a sentence about it."""
    expected = {policy.name: policy for policy in wanted(table)}
    present = {policy.name: policy for policy in found}
    for name in expected.keys() - present.keys():
        yield f"lacks the policy {name}"
    for name, policy in present.items():
        if name not in expected:
            yield f"has the policy {name}, which is none of Engram's"
        elif policy != expected[name]:
            yield f"has a policy {name} that was changed by hand"


def mending(table: str, found: list[Policy]) -> Iterator[str]:
    """The statements that give a table its policies and no others."""
    expected = wanted(table)
    for policy in found:
        if policy not in expected:
            yield f"DROP POLICY {_quoted(policy.name)} ON public.{_quoted(table)}"
    for policy in expected:
        if policy not in found:
            yield _creation(table, policy)


def _creation(table: str, policy: Policy) -> str:
    parts = [f"CREATE POLICY {policy.name} ON public.{_quoted(table)}"]
    if policy.command != "ALL":
        parts.append(f"FOR {policy.command}")
    if policy.role == OWNER:
        parts.append("TO CURRENT_USER")
    for word, expression in (("USING", policy.using), ("WITH CHECK", policy.with_check)):
        if expression is not None:
            parts.append(f"{word} ({_written(table, expression)})")
    return " ".join(parts)


def _written(table: str, printed: str) -> str:
    """An expression as people write it."""
    own = f"{_owner(table)} = {_CURRENT_OWNER}"
    return own if printed == f"({_owner(table)} = {_PRINTED_OWNER})" else printed
