"""A database URL in any of its spellings, as an engine.

Platforms hand out URLs written for libpq: another scheme, `sslmode`, `options`. The driver knows
none of these words, so they are read here and turned into what it does know. Whatever cannot be
honoured is refused in one line at start-up; no message repeats the URL, which holds a password.
"""

from __future__ import annotations

import re
import shlex
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from sqlalchemy import event
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from db.meter import OPTION, Meter
from db.pipeline import Pipeline, connect
from db.pool import ReadyPool

Pooler = Literal["session", "transaction"]

SCHEMES = ("postgres", "postgresql", "postgresql+asyncpg")
TLS_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# Words of libpq that tune what the driver does by itself, or ask for what it does anyway.
HARMLESS = {
    "gssencmode": {"disable", "prefer"},
    "channel_binding": {"disable", "prefer"},
    "fallback_application_name": None,
    "keepalives": None,
    "keepalives_count": None,
    "keepalives_idle": None,
    "keepalives_interval": None,
    "tcp_user_timeout": None,
}
SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


class DatabaseUrlError(ValueError):
    """The database URL cannot be used; the message is one sentence without secrets."""


@dataclass(frozen=True)
class Target:
    """Where to connect and how, after every spelling has been understood."""

    url: URL
    pooler: Pooler
    connect_args: dict[str, Any] = field(repr=False)


def read_url(
    text: str,
    *,
    pooler: Pooler = "session",
    authority: str | None = None,
    name: str = "DATABASE_URL",
) -> Target:
    """Understand a database URL.

    `authority` is the PEM text of a certificate authority, for platforms that have variables and
    no files; sslrootcert in the URL wins. `name` is the setting the text came from, for messages.
    Raises DatabaseUrlError.
    """
    refuse = _refuser(name)
    text = text.strip()
    scheme, separator, _ = text.partition("://")
    if not separator:
        raise refuse("must look like postgresql://user:password@host:5432/database")
    if scheme.lower() not in SCHEMES:
        spelled = re.sub(r"[^a-z0-9+.-]", "?", scheme.lower())[:40]
        raise refuse(f"must begin with postgresql:// and not with {spelled}://")
    url, query = _address(text, refuse)
    arguments: dict[str, Any] = {}
    settings: dict[str, str] = {}

    if query.pop("pgbouncer", "false").lower() in {"true", "1", "yes", "on"}:
        pooler = "transaction"
    if (seconds := query.pop("connect_timeout", None)) is not None:
        if not seconds.isdecimal():
            raise refuse("has a connect_timeout that is not a whole number of seconds")
        # libpq waits for ever on 0
        arguments["timeout"] = int(seconds) or None
    if (application := query.pop("application_name", None)) is not None:
        settings["application_name"] = application
    if (options := query.pop("options", None)) is not None:
        if pooler == "transaction":
            raise refuse("has options, which a pooler in transaction mode does not pass on")
        settings |= _options(options, refuse)
    if (attributes := query.pop("target_session_attrs", None)) is not None:
        arguments["target_session_attrs"] = attributes
    arguments |= _tls(query, authority, refuse)
    for word, allowed in HARMLESS.items():
        value = query.get(word)
        if value is not None and (allowed is None or value in allowed):
            del query[word]
    if query.get("channel_binding") == "require":
        raise refuse(
            "asks for channel_binding=require, which the driver does not do: "
            "remove it and prove the server with sslmode=verify-full"
        )
    if query:
        raise refuse(f"has a parameter that is not supported: {_shown(min(query))}")
    if settings:
        arguments["server_settings"] = settings
    return Target(url, pooler, arguments)


