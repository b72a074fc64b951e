"""The small dispatcher in front of FastAPI: hot routes by one look-up in a dictionary, everything else to the app.

Measured without any upstream, a route inside FastAPI reaches 0.35 to 0.47 of nginx, this one 0.63 to 0.66. Decisions
look at the path alone (rule S1), and every path passes the same guard for Host and Origin first (rule S3).
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from starlette.types import ASGIApp

from aigw_daemon.gateway.live import Live
from aigw_daemon.gateway.openapi import EXPOSED_HEADERS
from aigw_daemon.gateway.server.asgi import run_asgi
from aigw_daemon.gateway.server.exchange import Exchange
from aigw_daemon.gateway.wire import ApiError, header, status_line


class HotRoute(Protocol):
    """Answers the POST of a path."""

    def __call__(self, exchange: Exchange) -> Awaitable[None]:
        """Answer."""
        ...

    def at_once(self, exchange: Exchange) -> bool:
        """Answer if that needs no waiting for anything; whether it was done."""
        ...


_TAKEN = frozenset({"POST", "OPTIONS"})

_PREFLIGHT = (
    status_line(204) + b"access-control-allow-methods: GET, POST, OPTIONS\r\n" + b"access-control-max-age: 600\r\n"
)
_EXPOSED = b"vary: origin\r\naccess-control-expose-headers: %b\r\n" % ", ".join(EXPOSED_HEADERS).encode()


class Dispatcher:
    """What the server serves. ``hot`` maps a path to the handler of its POST."""

    def __init__(self, hot: Mapping[str, HotRoute], app: ASGIApp, live: Live, request_id: Callable[[], bytes]) -> None:
        self._hot = hot
        self._app = app
        self._live = live
        self._request_id = request_id

    def admit(self, exchange: Exchange) -> ApiError | None:
        """The guards that need the head only."""
        hosts = self._live.hosts
        if exchange.origin is not None or exchange.host not in hosts.good:
            refusal = hosts.refusal(exchange.host, exchange.origin)
            if refusal is not None:
                return refusal
            if exchange.origin is not None:
                exchange.cors = header("access-control-allow-origin", exchange.origin.decode("latin-1")) + _EXPOSED
        if exchange.method not in _TAKEN and exchange.path in self._hot:
            return ApiError(405, f"{exchange.path} takes POST, not {exchange.method}", allow="POST, OPTIONS")
        return None

    def at_once(self, exchange: Exchange) -> bool:
        """Answer if that needs no waiting for anything; whether it was done."""
        route = self._hot.get(exchange.path)
        return route is not None and exchange.method == "POST" and route.at_once(exchange)

    def __call__(self, exchange: Exchange) -> Awaitable[None]:
        """Answer on the route of the exchange. No coroutine of its own: it would be one more for every request."""
        if exchange.method == "OPTIONS":
            return self._answer_preflight(exchange)
        handler = self._hot.get(exchange.path)
        return handler(exchange) if handler is not None else run_asgi(self._app, exchange, self._request_id())

    async def _answer_preflight(self, exchange: Exchange) -> None:
        exchange.respond_empty(_preflight(exchange) + b"x-aigw-request-id: %b\r\n" % self._request_id())


def _preflight(exchange: Exchange) -> bytes:
    """What a page may send. Its origin is an allowed one by now, so it may send the headers that it names."""
    named = next((value for name, value in exchange.headers if name == b"access-control-request-headers"), None)
    allowed = header("access-control-allow-headers", named.decode("latin-1")) if named else b""
    return _PREFLIGHT + allowed
