"""Top-level errors that resolvers raise; problems, which are data, are in `schema.problems`."""

from enum import StrEnum

from graphql import GraphQLError


class ErrorCode(StrEnum):
    """`extensions.code` of a top-level error that resolvers raise."""

    BAD_USER_INPUT = "BAD_USER_INPUT"
    BAD_CURSOR = "BAD_CURSOR"
    BAD_ID = "BAD_ID"
    FORBIDDEN = "FORBIDDEN"
    NOT_FOUND = "NOT_FOUND"
    PROVIDER_UNAVAILABLE = "PROVIDER_UNAVAILABLE"
    UNAUTHENTICATED = "UNAUTHENTICATED"


class RequestError(GraphQLError):
    """A top-level error with a code and a message that is safe to show."""

    def __init__(self, message: str, code: ErrorCode) -> None:
        super().__init__(message, extensions={"code": code.value})


def bad_input(message: str) -> RequestError:
    """An argument that breaks a rule of the API."""
    return RequestError(message, ErrorCode.BAD_USER_INPUT)
