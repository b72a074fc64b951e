"""The yardstick for aigw: the gateway's own server, a dispatcher and the upstream client, without any feature.

Relays POST /v1/chat/completions to one fixed upstream, streamed and not. Between this and nginx lies the price of
Python, between this and aigw the price of aigw's features.
"""

import argparse
import socket

import uvloop

from aigw_daemon.gateway.server.exchange import Exchange
from aigw_daemon.gateway.server.server import Server
from aigw_daemon.gateway.upstream.base import Address, Response, Upstream, request_head
from aigw_daemon.gateway.upstream.pool import PooledClient
from aigw_daemon.gateway.wire import ApiError, status_line
from aigw_daemon.link.messages import GatewayView

_BACKLOG = 1024


class BareRelay:
    """What the server serves: one look-up in a dictionary, then the relay."""

    def __init__(self, upstream: Address, client: Upstream | None = None) -> None:
        self._client = client or PooledClient()
        self._upstream = upstream
        self._head = request_head(
            "POST", "/v1/chat/completions", upstream.authority, [("content-type", "application/json")]
        )
        self._routes = {"/v1/chat/completions": self._chat}

    def admit(self, _exchange: Exchange) -> ApiError | None:
        """Every head is fine."""
        return None

    async def __call__(self, exchange: Exchange) -> None:
        handler = self._routes.get(exchange.path)
        if handler is None:
            exchange.respond(status_line(404), b"")
        else:
            await handler(exchange)

    async def _chat(self, exchange: Exchange) -> None:
        response = await self._client.request(self._upstream, self._head, exchange.body)
        try:
            head = _head(response)
            if (whole := response.body_if_complete()) is not None:
                exchange.respond(head, whole)
                return
            exchange.start(head)
            while (piece := await response.chunk()) is not None:
                exchange.write(piece)
                if exchange.write_paused:
                    await exchange.drain()
            exchange.finish()
        finally:
            response.close()


def _head(response: Response) -> bytes:
    media_type = response.header(b"content-type") or b"application/json"
    return b"%bcontent-type: %b\r\n" % (status_line(response.status), media_type)


async def serve(port: int, upstream: Address) -> None:
    """Serves on 127.0.0.1 until the process ends."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    server = Server(BareRelay(upstream), GatewayView(), lambda: b"bench")
    await server.listen([listener])
    await server.watch()


def main() -> None:
    """Reads the options and serves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream-port", type=int, required=True)
    options = parser.parse_args()
    uvloop.run(serve(options.port, Address("127.0.0.1", options.upstream_port)))


if __name__ == "__main__":
    main()
