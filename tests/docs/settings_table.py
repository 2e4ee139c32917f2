"""README's table of settings, from the class of settings: `make docs` writes it anew."""

from __future__ import annotations

from pathlib import Path

from pydantic.fields import FieldInfo

from server.settings import Settings
from tests.docs.pages import ROOT

START, END = "<!-- settings -->\n", "<!-- /settings -->\n"


def table() -> str:
    """One line for each setting, in the order of the class."""
    lines = [
        f"| `{name.upper()}` | {default(field)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| variable | default | what it is |", "|---|---|---|", *lines, ""])


def default(field: FieldInfo) -> str:
    """A default as the environment would spell it."""
    match field.default:
        case None | ():
            return ""
        case bool():
            return f"`{str(field.default).lower()}`"
        case _:
            return f"`{field.default}`"


def written(text: str) -> str:
    """The page with the table as it should be."""
    before, rest = text.split(START)
    _, after = rest.split(END)
    return f"{before}{START}{table()}{END}{after}"


if __name__ == "__main__":
    readme: Path = ROOT / "README.md"
    readme.write_text(written(readme.read_text(encoding="utf-8")), encoding="utf-8")
