"""What the database does with more rights than the application has: functions of its owner.

They go by the same setting as row-level security, so a statement that calls one is as confined as
any other. Those that must look across owners are named here, each with its reason.
"""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

ACROSS_OWNERS = {
    "engram_abandoned_generations": "gives keys of replies whose runner died, to any process",
    "engram_claim_embedding_jobs": "hands out keys of one owner's jobs to a worker that serves all",
    "engram_due_exports": "gives keys of exports that wait, to a worker that serves all",
    "engram_find_login": "at a log-in nobody is known yet; gives what proves who it is",
    "engram_lapsed_tasks": "says whose tasks were given up, to a process that serves all",
    "engram_register_embedding_model": "a model is nobody's; each owner's texts wait for it",
    "engram_uncut_documents": "gives keys of documents that wait, to a worker that serves all",
}
DEFINERS = """
    SELECT proname, prosrc LIKE '%app.owner_id%' AS confined FROM pg_proc
    WHERE prosecdef AND pronamespace = 'public'::regnamespace
"""


async def test_functions_with_more_rights_go_by_the_owner(admin_engine: AsyncEngine) -> None:
    async with admin_engine.connect() as connection:
        rows = (await connection.execute(text(DEFINERS))).all()
    assert {row.proname for row in rows if not row.confined} == set(ACROSS_OWNERS), (
        "Say in ACROSS_OWNERS why a function looks across owners."
    )


async def test_they_are_for_the_application_alone(admin_engine: AsyncEngine) -> None:
    sql = """
        SELECT proname FROM pg_proc, LATERAL aclexplode(coalesce(proacl, acldefault('f', proowner)))
        WHERE prosecdef AND pronamespace = 'public'::regnamespace AND grantee = 0
    """
    async with admin_engine.connect() as connection:
        assert (await connection.execute(text(sql))).all() == []
