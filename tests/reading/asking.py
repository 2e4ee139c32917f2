"""Questions to one connection, wherever it stands."""

from dataclasses import dataclass, field
from typing import Any

from schema import ids
from schema.mirror import MIRRORS, Mirror
from tests.connections import Path
from tests.factories import Row
from tests.people import Person
from tests.ways import Way, answer


@dataclass
class Question:
    """A connection, its arguments with their types, and what to read of each page."""

    path: Path
    selection: str
    arguments: dict[str, tuple[str, Any]] = field(default_factory=dict)

    def given(self, name: str, type_: str, value: Any) -> None:
        """Add an argument."""
        self.arguments[name] = (type_, value)

    async def ask(self, person: Person, parents: list[Row], way: Way) -> list[Any]:
        """The connection of each parent; of a root field the one there is."""
        declared = [f"${name}: {type_}" for name, (type_, _) in self.arguments.items()]
        passed = ", ".join(f"{name}: ${name}" for name in self.arguments)
        call = f"page: {self.path.name}{f'({passed})' if passed else ''} {self.selection}"
        variables = {name: value for name, (_, value) in self.arguments.items()}
        if not self.path.is_root:
            declared.append("$ids: [ID!]!")
            key = parent_of(self.path).key
            variables["ids"] = [ids.encode(key, parent["id"]) for parent in parents]
            call = f"nodes(ids: $ids) {{ ... on {self.path.parent} {{ {call} }} }}"
        heading = f"query ({', '.join(declared)})" if declared else "query"
        text = f"{heading} {{ {call} }}"
        answered = await answer(person, text, variables, way)
        assert not answered.errors, (answered.errors, text, variables)
        assert answered.data is not None
        if self.path.is_root:
            return [answered.data["page"]]
        return [node["page"] for node in answered.data["nodes"]]


def parent_of(path: Path) -> Mirror:
    """The type that a nested connection stands in."""
    return next(one for one in MIRRORS.values() if one.name == path.parent)
