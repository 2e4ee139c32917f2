"""Every rule of every column that an input mirrors is told in our own words, with its bound."""

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, get_args, get_origin

import annotated_types as limits
import pytest
from pydantic import StringConstraints

from db.base import column_fields
from db.derivation import JsonBound
from db.refusals import Violation
from schema import build_schema
from schema.inputs import inspected
from schema.mirror import bare

SENTENCE = re.compile(r"This (must|list must|JSON must|field must) .+\.")
PYDANTIC = ("Input should", "String should", "List should", "Value error", "after validation")


def sources() -> dict[str, Any]:
    """The columns that inputs mirror, by their names."""
    found = {}
    for type_ in build_schema()._schema.type_map.values():
        definition = (type_.extensions or {}).get("strawberry-definition")
        for source in getattr(getattr(definition, "origin", None), "sources", {}).values():
            found[f"{source.model.__name__}.{source.name}"] = source
    return found


def limits_of(metadata: Any) -> Iterator[tuple[str, Any]]:
    for one in metadata:
        match one:
            case limits.MinLen(bound):
                yield "min", bound
            case limits.MaxLen(bound):
                yield "max", bound
            case limits.Ge(bound):
                yield "ge", bound
            case limits.Le(bound):
                yield "le", bound
            case JsonBound(bound):
                yield "bytes", bound
            case StringConstraints():
                yield "min", one.min_length
                yield "max", one.max_length
        if pattern := getattr(one, "pattern", None):
            yield "pattern", pattern


def broken(source: Any) -> Iterator[tuple[Any, tuple[str, ...], str, Any]]:
    """A value for each rule of a column, where it breaks the rule, the rule and its bound."""
    field = column_fields(source.model)[source.name]
    kind = bare(field.annotation)
    many = get_origin(kind) is list
    item = next(iter(getattr(get_args(kind)[0], "__members__", ["x"]))).lower() if many else None
    for name, bound in limits_of(field.metadata):
        match name:
            case "min":
                short = [] if many else "x" * (bound - 1)
                yield short, (), "min_items" if many else "min_length", bound
            case "max":
                long = [item] * (bound + 1) if many else "x" * (bound + 1)
                yield long, (), "max_items" if many else "max_length", bound
            case "ge":
                yield bound - 1, (), "ge", bound
            case "le":
                yield bound + 1, (), "le", bound
            case "pattern":
                yield "~ ~ ~", (), "pattern", bound
            case "bytes":
                yield {"a": "x" * bound}, (), "value", bound
                deep: dict[str, Any] = {}
                for _ in range(33):
                    deep = {"a": deep}
                yield deep, (), "value", 32
                yield {"a": float("nan")}, (), "value", None
                yield [1], (), "type", "object"
    if many:
        for name, bound in limits_of(getattr(get_args(kind)[0], "__metadata__", ())):
            text = "x" * (bound - 1 if name == "min" else bound + 1)
            yield [text], ("0",), f"{name}_length", bound
        yield "text", (), "type", "list"
    elif isinstance(kind, type) and hasattr(kind, "__members__"):
        yield "none of them", (), "enum", None


@pytest.mark.parametrize("name", sources())
def test_every_rule_is_told_in_our_own_words(name: str) -> None:
    source = sources()[name]
    for value, place, rule, bound in broken(source):
        given: Any = SimpleNamespace(sources={"it": source}, it=value)
        _, found = inspected(given)
        assert len(found) == 1, (value, found)
        violation: Violation = found[0]
        assert (violation.path, violation.rule) == (("it", *place), rule)
        if rule != "enum":
            assert violation.bound == (None if bound is None else str(bound))
        assert SENTENCE.fullmatch(violation.message), violation.message
        assert not any(words in violation.message for words in PYDANTIC)
        if violation.bound is not None:
            assert violation.bound in violation.message
