"""What happens before the first request: the database is there, migrated, filled and proven."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from db import tokens
from db.embedded import EmbeddedServer
from db.engine import create_engine
from db.feed_origin import is_settled
from db.meter import Meter
from db.migrate import check, current_revision, head_revision, serves, upgrade
from db.replica import FAILURES, prove
from db.repositories import accounts
from db.security import RowSecurityError, verify_row_security
from db.session import Author, Session, SessionOptions
from db.standby import NotAReplica, WrongReplica
from db.tokens import Minted
from server import demo
from server.settings import Settings

REPLICA_CONNECT_SECONDS = 2
WRONG_URL = ("28", "3D")
"""What PostgreSQL calls a role, a password or a database that it does not accept."""
DEVELOPMENT_DEVICE = "development"
DEVELOPMENT_DAYS = 7
"""How long a development token lasts, unless the server starts again before."""


log = structlog.get_logger("engram.server")


class StartupError(Exception):
    """The server cannot start; the message is for the operator and holds no secrets."""


@dataclass(frozen=True)
class Opened:
    """A database that answers, and the settings that now name it."""

    settings: Settings
    embedded: bool

    def engine(self, *, pooled: bool = False) -> AsyncEngine:
        """An engine of the application."""
        return application_engine(self.settings, pooled=pooled)

    @property
    def migration_url(self) -> str:
        """Where the tables' owner logs in."""
        url = self.settings.database_migration_url or self.settings.database_url
        assert url is not None
        return url.get_secret_value()


def application_engine(
    settings: Settings, *, pooled: bool = True, meter: Meter | None = None
) -> AsyncEngine:
    """The engine of settings that name a database. Raises DatabaseUrlError."""
    assert settings.database_url is not None
    return create_engine(
        settings.database_url.get_secret_value(),
        pooler=settings.database_pooler,
        pool_size=settings.database_pool_size,
        pool_timeout_seconds=settings.database_pool_timeout_seconds,
        authority=settings.database_ca,
        pooled=pooled,
        meter=meter,
    )


def replica_engine(
    settings: Settings, *, pooled: bool = True, meter: Meter | None = None
) -> AsyncEngine:
    """The engine of the replica that settings name. Raises DatabaseUrlError."""
    assert settings.database_replica_url is not None
    return create_engine(
        settings.database_replica_url.get_secret_value(),
        name="DATABASE_REPLICA_URL",
        pooler=settings.database_pooler,
        pool_size=settings.database_pool_size,
        pool_timeout_seconds=settings.database_pool_timeout_seconds,
        # there is somebody else to ask
        connect_timeout_seconds=REPLICA_CONNECT_SECONDS,
        authority=settings.database_ca,
        pooled=pooled,
        meter=meter,
    )


@contextmanager
def database(settings: Settings) -> Iterator[Opened]:
    """The configured database, or the embedded one for as long as the block runs.

    Raises EmbeddedServerError.
    """
    if settings.database_url is not None:
        yield Opened(settings, embedded=False)
        return
    with EmbeddedServer.start(settings.engram_data_dir) as server:
        named = {
            "database_url": SecretStr(server.url()),
            "database_migration_url": None,
            "database_listen_url": None,
            "database_pooler": "session",
            # what follows from the absence of a URL must not change with its presence
            "engram_environment": "development" if settings.development else "production",
        }
        yield Opened(settings.model_copy(update=named), embedded=True)


async def prepare(opened: Opened) -> None:
    """Bring an embedded database up to date and fill it once; prove any database fit to serve.

    Raises StartupError, RowSecurityError, DatabaseUnavailable, DatabaseUrlError.
    """
    if opened.embedded:
        await upgrade(opened.migration_url)
    engine = opened.engine()
    try:
        await _prove(engine, opened.settings.session_options)
        await _prove_replica(engine, opened.settings)
        if opened.embedded and await _is_empty(engine):
            await demo.load(engine, opened.settings.session_options)
    finally:
        await engine.dispose()


