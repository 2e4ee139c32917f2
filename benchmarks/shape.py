"""What the data set holds, and the rows of it as lines for COPY.

Everything follows from the number of messages. Ten people are measured: each has 101
conversations and 21 projects, one of either long. Ten others write. The rest of the people are
there so that the tables are as large as they would be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from random import Random
from uuid import UUID

MEASURED = 10
WRITERS = 10
CONVERSATIONS = 101
"""Of a measured person, the long one among them: a page of a hundred has short ones only."""
LONG = 10_000
"""Messages of a measured person's longest conversation, and tasks of the longest project."""
SHORT = 30
"""Messages of each other one."""
PROJECTS = 20
"""Of a measured person, besides the long one."""
TASKS, SUBTASKS = 10, 6
"""Tasks of a project, and steps of each task."""

START = datetime(2026, 1, 1, tzinfo=UTC)
"""When the first row was made; the last one before `END`, whatever is written later, after it."""
END = START + timedelta(days=240)

# A thousand words, so that the full-text index is like one of a language.
_SYLLABLES = ("ba", "do", "ken", "li", "mor", "nu", "par", "ri", "sel", "tu")
WORDS = tuple(a + b + c for a in _SYLLABLES for b in _SYLLABLES for c in _SYLLABLES)

Line = str
"""One row in PostgreSQL's text format of COPY."""


@dataclass(frozen=True)
class Shape:
    """How much of everything there is."""

    messages: int = 1_000_000

    def __post_init__(self) -> None:
        if self.messages < 200_000:
            raise ValueError(
                "the measured people alone have 130,000 messages: take 200,000 or more"
            )

    @property
    def people(self) -> int:
        return self.messages // 1_000

    @property
    def conversations(self) -> int:
        return self.messages // 50


class Rows:
    """The lines of every table, made in one walk over the people; ids grow with time."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self._random = Random(20)  # the same data set every time
        self._serial = count()
        # as many rows as there can be, spread over the time
        self._step = (END - START) / (shape.messages * 2 + 1_000_000)
        self._texts = [self._sentence() for _ in range(5_000)]
        self.owners = [UUID(hex=self.next_id()) for _ in range(shape.people)]
        self.conversations: list[Line] = []
        self.first_conversations: dict[int, UUID] = {}
        self.long_conversations: dict[int, UUID] = {}
        self.long_projects: dict[int, UUID] = {}

    def next_id(self) -> str:
        """A version 7 UUID, later than all before."""
        return self._id(next(self._serial))

    def _id(self, serial: int) -> str:
        milliseconds = int(self._moment(serial).timestamp() * 1000)
        random = self._random.getrandbits(40)
        # the serial stands behind the time, so that ids of one millisecond keep their order
        low = (serial & 0x3FFFFF) << 40 | random
        return f"{milliseconds:012x}7{serial >> 22 & 0xFFF:03x}{0x8000000000000000 | low:016x}"

    def _moment(self, serial: int) -> datetime:
        return START + self._step * serial

    def _sentence(self) -> str:
        return " ".join(self._random.choices(WORDS, k=self._random.randint(8, 24)))

    def _stamp(self) -> str:
        """The time of the next row, in whole milliseconds: some peers know nothing finer."""
        moment = self._moment(next(self._serial))
        return f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d}+00"

    def users(self) -> Iterator[Line]:
        for number, owner in enumerate(self.owners):
            yield f"{owner}\tperson{number}\tperson{number}@example.org\tnone\n"

    def messages(self) -> Iterator[Line]:
        """Messages of all conversations, one conversation after the other, each a single branch.

        Fills `conversations`, whose rows need the last message's id.
        """
        shape, texts, random = self.shape, self._texts, self._random
        rest = shape.conversations - MEASURED * CONVERSATIONS
        others = shape.people - MEASURED
        spare = shape.messages - MEASURED * (LONG + (CONVERSATIONS - 1) * SHORT)
        nth = 0
        for number, owner in enumerate(self.owners):
            measured = number < MEASURED
            many = (
                CONVERSATIONS if measured else rest // others + (number - MEASURED < rest % others)
            )
            for place in range(many):
                if measured:
                    length = SHORT if place else LONG
                else:
                    length = spare // rest + (nth < spare % rest)
                    nth += 1
                conversation = self.next_id()
                created = stamp = self._stamp()
                parent = "\\N"
                for depth in range(length):
                    message, stamp = self.next_id(), self._stamp()
                    role = "assistant" if depth % 2 else "user"
                    text = texts[random.randrange(5_000)]
                    yield (
                        f"{owner}\t{message}\t{conversation}\t{parent}\t{depth}\t{role}"
                        f"\tcomplete\t{text}\t{stamp}\t{stamp}\n"
                    )
                    parent = message
                title = texts[random.randrange(5_000)][:60].rstrip()
                self.conversations.append(
                    f"{owner}\t{conversation}\t{title}\t{stamp}\t{parent}\t{created}\t{stamp}\n"
                )
                if measured and place == 0:
                    self.long_conversations[number] = UUID(hex=conversation)
                elif measured and place == 1:
                    self.first_conversations[number] = UUID(hex=conversation)

    def work(self) -> tuple[list[Line], list[Line], list[Line]]:
        """Projects, workers and tasks. The long project is the oldest of its owner."""
        projects: list[Line] = []
        workers: list[Line] = []
        tasks: list[Line] = []
        for number, owner in enumerate(self.owners):
            worker = self.next_id()
            workers.append(f"{owner}\t{worker}\tMe\thuman\n")
            measured = number < MEASURED
            shapes = [(LONG, 0), *[(TASKS, SUBTASKS)] * PROJECTS] if measured else [(5, 2)] * 2
            for place, (many, steps) in enumerate(shapes):
                project, stamp = self.next_id(), self._stamp()
                if measured and place == 0:
                    self.long_projects[number] = UUID(hex=project)
                name = self._texts[self._random.randrange(5_000)][:40].rstrip()
                made = [
                    self._task(owner, project, worker, "\\N", serial)
                    for serial in range(1, many + 1)
                ]
                for position in range(many * steps):
                    parent = made[position // steps][0]
                    made.append(self._task(owner, project, worker, parent, many + 1 + position))
                tasks += [line for _, line in made]
                projects.append(
                    f"{owner}\t{project}\tP{place}\t{name}\t{len(made) + 1}\t{stamp}\t{stamp}\n"
                )
        return projects, workers, tasks

    def _task(
        self, owner: UUID, project: str, worker: str, parent: str, number: int
    ) -> tuple[str, Line]:
        task, stamp = self.next_id(), self._stamp()
        title = self._texts[self._random.randrange(5_000)][:80].rstrip()
        status = ("pending", "blocked", "done", "cancelled")[number % 4]
        return task, (
            f"{owner}\t{task}\t{project}\t{number}\t{parent}\t{worker}\t{title}\t{status}"
            f"\t{number % 5}\t{stamp}\t{stamp}\n"
        )
