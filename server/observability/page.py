"""``/metrics``, for those who may read it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hmac import compare_digest

from starlette.requests import Request
from starlette.responses import Response

from server.observability.exposition import MEDIA_TYPE, Family, render

__all__ = ["MetricsPage"]

LOOPBACK = frozenset({"127.0.0.1", "::1"})
Source = Callable[[], Iterable[Family]]


class MetricsPage:
    """All metrics of the process: for who has the token or, without one, for this machine."""

    def __init__(self, sources: Sequence[Source], token: str | None) -> None:
        self._sources = sources
        self._token = None if token is None else f"Bearer {token}".encode()

    async def answer(self, request: Request) -> Response:
        """The metrics, or why not."""
        headers = {"cache-control": "no-store"}
        if self._token is None:
            if request.client is None or request.client.host not in LOOPBACK:
                return Response("Only for this machine.\n", 403, headers, "text/plain")
        elif not compare_digest(
            request.headers.get("authorization", "").encode("latin-1"), self._token
        ):
            headers["www-authenticate"] = "Bearer"
            return Response("The token of METRICS_TOKEN is needed.\n", 401, headers, "text/plain")
        families = (family for source in self._sources for family in source())
        return Response(render(families), 200, headers, MEDIA_TYPE)