async def examine(opened: Opened) -> None:
    """Prove a database fit to serve, down to the last column. Raises as `prepare` does."""
    engine = opened.engine()
    try:
        await _prove(engine, opened.settings.session_options)
        await _prove_replica(engine, opened.settings)
    finally:
        await engine.dispose()
    differences = await check(opened.migration_url)
    if differences:
        raise StartupError(f"The tables are not what this code says: {'; '.join(differences)}")


async def _prove(engine: AsyncEngine, options: SessionOptions) -> None:
    await verify_row_security(engine, options)
    async with engine.connect() as connection:
        revision = await current_revision(connection)
        if not serves(revision):
            raise StartupError(
                f"The database is at revision {revision} and this code needs {head_revision()}: "
                "run `python -m server migrate`."
            )
        if not await is_settled(connection):
            raise StartupError(
                "The database was brought here from another PostgreSQL server: "
                "run `python -m server migrate`, so that its change feed goes on."
            )


async def _prove_replica(primary: AsyncEngine, settings: Settings) -> None:
    """Refuse a replica that can never be one; one that is away or behind may come back.

    Raises StartupError, DatabaseUrlError.
    """
    if settings.database_replica_url is None:
        return
    replica = replica_engine(settings, pooled=False)
    try:
        await prove(primary, replica, settings.session_options)
    except WrongReplica as error:
        raise StartupError(str(error)) from error
    except (NotAReplica, RowSecurityError) as error:
        # It may not have replayed the last migration.
        log.warning("replica_not_used", reason=str(error))
    except FAILURES as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if str(getattr(cause, "sqlstate", "")).startswith(WRONG_URL):
            raise StartupError(f"DATABASE_REPLICA_URL is not accepted: {cause}.") from error
        log.warning("replica_not_used", reason=type(cause).__name__)
    finally:
        await replica.dispose()


async def mint_token(opened: Opened, email: str, *, device: str) -> str:
    """A bearer token for the person with this address. Raises StartupError."""
    minted = await _mint(opened, email)
    if minted is None:
        raise StartupError(f"Nobody has the address {email}.")
    await _admit(opened, minted, device, days=opened.settings.session_lifetime_days)
    return minted.token


async def development_token(opened: Opened) -> Minted | None:
    """A token for the demo person, None where there is none. It works once it is admitted."""
    return await _mint(opened, demo.EMAIL)


async def admit_development_token(opened: Opened, minted: Minted) -> None:
    """Begin the login session of a development token, in the place of those of earlier starts."""
    await _admit(opened, minted, DEVELOPMENT_DEVICE, days=DEVELOPMENT_DAYS, alone=True)


async def _mint(opened: Opened, email: str) -> Minted | None:
    """A token for the person with this address, which is not stored yet."""
    engine = opened.engine()
    try:
        owner_id = await _find(engine, opened.settings.session_options, email)
        return None if owner_id is None else tokens.mint(owner_id)
    finally:
        await engine.dispose()


async def _admit(
    opened: Opened, minted: Minted, device: str, *, days: int, alone: bool = False
) -> None:
    """Store the login session of a token; when `alone`, as the only one of the device."""
    parsed = tokens.parse(minted.token)
    assert parsed is not None
    row = {
        "token_hash": minted.hash,
        "device_name": device,
        "expires_at": datetime.now(UTC) + timedelta(days=days),
    }
    engine = opened.engine()
    author = Author("user", parsed.owner_id, device)
    options = opened.settings.session_options
    session = Session(engine, parsed.owner_id, options, author=author)
    try:
        async with session, session.transaction():
            if alone:
                await accounts.erase_logins(session, device)
            await accounts.open_login(session, row)
    finally:
        await engine.dispose()


async def _find(engine: AsyncEngine, options: SessionOptions, email: str) -> UUID | None:
    async with Session(engine, None, options) as session:
        login = await accounts.find_login(session, email)
        return login.owner_id if login is not None and login.is_active else None


async def _is_empty(engine: AsyncEngine) -> bool:
    """Whether nobody ever signed up. Asked as the owner of the tables, who may look people up."""
    async with Session(engine, None, SessionOptions(role=None)) as session:
        return not await session.scalar(text("SELECT EXISTS (SELECT FROM users)"))
