"""What to say about a value that breaks a rule of its column: our rule names, plain sentences.

Pydantic checks the values. Its words are for programmers and change with its versions, so only the
kinds of its errors and their bounds are taken over.
"""

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from db.refusals import Violation

MISSING = "This field must not be null."

# By the type of pydantic's error: our rule, what pydantic calls its bound, the sentence.
_RULES = {
    "string_too_short": ("min_length", "min_length", "This must have at least {} characters."),
    "string_too_long": ("max_length", "max_length", "This must have at most {} characters."),
    "too_short": ("min_items", "min_length", "This list must have at least {} items."),
    "too_long": ("max_items", "max_length", "This list must have at most {} items."),
    "greater_than_equal": ("ge", "ge", "This must be {} or more."),
    "less_than_equal": ("le", "le", "This must be {} or less."),
    "string_pattern_mismatch": ("pattern", "pattern", "This must match the pattern {}."),
    "enum": ("enum", "expected", "This must be one of {}."),
    "max_bytes": ("value", "bound", "This must be at most {} bytes of JSON."),
    "max_depth": ("value", "bound", "This JSON must be nested at most {} levels deep."),
}
_TYPES = {
    "dict_type": "object",
    "list_type": "list",
    "string_type": "string",
    "int_type": "integer",
    "bool_type": "boolean",
    "datetime_type": "time",
}
_SINGULAR = {"characters.": "character.", "items.": "item.", "levels deep.": "level deep."}


def violations(error: ValidationError, path: tuple[str, ...]) -> Iterator[Violation]:
    """One violation for each thing that pydantic found wrong with the value at `path`."""
    for item in error.errors(include_url=False, include_input=False):
        place = (*path, *(str(part) for part in item["loc"]))
        yield _violation(place, item["type"], item.get("ctx", {}))


def _violation(path: tuple[str, ...], kind: str, context: dict[str, Any]) -> Violation:
    if kind in _RULES:
        rule, name, sentence = _RULES[kind]
        bound = str(context[name])
        return Violation(path, rule, _counted(sentence, bound), bound)
    if kind == "value_error":
        return Violation(path, "value", f"This {context['error']}.")
    wanted = _TYPES.get(kind, kind.partition("_")[0])
    return Violation(path, "type", f"This must be of the type {wanted}.", wanted)


def _counted(sentence: str, bound: str) -> str:
    if bound == "1":
        for many, one in _SINGULAR.items():
            sentence = sentence.replace(many, one)
    return sentence.format(bound)
