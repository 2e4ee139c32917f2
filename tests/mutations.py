"""Mutations as tests send them."""

from typing import Any

from tests.people import Person

PROBLEMS = """
    problems {
      code message path
      ... on ValidationProblem { rule bound }
      ... on Conflict { currentVersion current { __typename id } }
    }
"""


async def do(person: Person, mutation: str, selection: str, **input: Any) -> dict[str, Any]:
    """The payload of one mutation: what is selected, and the problems."""
    name = f"{mutation[0].upper()}{mutation[1:]}Input"
    document = f"""
        mutation($input: {name}!) {{
          {mutation}(input: $input) {{ clientMutationId {selection} {PROBLEMS} }}
        }}
    """
    payload: dict[str, Any] = (await person.ask(document, input=input))[mutation]
    return payload


async def done(person: Person, mutation: str, selection: str, **input: Any) -> dict[str, Any]:
    """The payload of a mutation that must have no problems."""
    payload = await do(person, mutation, selection, **input)
    assert payload["problems"] == []
    return payload


async def refused(person: Person, mutation: str, **input: Any) -> list[dict[str, Any]]:
    """The problems of a mutation, of which there must be some."""
    problems: list[dict[str, Any]] = (await do(person, mutation, "", **input))["problems"]
    assert problems
    return problems


def rules(problems: list[dict[str, Any]]) -> dict[str, str]:
    """The rule that each field breaks, by the field's path within the input."""
    assert all(problem["code"] == "VALIDATION" for problem in problems), problems
    return {".".join(problem["path"][1:]): problem["rule"] for problem in problems}
