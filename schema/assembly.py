"""Finishes the mirrored types together: columns, connections, filters, relations.

Types refer to each other in circles, so each is first declared empty (`schema.mirror.mirror`,
`FilterTypes`) and gets its members here, once everything that they can refer to exists.
"""

import inspect
from typing import Any

import strawberry

from schema.filter_types import FilterTypes
from schema.mirror import MIRRORS, Mirror, finish_columns, type_check
from schema.pages import PageInfo
from schema.relation_fields import RelationField


def finish(roots: tuple[type, ...]) -> list[type]:
    """Finish every declared mirror and the relation fields of `roots`; the types, in order."""
    mirrors = list(MIRRORS.values())
    for mirrored in mirrors:
        finish_columns(mirrored)
    types = {mirrored: FilterTypes(mirrored) for mirrored in mirrors}
    connections = {mirrored: connection_type(mirrored) for mirrored in mirrors}
    for mirrored in mirrors:
        fields = relation_fields(mirrored.cls)
        mirrored.relations = {name: field.relation for name, field in fields.items()}
    for mirrored in mirrors:
        types[mirrored].finish(mirrored.relations, types)
    for mirrored in mirrors:
        _finish_relations(mirrored.cls, types, connections)
        cls: Any = mirrored.cls
        cls.is_type_of = staticmethod(type_check(mirrored))
        strawberry.type(cls, name=mirrored.name, description=describe_type(mirrored))
    for cls in roots:
        _finish_relations(cls, types, connections)
        strawberry.type(cls)
    return [mirrored.cls for mirrored in mirrors]


def relation_fields(cls: type) -> dict[str, RelationField]:
    """The relation fields in a class body and in those of its bases, by name."""
    return {
        name: value
        for base in reversed(cls.__mro__)
        for name, value in vars(base).items()
        if isinstance(value, RelationField)
    }


def _finish_relations(
    cls: type, types: dict[Mirror, FilterTypes], connections: dict[Mirror, type]
) -> None:
    annotations = dict(inspect.get_annotations(cls))
    for name, field in relation_fields(cls).items():
        if name in vars(cls):
            annotations[name] = field.finish(types, connections)
    cls.__annotations__ = annotations


def describe_type(mirrored: Mirror) -> str:
    """The description of a type: the docstring of its table class."""
    return " ".join((mirrored.model.__doc__ or "").split())


def connection_type(mirrored: Mirror) -> type:
    """`TaskConnection` and `TaskEdge` for the type `Task`; their values are `Page` and `Edge`."""
    name = mirrored.name
    edge = _plain_type(
        f"{name}Edge",
        f"One {name} in a connection.",
        {
            "cursor": (str, "Where it stands, for `after` and `before`."),
            "node": (mirrored.cls, "The row itself."),
        },
    )
    return _plain_type(
        f"{name}Connection",
        f"A page of rows of type {name}.",
        {
            "edges": (list[edge], "The rows with their cursors."),  # type: ignore[valid-type]  # a class made at run time
            "nodes": (list[mirrored.cls], "The rows."),  # type: ignore[name-defined]  # a class made at run time
            "page_info": (PageInfo, "Where this page stands."),
            "total_count": (int, "How many rows there are on all pages."),
        },
    )


def _plain_type(name: str, description: str, members: dict[str, tuple[Any, str]]) -> type:
    namespace: dict[str, Any] = {"__annotations__": {}, "__module__": __name__}
    for member, (annotation, text) in members.items():
        namespace["__annotations__"][member] = annotation
        namespace[member] = strawberry.field(description=text)
    return strawberry.type(type(name, (), namespace), name=name, description=description)
