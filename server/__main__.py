"""The command line: `python -m server`."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, NoReturn

import structlog
import typer
import uvicorn
from alembic.util import CommandError
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError
from starlette.applications import Starlette

from db.embedded import EmbeddedServerError
from db.engine import DatabaseUrlError, create_engine
from db.failures import DatabaseUnavailable
from db.migrate import head_revision, revise, upgrade
from db.security import RowSecurityError
from db.tokens import Minted
from schema import build_schema
from server import logs
from server.app import create_app
from server.connections import Forwarded, Server, handed_over, http_protocol
from server.embedding import operator
from server.embedding.operator import EmbeddingModelError
from server.settings import Settings
from server.startup import (
    Opened,
    StartupError,
    admit_development_token,
    database,
    development_token,
    examine,
    mint_token,
    prepare,
)

OPERATOR_ERRORS = (
    CommandError,
    DatabaseUrlError,
    EmbeddedServerError,
    EmbeddingModelError,
    RowSecurityError,
    StartupError,
)

app = typer.Typer(
    help="Engram: conversations, knowledge and work over GraphQL.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
log = structlog.get_logger("engram.server")


class _Server(Server):
    """The server, which tells a developer where to look."""

    def __init__(
        self, application: Starlette, config: uvicorn.Config, opened: Opened, bearer: Minted | None
    ) -> None:
        super().__init__(application, config)
        self._opened = opened
        self._bearer = bearer

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then print the address and a token on standard output, apart from the log."""
        await super().startup(sockets)
        # What start-up made stays: the collector need not look at it again with every request.
        gc.collect()
        gc.freeze()
        if not (self.started and self._opened.settings.development):
            return
        if self._bearer is not None:
            # Only now: a start that fails, as its port is taken, leaves no login session.
            await admit_development_token(self._opened, self._bearer)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        shown = "localhost" if host in {"0.0.0.0", "::"} else host  # noqa: S104
        lines = ["", f"  GraphiQL  http://{f'[{shown}]' if ':' in shown else shown}:{port}/graphql"]
        if self._bearer is not None:
            lines.append(f"  Token     {self._bearer.token}")
        typer.echo("\n".join([*lines, ""]))
        sys.stdout.flush()


@app.command()
def serve() -> None:
    """Serve GraphQL until interrupted. Embeds PostgreSQL unless DATABASE_URL is set."""
    _end_on_signals()
    with _ready() as settings, database(settings) as opened:
        try:
            _serve(opened)
        finally:
            # closing the database must not be interrupted by an impatient second Ctrl-C
            for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(name, signal.SIG_IGN)


def _serve(opened: Opened) -> None:
    settings = opened.settings
    asyncio.run(prepare(opened))
    bearer = asyncio.run(development_token(opened)) if settings.development else None
    application = create_app(settings, token=None if bearer is None else bearer.token)
    config = uvicorn.Config(
        Forwarded(application, settings.trusted_proxies),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_grace_seconds,
        ws_max_size=settings.body_limit_bytes,
        http=http_protocol(settings.body_timeout_seconds),
    )
    server = _Server(application, config, opened, bearer)
    server.run(handed_over(settings.sockets_handed_over))
    if not server.started:
        # the log says why: the port is taken, or the application did not start
        raise typer.Exit(1)


@app.command()
def migrate(
    revision: Annotated[
        str, typer.Argument(help="The revision to bring the database to.")
    ] = "head",
) -> None:
    """Create or update the tables, as the owner of the tables."""
    with _ready() as settings, database(settings) as opened:
        asyncio.run(upgrade(opened.migration_url, revision))
        log.info("migrated", revision=head_revision() if revision == "head" else revision)


@app.command()
def check() -> None:
    """Prove a database fit to serve, as after a restore; print nothing if it is."""
    with _ready() as settings, database(settings) as opened:
        asyncio.run(examine(opened))


@app.command()
def revision(
    message: Annotated[str, typer.Argument(help="What it does, in a few words.")],
) -> None:
    """Write the migration that changed models need, for a developer to read and commit."""
    with _ready() as settings, database(settings) as opened:
        if opened.embedded:
            asyncio.run(upgrade(opened.migration_url))
        if not asyncio.run(revise(opened.migration_url, message)):
            typer.echo("Nothing to do: the database is what the models say.")