def create_engine(
    text: str,
    *,
    pooler: Pooler = "session",
    pool_size: int = 10,
    pool_timeout_seconds: float = 5.0,
    connect_timeout_seconds: int = 10,
    command_timeout_seconds: float = 60.0,
    pooled: bool = True,
    authority: str | None = None,
    name: str = "DATABASE_URL",
    meter: Meter | None = None,
) -> AsyncEngine:
    """An engine that leaves transactions to `db.session` and never prints parameters.

    A pool of exactly `pool_size` connections, or none with `pooled=False` (migrations, tools).
    `meter` counts what its sessions ask. Nothing is opened here. Raises DatabaseUrlError.
    """
    target = read_url(text, pooler=pooler, authority=authority, name=name)
    arguments: dict[str, Any] = {
        "timeout": connect_timeout_seconds,
        # a peer that vanished without a word must not hold a request for ever
        "command_timeout": command_timeout_seconds,
        **target.connect_args,
    }
    if target.pooler == "transaction":
        # a prepared statement lives on one server connection; the next transaction has another
        arguments |= {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
    else:
        arguments["async_creator_fn"] = connect
    pool: dict[str, Any] = (
        {
            "poolclass": ReadyPool,
            "pool_size": pool_size,
            "max_overflow": 0,
            "pool_timeout": pool_timeout_seconds,
        }
        if pooled
        else {"poolclass": NullPool}
    )
    engine = create_async_engine(
        target.url,
        connect_args=arguments,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
        pool_pre_ping=False,
        execution_options={} if meter is None else {OPTION: meter},
        **pool,
    )
    event.listen(engine.sync_engine, "checkin", _discard_open_transaction)
    return engine


def driver_connection(connection: DBAPIConnection) -> Any:
    """The asyncpg connection below SQLAlchemy's adapter."""
    return connection.driver_connection


def _discard_open_transaction(
    connection: DBAPIConnection | None, record: ConnectionPoolEntry
) -> None:
    """A connection still in a transaction would hand its owner and snapshot to the next request."""
    if connection is None:
        return
    driver = driver_connection(connection)
    if driver.is_closed():
        record.invalidate()
    elif driver.is_in_transaction():
        pipeline = Pipeline.of(driver)
        if pipeline is None or not pipeline.ended:
            record.invalidate()


def _refuser(name: str) -> Callable[[str], DatabaseUrlError]:
    return lambda reason: DatabaseUrlError(f"{name} {reason}.")


def _address(text: str, refuse: Callable[[str], DatabaseUrlError]) -> tuple[URL, dict[str, str]]:
    """Host, port, database and user, from the address or from the query as libpq allows."""
    body, _, tail = text.partition("://")[2].partition("?")
    authority, _, database = body.partition("/")
    # a password may hold an unescaped "@": the last one ends it
    credentials, _, location = authority.rpartition("@")
    user, _, password = credentials.partition(":")
    try:
        query = dict(parse_qsl(tail, keep_blank_values=True, strict_parsing=bool(tail)))
        parts = urlsplit(f"//{location}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise refuse("has a host, port or query that cannot be read") from None
    host = query.pop("host", None) or (unquote(host) if host else None)
    spelled_port = query.pop("port", None)
    if spelled_port is not None:
        if not spelled_port.isdecimal():
            raise refuse("has a port that is not a number")
        port = int(spelled_port)
    if "," in location or "," in (host or ""):
        raise refuse("names several hosts, and one is supported")
    name = query.pop("dbname", None) or unquote(database)
    if not name:
        raise refuse("names no database")
    if not host:
        raise refuse("names no host")
    socket = {"host": host} if host.startswith("/") else {}
    if socket and port is not None:
        socket["port"] = str(port)
    return (
        URL.create(
            "postgresql+asyncpg",
            username=query.pop("user", None) or unquote(user) or None,
            password=query.pop("password", None) or unquote(password) or None,
            host=None if socket else host,
            port=None if socket else port,
            database=name,
            query=socket,
        ),
        query,
    )


def _options(text: str, refuse: Callable[[str], DatabaseUrlError]) -> dict[str, str]:
    """`-c name=value`, `-cname=value` and `--name=value`, as libpq passes them to the server."""
    settings: dict[str, str] = {}
    words = shlex.split(text.replace("\\ ", "\\\\ "), posix=True) if "'" in text else text.split()
    while words:
        word = words.pop(0)
        if word == "-c" and words:
            word = words.pop(0)
        elif word.startswith("--"):
            word = word[2:].replace("-", "_", word.partition("=")[0].count("-"))
        elif word.startswith("-c"):
            word = word[2:]
        else:
            raise refuse("has options other than -c name=value")
        setting, separator, value = word.partition("=")
        if not separator or not SETTING.fullmatch(setting):
            raise refuse("has options other than -c name=value")
        settings[setting] = value
    return settings


def _tls(
    query: dict[str, str], authority: str | None, refuse: Callable[[str], DatabaseUrlError]
) -> dict[str, Any]:
    """The driver's `ssl` argument for libpq's words; takes them out of `query`."""
    # "ssl" is how drivers of other languages spell it
    mode = query.pop("sslmode", query.pop("ssl", ""))
    mode = {"true": "require", "false": "disable"}.get(mode, mode)
    root, certificate = query.pop("sslrootcert", None), query.pop("sslcert", None)
    key, password = query.pop("sslkey", None), query.pop("sslpassword", None)
    negotiation = query.pop("sslnegotiation", "postgres")
    if mode and mode not in TLS_MODES:
        raise refuse(f"has an unknown sslmode; it is one of {', '.join(TLS_MODES)}")
    if negotiation not in {"postgres", "direct"}:
        raise refuse("has an unknown sslnegotiation; it is postgres or direct")
    arguments: dict[str, Any] = {"direct_tls": True} if negotiation == "direct" else {}
    if root and mode in {"", "require"}:
        # as libpq does: naming an authority asks for its signature to be checked
        mode = "verify-full" if root == "system" else "verify-ca"
    if mode.startswith("verify") or certificate:
        arguments["ssl"] = _context(mode, root, authority, certificate, key, password, refuse)
    elif mode:
        arguments["ssl"] = mode
    return arguments


def _context(
    mode: str,
    root: str | None,
    authority: str | None,
    certificate: str | None,
    key: str | None,
    password: str | None,
    refuse: Callable[[str], DatabaseUrlError],
) -> ssl.SSLContext:
    for word, path in (("sslrootcert", root), ("sslcert", certificate), ("sslkey", key)):
        if path and path != "system" and not Path(path).expanduser().is_file():
            raise refuse(f"names an {word} file that does not exist")
    try:
        file = str(Path(root).expanduser()) if root and root != "system" else None
        context = ssl.create_default_context(cafile=file, cadata=None if root else authority)
        if certificate:
            context.load_cert_chain(
                Path(certificate).expanduser(), Path(key).expanduser() if key else None, password
            )
    except (ssl.SSLError, OSError):
        raise refuse("names a certificate file that cannot be used") from None
    context.check_hostname = mode == "verify-full"
    if not mode.startswith("verify"):
        context.verify_mode = ssl.CERT_NONE
    return context


def _shown(word: str) -> str:
    """A parameter's name, safe to print."""
    return re.sub(r"[^A-Za-z0-9_.-]", "?", word)[:40]
