"""Fields whose value follows from columns of their own row: no statement, no context."""

from collections.abc import Callable
from typing import Any

from strawberry.annotation import StrawberryAnnotation
from strawberry.types.field import StrawberryField


class DerivedField(StrawberryField):
    """A field that a function makes from columns; plans run it as well as graphql-core does."""

    def __init__(
        self,
        function: Callable[..., Any],
        columns: tuple[str, ...],
        annotation: Any,
        description: str,
    ) -> None:
        super().__init__(description=description, type_annotation=StrawberryAnnotation(annotation))
        self.function = function
        self.columns = columns
        self.init = False

    @property
    def is_basic_field(self) -> bool:
        return False

    def __copy__(self) -> "DerivedField":
        assert self.type_annotation is not None
        assert self.description is not None
        copied = DerivedField(
            self.function, self.columns, self.type_annotation.annotation, self.description
        )
        copied.python_name = self.python_name
        copied.graphql_name = self.graphql_name
        return copied

    def get_result(self, source: Any, info: Any, args: list[Any], kwargs: Any) -> Any:
        return self.function(*(source.values[name] for name in self.columns))


def derived(function: Callable[..., Any], *columns: str, annotation: Any, description: str) -> Any:
    """`function` of the values of `columns`; its result must be what JSON shows as `annotation`."""
    return DerivedField(function, columns, annotation, description)
