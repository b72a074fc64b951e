"""One request and its answer on a connection: what a handler reads and writes.

It is not ASGI: the hot routes write finished bytes straight to the connection. `asgi.py` puts ASGI on top for FastAPI.
A handler starts when the whole body is here, so it never waits for the client except to let a slow one catch up.
"""

import asyncio
from enum import StrEnum
from typing import TYPE_CHECKING

from aigw_daemon.gateway.wire import ID_LINES, ApiError

if TYPE_CHECKING:
    from aigw_daemon.gateway.server.connection import Connection

Headers = list[tuple[bytes, bytes]]


class Interruption(StrEnum):
    """Why a handler's task was cancelled."""

    CLIENT_LEFT = "the client left"
    DEADLINE = "out of time"
    STALLED = "the client took no byte for too long"
    SHUTDOWN = "the gateway is shutting down"


class Exchange:
    """A request with its body, and the ways to answer it. All writing is synchronous; `drain` waits for the client."""

    __slots__ = (
        "_begun",
        "_chunked",
        "_connection",
        "_ends",
        "_pending_head",
        "_sure",
        "body",
        "complete",
        "controls",
        "cors",
        "handed",
        "headers",
        "host",
        "http10",
        "interruption",
        "keep_alive",
        "method",
        "origin",
        "path",
        "query",
        "rejection",
        "started",
        "task",
    )

    def __init__(
        self,
        connection: "Connection",
        *,
        method: str,
        path: str,
        query: bytes,
        headers: Headers,
        host: bytes | None,
        origin: bytes | None,
        controls: tuple[tuple[bytes, bytes], ...] | None,
        http10: bool,
        keep_alive: bool,
    ) -> None:
        self._connection = connection
        self.method = method
        self.path = path
        """Percent-decoded, without the query. The only thing that decisions look at (rule S1)."""
        self.query = query
        self.headers = headers
        self.host = host
        self.origin = origin
        self.controls = controls
        """The headers that say how the request is to be handled; None for the usual request, which has none."""
        self.http10 = http10
        self.keep_alive = keep_alive
        self.body = b""
        self.cors = b""
        """Header lines for an allowed Origin, put on whatever answer follows."""
        self.started = False
        """Whether any byte of the answer was written: after that there is no fallback (rule B1)."""
        self.complete = False
        self.interruption: Interruption | None = None
        self.rejection: ApiError | None = None
        """Set when the head alone was enough to say no."""
        self.task: asyncio.Task[None] | None = None
        self.handed = False
        """Whether the last events of a stream are with the kernel: then the client has the whole of it."""
        self._ends = self._sure = False
        self._pending_head: bytes | None = None
        self._begun = False
        self._chunked = False

    @property
    def client(self) -> str | None:
        """The client's address."""
        return self._connection.client[0] if self._connection.client else None

    @property
    def write_paused(self) -> bool:
        """Whether the client is slower than the answer: then `drain` before writing more (rule B13)."""
        return self._connection.write_paused

    @property
    def streaming(self) -> bool:
        """Whether `start` has begun an answer that `finish` hasn't ended."""
        return self._begun and not self.complete

    @property
    def remaining(self) -> float:
        """Seconds until the deadline; infinite while its clock stands."""
        return self._connection.remaining

    def allow(self, seconds: float) -> None:
        """Set the deadline to so many seconds from now; infinite makes its clock stand."""
        self._connection.allow(seconds)

    async def drain(self) -> None:
        """Wait until the client has taken enough for more to be written."""
        await self._connection.writable()

    def respond(self, head: bytes, body: bytes) -> None:
        """Answer at once. ``head``: status line and header lines, without Content-Length and the blank line."""
        self.started = self.complete = True
        content = body if self.method != "HEAD" else b""
        self._connection.write(
            b"%b%bcontent-length: %d\r\n\r\n%b" % (head, self._connection_lines(), len(body), content)
        )
        self._connection.exchange_complete(self)

    def reject(self, error: ApiError, request_id: bytes) -> None:
        """Answer with an error."""
        self.respond(error.head() + ID_LINES % (request_id, request_id), error.body())

    def respond_empty(self, head: bytes) -> None:
        """Answer with a status that has no body (204, 304)."""
        self.started = self.complete = True
        self._connection.write(b"%b%b\r\n" % (head, self._connection_lines()))
        self._connection.exchange_complete(self)

    def start(self, head: bytes) -> None:
        """Begin an answer of unknown length; the head leaves together with the first bytes."""
        self._begun = True
        self._chunked = not self.http10
        if self.http10:
            self.keep_alive = False
        framing = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        self._pending_head = b"%b%b%b\r\n" % (head, self._connection_lines(), framing)

    def write(self, data: bytes) -> None:
        """Send a piece of the body, not empty."""
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._pending_head is not None:
            data = self._pending_head + data
            self._pending_head = None
            self.started = True
        self._connection.write(data)

    def ending(self) -> None:
        """What was written holds the last events: watch whether the kernel takes them. Nothing else is held up."""
        self._ends = True
        if not self._sure:
            # Writes reach the kernel at the end of this turn at the latest, unless older ones stand before them. A
            # client may be gone before the next turn, which is when their fate is known for certain.
            self.handed = not self._connection.unsent
            self._connection.look_at_sent_soon()

    def sent(self, *, whole: bool) -> None:
        """Whether all that had been written by the end of the last turn is with the kernel."""
        if self._ends and not self._sure:
            self.handed = self._sure = whole

    def finish(self) -> None:
        """End an answer that `start` began."""
        last = b"0\r\n\r\n" if self._chunked else b""
        if self._pending_head is not None:
            last = self._pending_head + last
            self._pending_head = None
        self.started = self.complete = True
        if last:
            self._connection.write(last)
        self._connection.exchange_complete(self)

    def abort(self) -> None:
        """Cut the connection, so that the client can't take what it has for the whole."""
        self.complete = True
        self._connection.abort()

    def interrupt(self, reason: Interruption) -> None:
        """Cancel the handler, wherever it waits. It finds the reason in `interruption`."""
        if self.complete or self.interruption is not None:
            return
        self.interruption = reason
        if self.task is not None:
            self.task.cancel()

    def _connection_lines(self) -> bytes:
        if self._connection.closes_after(self):
            return b"%b%bconnection: close\r\n" % (self._connection.date_line, self.cors)
        return self._connection.date_line + self.cors
