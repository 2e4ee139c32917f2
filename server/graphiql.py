"""GraphiQL, the page to try the API on: GET /graphql from a browser."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, RedirectResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from server.assets import ASSETS, CDN, SOURCES, STATIC, Asset, installed

__all__ = ["EXAMPLES", "LOOKUP", "Example", "GraphiQL"]

log = structlog.get_logger("engram.server")

ASSETS_PATH = "/graphql/assets"
SCRIPT = "graphiql.js"
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Example:
    """An operation to start from, in a tab of its own."""

    query: str
    variables: str = "{}"


# Whose ids the page puts in place of the placeholders: the first that the token can see.
LOOKUP = "{ projects(first: 1) { nodes { id } } conversations(first: 1) { nodes { id } } }"
EXAMPLES = (
    Example(
        """\
# Everything of a page in one request, and one SQL statement per level.
query Overview {
  viewer {
    displayName
  }
  projects(first: 5) {
    totalCount
    nodes {
      id
      key
      name
      tasks(first: 10, orderBy: [{ field: PRIORITY, direction: DESC }]) {
        nodes {
          number
          title
          status
          assignee {
            name
          }
        }
      }
    }
  }
  conversations(first: 5) {
    nodes {
      id
      title
      messages(last: 2) {
        nodes {
          role
          content
        }
      }
    }
  }
}
"""
    ),
    Example(
        """\
# Sent again with the same key, it answers the same and creates nothing.
mutation CreateTask($input: CreateTaskInput!) {
  createTask(input: $input) {
    task {
      id
      number
      title
      version
    }
    problems {
      code
      message
      path
    }
  }
}
""",
        """\
{
  "input": {
    "projectId": "project_…",
    "title": "Try the API",
    "priority": 3,
    "idempotencyKey": "graphiql-1"
  }
}
""",
    ),
    Example(
        """\
# Start it, then create a task in another window: changing tabs would end it.
subscription TaskChanged($projectId: ID!) {
  taskChanged(projectId: $projectId) {
    id
    number
    title
    status
    deletedAt
  }
}
""",
        """\
{
  "projectId": "project_…"
}
""",
    ),
)


class GraphiQL:
    """The page and its files.

    In development it has a token in its headers editor; otherwise one is pasted there. Its script
    and its data are apart, so that nothing inline is ever run.
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        hosts: Iterable[str] = (),
        examples: Sequence[Example] = (),
        static: Path = STATIC,
    ) -> None:
        """`hosts` are names of this server, besides those of the machine, that the token is for.

        Under any other name the page comes without it: a foreign page may have had its own name
        lead here, and would be allowed to read this one.
        """
        self.local = installed(static)
        if not self.local:
            log.warning(
                "graphiql_from_cdn", cdn=CDN, remedy="install npm and run python -m server.assets"
            )
        self.static = static
        self.hosts = LOCAL_HOSTS | {host.lower() for host in hosts}
        self.html = self._page(None, examples)
        self.html_with_token = self._page(token, examples)
        sources = "'self'" if self.local else f"'self' {CDN}/"
        self.headers = {
            "content-security-policy": (
                f"default-src 'none'; script-src {sources}; style-src {sources} 'unsafe-inline'; "
                f"font-src {sources} data:; img-src 'self' data:; connect-src 'self' ws: wss:; "
                "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            ),
            "referrer-policy": "no-referrer",
            "cache-control": "no-store",
            "vary": "Accept",
        }

    def _page(self, token: str | None, examples: Sequence[Example]) -> str:
        return page(
            [asset for asset in ASSETS if asset.name.endswith(".css")],
            [asset for asset in ASSETS if asset.name.endswith(".js")],
            {
                "url": "/graphql",
                "token": token,
                "lookup": LOOKUP,
                "examples": [
                    {"query": example.query, "variables": example.variables} for example in examples
                ],
            },
            local=self.local,
        )

    @property
    def routes(self) -> list[BaseRoute]:
        """Where the page's files are served, and the way to the page from the bare address."""
        routes: list[BaseRoute] = [
            Route("/", RedirectResponse("/graphql")),
            Mount(f"{ASSETS_PATH}/engram", StaticFiles(directory=SOURCES / "page")),
        ]
        if self.local:
            routes.append(Mount(ASSETS_PATH, StaticFiles(directory=self.static)))
        return routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        known = host_of(Headers(scope=scope)) in self.hosts
        html = self.html_with_token if known else self.html
        await HTMLResponse(html, headers=self.headers)(scope, receive, send)


def host_of(headers: Headers) -> str | None:
    """The name by which a client calls this server, without the port."""
    try:
        return urlsplit(f"//{headers.get('host', '')}").hostname
    except ValueError:
        return None


def page(
    styles: Sequence[Asset], scripts: Sequence[Asset], data: dict[str, object], *, local: bool
) -> str:
    def where(asset: Asset, attribute: str) -> str:
        if local:
            return f'{attribute}="{ASSETS_PATH}/{escape(asset.name)}"'
        return (
            f'{attribute}="{escape(asset.url)}" integrity="{asset.integrity}" '
            'crossorigin="anonymous"'
        )

    # Inside a script element only "</" and "<!--" could end the data.
    config = json.dumps(data).replace("<", "\\u003c")
    links = "\n".join(f'<link rel="stylesheet" {where(style, "href")}>' for style in styles)
    loads = "\n".join(f"<script {where(script, 'src')} defer></script>" for script in scripts)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Engram GraphiQL</title>
<link rel="icon" href="data:,">
{links}
<style>body {{ margin: 0 }} #graphiql {{ height: 100vh; height: 100dvh }}</style>
</head>
<body>
<div id="graphiql">Loading…</div>
<script type="application/json" id="config">{config}</script>
{loads}
<script src="{ASSETS_PATH}/engram/{SCRIPT}" defer></script>
</body>
</html>
"""
