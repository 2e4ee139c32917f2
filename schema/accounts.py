"""People and what they log in with, as GraphQL shows them."""

import strawberry
from strawberry import auto

from db.models import accounts
from schema.context import Info
from schema.mirror import mirror
from schema.node import Node
from schema.pages import Connection
from schema.relations import owner, root
from schema.rows import Row


@mirror(accounts.User, private={"password_hash", "is_active"})
class User(Node):
    username: auto
    email: auto
    display_name: auto
    settings: auto
    version: auto
    created_at: auto
    updated_at: auto


@mirror(
    accounts.LoginSession,
    private={"token_hash"},
    access="account",
    default_order=("-created_at",),
)
class LoginSession(Node):
    device_name: auto
    user_agent: auto
    ip: auto
    created_at: auto
    last_seen_at: auto
    expires_at: auto
    revoked_at: auto

    @strawberry.field(description="Whether it is the one that asks.")
    def current(self, info: Info) -> bool:
        row: Row = self  # type: ignore[assignment]  # a mirrored type's values are rows
        actor = info.context.actor
        return actor is not None and actor.kind == "user" and actor.id == row.id


@mirror(
    accounts.ApiKey,
    private={"key_hash", "key_salt"},
    default_order=("-created_at",),
    access="account",
)
class ApiKey(Node):
    name: auto
    prefix: auto
    scopes: auto
    created_at: auto
    last_used_at: auto
    expires_at: auto
    revoked_at: auto


class AccountsQuery:
    viewer: User = owner(accounts.User, description="The caller.")
    login_sessions: Connection[LoginSession] = root(
        accounts.LoginSession, description="The caller's log-ins, newest first."
    )
    api_keys: Connection[ApiKey] = root(
        accounts.ApiKey, description="The caller's API keys, newest first."
    )
