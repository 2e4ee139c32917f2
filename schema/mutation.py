"""A mutation field: who may, one transaction, done once, problems as data.

The function under `@mutation` does the work on the session of its context and returns a payload.
Everything that is the same for all mutations happens around it, here and nowhere else: a refusal
rolls back and becomes problems; the answer is stored with the write under the caller's idempotency
key; a deadlock is tried again, and what stays locked is a problem that says so; what was loaded
before is forgotten.
"""

import functools
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from datetime import datetime
from enum import Enum
from typing import Any, TypeVar, dataclass_transform, get_type_hints
from uuid import UUID

import strawberry
from sqlalchemy.exc import DBAPIError, IntegrityError
from strawberry.types.unset import UNSET
from strawberry.utils.str_converters import to_camel_case

from db import idempotency
from db.base import Base, is_shareable
from db.constraints import violated
from db.refusals import Limited, Overtaken, Refused, Unauthenticated, invalid
from schema.access import ACCESS, Access
from schema.context import Context, Info
from schema.inputs import MAX_KEY_CHARS, check_text
from schema.mirror import MIRRORS, Scope, by_key
from schema.problems import PROBLEM_TYPES, Problem, ProblemCode, problems
from schema.rows import Level, Row
from schema.scalars import JsonText

T = TypeVar("T", bound=type)
P = TypeVar("P", bound="Payload")

ATTEMPTS = 3
"""How often a transaction that deadlocked or was overtaken is tried in all."""
BUSY_SECONDS = 1
"""When a client may try again what other changes kept from being done."""
_TRY_AGAIN = ("40001", "40P01")  # overtaken by another transaction, deadlocked with one
_LOCKED = "55P03"  # another one held the row for longer than the lock timeout

SECRET = {"secret": True}
"""The metadata of a field, of an input or a payload, that is never stored nor hashed plainly."""


@strawberry.type
class Payload:
    """What every mutation answers."""

    client_mutation_id: str | None = strawberry.field(
        default=None, description="The one of the input."
    )
    problems: list[Problem] = strawberry.field(
        default_factory=list, description="Why nothing was done, or not all; empty when all was."
    )

    async def replayed(self, context: Context) -> None:
        """Called on an answer that comes from the store, to renew what is never stored."""


def secret(*, description: str, default: object = MISSING) -> Any:
    """Declare a field of an input or a payload that is never stored, hashed plainly or printed."""
    declared: Any = strawberry.field(description=description, default=default, metadata=SECRET)
    declared.repr = False
    return declared


@dataclass_transform(kw_only_default=True, field_specifiers=(strawberry.field, secret))
def payload(cls: T) -> T:
    """Declare the payload of a mutation."""
    return strawberry.type(cls, description=" ".join((cls.__doc__ or "").split()))


def shown(model: type[Base], rows: Iterable[Any]) -> list[Any]:
    """Rows from a repository as values of the type that mirrors their table; one level."""
    return list(Level(MIRRORS[model], (dict(row._mapping) for row in rows)).rows)


def mutation(
    *,
    description: str,
    access: Scope | None = "write",
    transaction: bool = True,
    prepare: Callable[[Info, Any], Awaitable[object]] | None = None,
) -> Callable[[Callable[..., Awaitable[P]]], Any]:
    """Declare a mutation field; `access` None is open to everybody.

    With `transaction` False the work opens its own, and minds the idempotency key itself: it has
    something slow to do first, or does not know yet whose transaction it will be. `prepare` is done
    before the transaction, without a connection, unless the answer is known; the work finds what
    it brought in the context.
    """

    def declare(work: Callable[..., Awaitable[P]]) -> Any:
        hints = get_type_hints(work)
        payload_type: type[P] = hints["return"]
        operation = to_camel_case(work.__name__)

        @functools.wraps(work)
        async def resolve(self: Any, info: Info, input: Any) -> P:
            context = info.context
            do: Callable[[], Awaitable[P]] = functools.partial(work, self, info, input)
            if transaction:
                do = functools.partial(_once, context, operation, payload_type, input, do)
            try:
                context.prepared = known = None
                if prepare is not None:
                    known = await _recalled(context, operation, payload_type, input)
                    if known is None:
                        context.prepared = await prepare(info, input)
                answer = known or await _attempt(do)
            except Refused as refused:
                answer = payload_type(problems=problems(refused))
            finally:
                await context.renew()
            context.problem_codes.extend(problem.code.name for problem in answer.problems)
            if input.client_mutation_id is not UNSET:
                answer.client_mutation_id = input.client_mutation_id
            return answer

        declared = strawberry.field(
            resolver=resolve,
            description=description,
            metadata={ACCESS: Access(access, payload_type)},
        )
        for argument in declared.base_resolver.arguments:
            argument.description = hints["input"].__strawberry_definition__.description
        return declared

    return declare


async def _recalled(
    context: Context, operation: str, payload_type: type[P], input: Any
) -> P | None:
    """The answer that there is already: nothing is to be prepared, and paid for, again."""
    key = idempotency_key(input)
    if key is None:
        return None
    async with context.aside() as session:
        found = await idempotency.recall(session, operation, key, fingerprint(input))
    if found is None:
        return None
    answer = restore(payload_type, found.response)
    await answer.replayed(context)
    return answer


