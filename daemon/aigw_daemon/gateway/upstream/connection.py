"""One connection to an upstream: sends a request, parses what comes back, wakes whoever waits for it.

Nothing here awaits on the way in: httptools parses inside `data_received`, and by the time the waiting task runs, a
small answer is complete and its connection is already back in the pool.
"""

import asyncio
from collections.abc import Callable
from typing import cast, final

from aigw_daemon.gateway.upstream.base import Address, Response, Truncated, UpstreamError
from aigw_daemon.gateway.upstream.parser import ResponseParser

READ_AHEAD_BYTES = 256 * 1024
"""Reading stops while this much lies unread (rule B13); what one read of the socket brings comes on top."""

UPLOAD_PIECE_BYTES = 64 * 1024
_FIRST_ERROR_STATUS = 400


class StaleConnection(Truncated):
    """A connection that was used before ended without a byte of the answer: the idle timeout of the other side."""


@final
class PooledResponse(Response):
    """An answer on a connection of the pool. Once complete it holds the rest of its body, and no connection."""

    __slots__ = ("_connection", "_error", "_rest", "_waiter")

    def __init__(self, connection: "Connection") -> None:
        self.status = 0
        self.headers = []
        self._connection: Connection | None = connection
        self._error: UpstreamError | None = None
        self._rest = b""
        # Here and not in the connection, which may serve the next exchange before the woken task runs.
        self._waiter: asyncio.Future[None] | None = None

    async def chunk(self) -> bytes | None:
        while (connection := self._connection) is not None:
            piece = connection.take()
            if piece:
                return piece
            try:
                await self.news()
            except BaseException:
                self.close()
                raise
        if rest := self._take_rest():
            return rest
        if self._error is not None:
            raise self._error
        return None

    def body_if_complete(self) -> bytes | None:
        if self._connection is not None or self._error is not None:
            return None
        return self._take_rest()

    def close(self) -> None:
        if (connection := self._connection) is not None:
            connection.fail(Truncated("the answer was closed before its end"))

    @property
    def settled(self) -> bool:
        """Whether nothing more will arrive."""
        return self._connection is None

    def settle(self, rest: bytes, error: UpstreamError | None) -> None:
        """Lets go of the connection, at the end of the answer or at an error; `rest` is what nobody took yet."""
        self._connection = None
        self._rest = rest
        self._error = error

    def news(self) -> asyncio.Future[None]:
        """Done when something has changed. Whoever is cancelled while waiting for it must `close`."""
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        return waiter

    def wake(self) -> None:
        """Tells whoever waits for news."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def raise_error(self) -> None:
        """Raises what ended the answer, if it was an error."""
        if self._error is not None:
            raise self._error

    def _take_rest(self) -> bytes:
        rest, self._rest = self._rest, b""
        return rest


@final
class Connection(asyncio.Protocol):
    """Carries one exchange at a time. `on_free` is called when it may carry the next, `on_lost` when it is gone."""

    __slots__ = (
        "_buffered",
        "_on_free",
        "_on_lost",
        "_parser",
        "_read_paused",
        "_response",
        "_transport",
        "_write_paused",
        "address",
        "closed",
        "idle_since",
        "reused",
        "uploading",
    )

    def __init__(
        self, address: Address, on_free: Callable[["Connection"], None], on_lost: Callable[["Connection"], None]
    ) -> None:
        self.address = address
        self.closed = False
        self.reused = False
        self.idle_since = 0.0
        self._on_free = on_free
        self._on_lost = on_lost
        self._parser = ResponseParser()
        self._response: PooledResponse | None = None
        self.uploading = False
        self._read_paused = False
        self._write_paused = False
        self._buffered = 0

    def send(self, head: bytes, body: bytes) -> PooledResponse:
        """Sends a request, but of a large one only the head: then `uploading`, and `upload` sends the rest."""
        response = self._response = PooledResponse(self)
        request = b"%bcontent-length: %d\r\n\r\n" % (head, len(body))
        if len(body) <= UPLOAD_PIECE_BYTES:
            self._transport.write(request + body)
        else:
            self.uploading = True
            self._transport.write(request)
        return response

    async def upload(self, response: PooledResponse, body: bytes) -> None:
        """Sends a large body no faster than it is taken, and stops when an error answer comes early."""
        rest = memoryview(body)
        for start in range(0, len(rest), UPLOAD_PIECE_BYTES):
            while self._write_paused and not _ends_upload(response):
                await response.news()
            if _ends_upload(response):
                return
            self._transport.write(rest[start : start + UPLOAD_PIECE_BYTES])
        self.uploading = False

    def take(self) -> bytes:
        """The body bytes that have arrived and nobody took; may be empty."""
        pieces = self._parser.pieces
        taken = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._buffered = 0
        if self._read_paused and not self.closed:
            self._read_paused = False
            self._transport.resume_reading()
        return taken

    def fail(self, error: UpstreamError) -> None:
        """Ends the exchange with `error` and closes the connection at once."""
        self.abort()
        response, self._response = self._response, None
        if response is not None:
            response.settle(self.take(), error)
            response.wake()

    def abort(self) -> None:
        """Closes the connection without sending anything more."""
        if not self.closed:
            self.closed = True
            self._transport.abort()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None:
            # Bytes that nobody asked for: whatever they are, the next answer can't be told from them.
            self.abort()
            return
        parser = self._parser
        try:
            parser.feed(data)
        except UpstreamError as error:
            self.fail(self._located(error))
            return
        if not response.status and parser.head_complete:
            response.status = parser.status
            response.headers = parser.headers
        elif not (parser.pieces or parser.complete):
            return
        if parser.complete:
            self._finish(response)
        else:
            self._hold_back(len(data))
        response.wake()

    def eof_received(self) -> None:
        response = self._response
        if response is None:
            self.abort()
            return
        try:
            self._parser.eof()
        except UpstreamError as error:
            self.fail(self._stale(error) or self._located(error))
            return
        self._finish(response)
        response.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._on_lost(self)
        if self._response is not None:
            error = Truncated(f"the connection was lost: {exc or 'closed'}")
            self.fail(self._stale(error) or self._located(error))

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._response is not None:
            self._response.wake()

    # The steps of an exchange.

    def _finish(self, response: PooledResponse) -> None:
        parser = self._parser
        response.settle(self.take(), None)
        self._response = None
        if parser.keep_alive and not parser.surplus and not self.uploading and not self.closed:
            parser.reset()
            self.reused = True
            self._on_free(self)
        else:
            self.abort()

    def _hold_back(self, size: int) -> None:
        self._buffered += size
        if self._buffered > READ_AHEAD_BYTES and not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()

    def _stale(self, error: UpstreamError) -> UpstreamError | None:
        if self.reused and self._parser.untouched:
            return StaleConnection(f"{self.address.authority}: {error}")
        return None

    def _located(self, error: UpstreamError) -> UpstreamError:
        located = type(error)(f"{self.address.authority}: {error}")
        located.__cause__ = error.__cause__
        return located


def _ends_upload(response: PooledResponse) -> bool:
    """An error answer, or any whole one, makes the rest of the request pointless."""
    return response.status >= _FIRST_ERROR_STATUS or response.settled
