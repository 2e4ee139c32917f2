"""Tasks as they change, for those who watch."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
from time import monotonic
from typing import Annotated
from uuid import UUID

import strawberry

from db.models import work
from db.repositories.work_updates import changed_since, moment_in
from schema.context import Event, Info
from schema.errors import ErrorCode, RequestError
from schema.mirror import MIRRORS
from schema.relation_fields import decoded
from schema.work import Task

_LONGEST_WRITE = timedelta(minutes=1)
"""A change bears the time at which its transaction began, and is seen when it has ended."""


class WorkSubscription:
    """What can be watched of tasks."""

    @strawberry.subscription(
        description=(
            "The tasks of a project, from now on, each time they are created, changed, deleted or"
            " restored; deleted ones have a `deletedAt`. A task that changes often may come less"
            " often than it changed, and after an interruption once more, always as it is."
        )
    )
    async def task_changed(
        self,
        info: Info,
        project_id: Annotated[strawberry.ID, strawberry.argument(description="The project's id.")],
    ) -> AsyncGenerator[Task, None]:
        """Yields an event for each change of each task.

        Raises:
            RequestError: BAD_ID, or NOT_FOUND when the project is not the caller's.
        """
        context = info.context
        owner_id = context.require("read").owner_id
        identifier = decoded(MIRRORS[work.Project], project_id)
        source = context.services.changes
        assert source is not None, "a process that serves subscriptions listens to changes"
        async with aclosing(source.subscribe(owner_id, "task", identifier)) as changes:
            moment = await moment_in(context.session, identifier)
            await context.session.end_snapshot()
            if moment is None:
                raise RequestError("There is no such project.", ErrorCode.NOT_FOUND)
            # PostgreSQL's clock is not ours; ours tells how long ago that was.
            offset = moment - timedelta(seconds=monotonic())
            # Where nothing can be heard there is a gap every second: each change is told once.
            told: dict[UUID, int] = {}
            async for change in changes:
                ids = change.ids
                if change.operation == "gap":
                    since = moment - _LONGEST_WRITE
                    found = await changed_since(context.session, identifier, since)
                    await context.session.end_snapshot()
                    ids = tuple(id for id, version in found.items() if told.get(id) != version)
                    told = found
                moment = offset + timedelta(seconds=monotonic())
                for id in ids:
                    yield Event(MIRRORS[work.Task], id)  # type: ignore[misc]  # the runner loads it
