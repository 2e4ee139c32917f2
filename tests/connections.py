"""The relation fields of the schema: what the tests of reading go through one by one."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import strawberry
from strawberry.utils.str_converters import to_camel_case

from schema import build_schema
from schema.mirror import Mirror
from schema.relation_fields import PageField, Relation, RelationField, RootRowField


@dataclass(frozen=True)
class Path:
    """A field that leads from a type, or from the query's root, to rows."""

    parent: str
    name: str
    relation: Relation
    single: bool
    is_connection: bool

    @property
    def is_root(self) -> bool:
        return self.parent == "Query"

    @property
    def target(self) -> Mirror:
        return self.relation.target

    def __str__(self) -> str:
        return f"{self.parent}.{self.name}"


@cache
def paths() -> dict[tuple[str, str], Path]:
    """Every relation field by type and name."""
    return {(path.parent, path.name): path for path in _paths(build_schema())}


def _paths(schema: strawberry.Schema) -> Iterator[Path]:
    convert = schema.config.name_converter
    for name in schema._schema.type_map:
        definition = schema.get_type_by_name(name)
        for field in getattr(definition, "fields", ()):
            if isinstance(field, RelationField):
                yield Path(
                    name,
                    convert.get_graphql_name(field),
                    field.relation,
                    single=isinstance(field, RootRowField),
                    is_connection=isinstance(field, PageField),
                )


def connections() -> list[Path]:
    """Every connection."""
    return [path for path in paths().values() if path.is_connection]


def camel_columns(mirror: Mirror) -> dict[str, str]:
    """The columns of a type by their GraphQL names."""
    return {to_camel_case(column.name): column.name for column in mirror.table.c}