@app.command()
def token(email: Annotated[str, typer.Argument(help="The address of an account.")]) -> None:
    """Print a new bearer token of a person, and nothing else."""
    with _ready(quiet=True) as settings, database(settings) as opened:
        typer.echo(asyncio.run(mint_token(opened, email, device="command line")))


class EmbeddingAction(StrEnum):
    """What to do with an embedding model."""

    STATUS = "status"
    ACTIVATE = "activate"
    INDEX = "index"
    RETIRE = "retire"
    ERASE = "erase"


@app.command()
def embedding(
    action: Annotated[
        EmbeddingAction,
        typer.Argument(
            help="`status` of all models; `activate` one for searches; build its HNSW `index`;"
            " `retire` one that is not active; `erase` a retired one with its embeddings."
        ),
    ] = EmbeddingAction.STATUS,
    model: Annotated[str, typer.Argument(help="The model.")] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Activate it although texts wait for it.")
    ] = False,
) -> None:
    """Look after embedding models, as the owner of the tables."""
    if not model and action is not EmbeddingAction.STATUS:
        raise typer.BadParameter("Name a model.")
    with _ready() as settings, database(settings) as opened:
        asyncio.run(_embedding(opened, action, model, force=force))


async def _embedding(opened: Opened, action: EmbeddingAction, model: str, *, force: bool) -> None:
    engine = create_engine(opened.migration_url, pooled=False, command_timeout_seconds=86_400)
    try:
        match action:
            case EmbeddingAction.ACTIVATE:
                await operator.activate(engine, model, force=force)
            case EmbeddingAction.INDEX:
                await operator.build_index(engine, model)
            case EmbeddingAction.RETIRE:
                await operator.retire(engine, model)
            case EmbeddingAction.ERASE:
                await operator.erase(engine, model)
        for one in await operator.report(engine):
            index = "indexed" if one.indexed else "not indexed"
            typer.echo(
                f"{one.id}: {one.status}, {one.dimensions} dimensions, {one.pending} pending,"
                f" {one.failed} failed, {index}"
            )
    finally:
        await engine.dispose()


@app.command()
def schema() -> None:
    """Print the GraphQL schema."""
    typer.echo(build_schema().as_str().rstrip())


@contextmanager
def _ready(*, quiet: bool = False) -> Iterator[Settings]:
    """Settings and logs; what an operator can mend is one sentence instead of a traceback."""
    try:
        settings = Settings()
    except ValidationError as error:
        # the values are left out: they may be secrets
        for wrong in error.errors(include_input=False, include_url=False, include_context=False):
            name = ".".join(str(part) for part in wrong["loc"]).upper()
            typer.echo(f"{name}: {wrong['msg']}.", err=True)
        raise typer.Exit(2) from None
    logs.configure(json=settings.json_logs, level="error" if quiet else settings.log_level)
    try:
        yield settings
    except (DatabaseUnavailable, DBAPIError, OSError) as error:
        log.debug("stopped", exc_info=True)
        typer.echo(f"Engram cannot use the database: {_reason(error)}", err=True)
        raise typer.Exit(1) from None
    except OPERATOR_ERRORS as error:
        log.debug("stopped", exc_info=True)
        typer.echo(f"Engram cannot go on: {error}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _end_on_signals() -> None:
    """Let a termination or a closed terminal unwind the process as Ctrl-C does.

    uvicorn ends its work on SIGTERM and then raises it again for us.
    """

    def leave(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, leave)
    # a shell's background job inherits that interrupts are ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # uvicorn knows nothing of a closed terminal
    signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))


def _reason(error: BaseException) -> str:
    """What the driver or the system said at first, without SQLAlchemy's wrapping."""
    while error.__cause__ is not None:
        error = error.__cause__
    return logs.hidden(str(error) or type(error).__name__)


if __name__ == "__main__":
    app(prog_name="python -m server")
