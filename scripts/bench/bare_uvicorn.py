"""The bare relay once more, as an ASGI application on uvicorn as it comes: what the gateway's own server is worth.

The yardstick is `bare_server.py`, which does the same on that server.
"""

import argparse
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

from aigw_daemon.gateway.upstream.base import Address, Response, request_head
from aigw_daemon.gateway.upstream.pool import PooledClient

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Handler = Callable[[Receive, Send], Awaitable[None]]

_END: Message = {"type": "http.response.body", "body": b""}


class BareRelay:
    """An ASGI application: one dict lookup, then the relay."""

    def __init__(self, upstream: Address) -> None:
        self._client = PooledClient()
        self._upstream = upstream
        self._head = request_head(
            "POST", "/v1/chat/completions", upstream.authority, [("content-type", "application/json")]
        )
        self._routes: dict[str, Handler] = {"/v1/chat/completions": self._chat}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        handler = self._routes.get(scope["path"], _not_found)
        await handler(receive, send)

    async def _chat(self, receive: Receive, send: Send) -> None:
        response = await self._client.request(self._upstream, self._head, await _read_body(receive))
        try:
            whole = response.body_if_complete()
            await send(_start(response, whole))
            if whole is not None:
                await send({"type": "http.response.body", "body": whole})
                return
            while (piece := await response.chunk()) is not None:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send(_END)
        finally:
            response.close()


def _start(response: Response, whole: bytes | None) -> Message:
    headers = [(b"content-type", response.header(b"content-type") or b"application/json")]
    if whole is not None:
        headers.append((b"content-length", b"%d" % len(whole)))
    return {"type": "http.response.start", "status": response.status, "headers": headers}


async def _read_body(receive: Receive) -> bytes:
    message = await receive()
    if not message.get("more_body"):
        return bytes(message.get("body", b""))
    pieces = [message["body"]]
    while message.get("more_body"):
        message = await receive()
        pieces.append(message.get("body", b""))
    return b"".join(pieces)


async def _not_found(_receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
    await send(_END)


def main() -> None:
    """Serves on 127.0.0.1 until it is told to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream-port", type=int, required=True)
    options = parser.parse_args()
    app = BareRelay(Address("127.0.0.1", options.upstream_port))
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=options.port,
        loop="uvloop",
        http="httptools",
        lifespan="off",
        ws="none",
        proxy_headers=False,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
    )


if __name__ == "__main__":
    main()
