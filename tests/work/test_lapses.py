"""Tasks that were given up without a word, when nobody claims any more."""

import asyncio

from sqlalchemy.ext.asyncio import AsyncEngine

from db.notifications import Listener
from db.session import SessionOptions
from server.lapses import Lapses
from tests.conftest import NewPerson
from tests.people import Person
from tests.watching import watching
from tests.work.asking import claim, human, lapse, new_project, new_tasks, task

CHANGED = "subscription($id: ID!) { taskChanged(projectId: $id) { id status } }"
FAILURES = """{
    auditEvents(filter: { entityType: { eq: "task" }, action: { eq: "fail" } }) {
      nodes { entityId }
    }
}"""
REASON = {"reason": "The lease of the last attempt ran out."}


async def test_they_fail_and_everybody_hears_of_it(
    person: Person,
    new_person: NewPerson,
    engine: AsyncEngine,
    admin_engine: AsyncEngine,
    listener: Listener,
) -> None:
    made = {}
    for one in (person, await new_person()):
        project = await new_project(one)
        last, again = await new_tasks(one, project, {"maxAttempts": 1}, {"maxAttempts": 2})
        assert len(await claim(one, human(one), limit=2)) == 2
        await lapse(admin_engine, one)
        made[one.owner_id] = (one, project, last, again)
    _, project, last, _ = made[person.owner_id]
    async with watching(person, listener, CHANGED, id=project) as watch:
        # as many processes would, at the same time
        await asyncio.gather(*(Lapses(engine, SessionOptions()).run() for _ in range(3)))
        told = (await watch.next())["taskChanged"]
        assert told == {"id": last, "status": "FAILED"}
    for one, _, last, again in made.values():
        assert (await task(one, last))["result"] == REASON
        assert (await task(one, again))["status"] == "IN_PROGRESS"
        data = await one.ask(FAILURES)
        assert data["auditEvents"]["nodes"] == [{"entityId": last}]
