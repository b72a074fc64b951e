"""ASGI on top of an exchange, for FastAPI: the routes that nobody calls ten thousand times a second."""

import asyncio
from typing import Any

from starlette.types import ASGIApp, Message

from aigw_daemon.gateway.server.exchange import Exchange
from aigw_daemon.gateway.wire import ID_LINES, NO_STORE, status_line

_OURS = frozenset({b"content-length", b"transfer-encoding", b"connection", b"date"})
"""Lines that the exchange writes itself."""
_BODILESS = frozenset({204, 304})


async def run_asgi(app: ASGIApp, exchange: Exchange, request_id: bytes) -> None:
    """Answer the exchange with an ASGI application."""
    adapter = _Adapter(exchange, request_id)
    await app(_scope(exchange), adapter.receive, adapter.send)


def _scope(exchange: Exchange) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.0" if exchange.http10 else "1.1",
        # The exchange leaves out the body of an answer to HEAD, so every GET route serves both.
        "method": "GET" if exchange.method == "HEAD" else exchange.method,
        "scheme": "http",
        "path": exchange.path,
        "raw_path": exchange.path.encode("latin-1", "replace"),
        "query_string": exchange.query,
        "root_path": "",
        "headers": exchange.headers,
        "client": (exchange.client, 0) if exchange.client else None,
        "server": None,
    }


class _Adapter:
    def __init__(self, exchange: Exchange, request_id: bytes) -> None:
        self._exchange = exchange
        self._request_id = request_id
        self._body_given = False
        self._status = 200
        self._head: bytes | None = None

    async def receive(self) -> Message:
        if self._body_given:
            # Whoever asks again waits for the client to leave, which cancels the whole task.
            await asyncio.get_running_loop().create_future()
        self._body_given = True
        return {"type": "http.request", "body": self._exchange.body, "more_body": False}

    async def send(self, message: Message) -> None:
        exchange = self._exchange
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._head = self._head_lines(message)
            return
        body: bytes = message.get("body", b"")
        if self._head is not None:
            head, self._head = self._head, None
            if not message.get("more_body", False):
                self._respond(head, body)
                return
            exchange.start(head)
        if body:
            exchange.write(body)
            await exchange.drain()
        if not message.get("more_body", False):
            exchange.finish()

    def _respond(self, head: bytes, body: bytes) -> None:
        if self._status in _BODILESS:
            self._exchange.respond_empty(head)
        else:
            self._exchange.respond(head, body)

    def _head_lines(self, message: Message) -> bytes:
        lines = [status_line(message["status"]), NO_STORE, ID_LINES % (self._request_id, self._request_id)]
        lines += [b"%b: %b\r\n" % (name, value) for name, value in message["headers"] if name.lower() not in _OURS]
        return b"".join(lines)
