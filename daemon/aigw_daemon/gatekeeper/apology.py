"""When no worker can be kept alive: the daemon answers 503 on the socket itself, so that clients are told.

Deliberately next to nothing: it reads the request's head, answers, closes. It runs only between two tries to start a
worker, on copies of the listeners, which are closed before a worker accepts again.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Sequence

from aigw_daemon.gatekeeper.listeners import BACKLOG

ENDS = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, asyncio.CancelledError)
"""How a caller is done with; cancelled only when the daemon ends, of which asyncio's streams would make an error."""
HEAD_LIMIT = 64 * 1024
HEAD_SECONDS = 2.0
BODY_LIMIT = 1024 * 1024
BODY_SECONDS = 1.0
"""A body that is still on its way is read for so long: closing on unread bytes would take our answer back (RST)."""


def response(reason: str, retry_after: int) -> bytes:
    """The whole answer: OpenAI's envelope, and when to come back (seconds)."""
    error = {"message": reason, "type": "server_error", "param": None, "code": "gateway_unavailable"}
    body = json.dumps({"error": error}).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\n"
        "content-type: application/json\r\n"
        f"content-length: {len(body)}\r\n"
        f"retry-after: {retry_after}\r\n"
        "cache-control: private, no-store\r\n"
        "connection: close\r\n\r\n"
    )
    return head.encode() + body


@contextlib.asynccontextmanager
async def apologizing(listeners: Sequence[socket.socket], reason: str, retry_after: int) -> AsyncIterator[None]:
    """Answer every request with 503 for as long as the context lasts."""
    answer = response(reason, retry_after)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(*ENDS):
            async with asyncio.timeout(HEAD_SECONDS):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
                await writer.drain()
                writer.write_eof()
            await _read_off(reader)
        writer.close()

    async with contextlib.AsyncExitStack() as servers:
        for listener in listeners:
            # Said again, for asyncio's own default would shorten the kernel's queue, which the workers share.
            server = await asyncio.start_server(serve, sock=listener.dup(), limit=HEAD_LIMIT, backlog=BACKLOG)
            servers.callback(server.close)
        yield


async def _read_off(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(BODY_SECONDS):
        left = BODY_LIMIT
        while left > 0 and (piece := await reader.read(HEAD_LIMIT)):
            left -= len(piece)