async def _attempt(do: Callable[[], Awaitable[P]]) -> P:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return await do()
        except (DBAPIError, Overtaken) as error:
            if _is_orphan(error):
                raise Unauthenticated("This account is gone.") from None
            again = _may_pass(error)
            if _sqlstate(error) == _LOCKED or (again and attempt == ATTEMPTS):
                raise Limited("The row is busy: try again.", BUSY_SECONDS) from None
            if not again:
                raise
    raise AssertionError("unreachable")


def _is_orphan(error: Exception) -> bool:
    """Whether a row was refused as its owner has been erased, which a login outlives by seconds."""
    name = violated(error) if isinstance(error, IntegrityError) else None
    return name is not None and name.startswith("fk_") and name.endswith("_owner_id")


def _may_pass(error: Exception) -> bool:
    """Whether the same transaction may succeed when it is tried again."""
    return isinstance(error, Overtaken) or _sqlstate(error) in _TRY_AGAIN


def _sqlstate(error: Exception) -> str | None:
    """PostgreSQL's name for a failure, if it is one of PostgreSQL's."""
    return getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None


async def _once(
    context: Context,
    operation: str,
    payload_type: type[P],
    input: Any,
    do: Callable[[], Awaitable[P]],
) -> P:
    key = idempotency_key(input)
    context.after_commit.clear()
    async with context.session.transaction():
        stored = None
        if key is not None:
            asked = fingerprint(input)
            lifetime = context.services.idempotency_lifetime
            stored = await idempotency.claim(context.session, operation, key, asked, lifetime)
        if stored is not None:
            answer = restore(payload_type, stored)
            await answer.replayed(context)
            return answer
        answer = await do()
        if key is not None:
            await idempotency.keep(context.session, operation, key, asked, store(answer))
    for follow in context.after_commit:
        follow()
    return answer


def idempotency_key(input: Any) -> str | None:
    """The checked key of an input, if it has one.

    Raises:
        Invalid: it is empty, too long, or holds a character that cannot be stored.
    """
    key = getattr(input, "idempotency_key", UNSET)
    if key is UNSET or key is None:
        return None
    check_text(key, ("idempotency_key",))
    if not 1 <= len(key) <= MAX_KEY_CHARS:
        message = f"An idempotency key has 1 to {MAX_KEY_CHARS} characters."
        raise invalid("idempotency_key", "max_length", message, MAX_KEY_CHARS)
    return str(key)


def fingerprint(input: Any) -> bytes:
    """The SHA-256 of what was asked, secrets and the ids of the exchange left out."""
    text = json.dumps(_plain(input), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).digest()


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {
            field.name: _plain(getattr(value, field.name))
            for field in fields(value)
            if getattr(value, field.name) is not UNSET
            and field.name not in ("client_mutation_id", "idempotency_key")
            and not field.metadata.get("secret")
        }
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    return value


def store(answer: Payload) -> dict[str, Any]:
    """An answer as JSON: rows by type and values. Secrets stay out."""
    return {
        field.name: _stored(getattr(answer, field.name))
        for field in fields(answer)
        # What is worked out of other fields is worked out again.
        if field.init and field.name != "client_mutation_id" and not field.metadata.get("secret")
    }


def _stored(value: Any) -> Any:
    if isinstance(value, Problem):
        values = {one.name: _stored(getattr(value, one.name)) for one in fields(value)}
        return {"problem": type(value).__name__, "values": values}
    if isinstance(value, Row):
        values = {name: _text(item) for name, item in value.values.items() if _is_kept(value, name)}
        return {"row": value.level.mirror.key, "values": values}
    return [_stored(item) for item in value] if isinstance(value, list) else _text(value)


def _is_kept(row: Row, name: str) -> bool:
    column = row.level.mirror.table.columns.get(name)
    return column is not None and is_shareable(column)


def _text(value: Any) -> Any:
    if isinstance(value, JsonText):
        return json.loads(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, bool | int | float | str | list | dict):
        return value
    return str(value)


def restore(payload_type: type[P], stored: Mapping[str, Any]) -> P:
    """The answer that `store` kept."""
    return payload_type(**{name: _restored(value) for name, value in stored.items()})


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        rows = [item for item in value if isinstance(item, dict) and "row" in item]
        if rows and len(rows) == len(value):
            mirror = by_key()[rows[0]["row"]]
            return Level(mirror, [_values(mirror, row["values"]) for row in rows]).rows
        return [_restored(item) for item in value]
    if isinstance(value, dict) and "row" in value:
        mirror = by_key()[value["row"]]
        return Level(mirror, [_values(mirror, value["values"])]).rows[0]
    if isinstance(value, dict) and "problem" in value:
        kind: Any = next(one for one in PROBLEM_TYPES if one.__name__ == value["problem"])
        given = {name: _restored(item) for name, item in value["values"].items()}
        return kind(**given | {"code": ProblemCode(given["code"])})
    return value


def _values(mirror: Any, stored: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _value(mirror.table.columns[name], value) for name, value in stored.items()}


def _value(column: Any, value: Any) -> Any:
    if value is None:
        return None
    try:
        kind = column.type.python_type
    except NotImplementedError:
        return value
    if kind is UUID:
        return UUID(value)
    if kind is datetime:
        return datetime.fromisoformat(value)
    return bytes.fromhex(value) if kind is bytes else value
