"""One TCP connection of a client: uvicorn's httptools protocol with the limits that it lacks (rules B14, B15, S10).

uvicorn has no deadline for receiving a request, no size limits, and starts the application before the body is here.
Here a request is taken in whole, under limits, and refused in OpenAI's envelope. There are no timers: each connection
holds one deadline, which the server's watch looks at four times a second, so that a request costs no timer either.
"""

import asyncio
import logging
from enum import IntEnum
from math import inf
from typing import TYPE_CHECKING

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from aigw_daemon.gateway.server import refusals
from aigw_daemon.gateway.server.exchange import Exchange, Headers, Interruption
from aigw_daemon.gateway.wire import ApiError

if TYPE_CHECKING:
    from aigw_daemon.gateway.server.server import Server

KEEP_ALIVE_SECONDS = 75.0
"""How long an idle connection is kept: above what clients' pools keep theirs, so that the client closes first."""
STALL_SECONDS = 30.0
"""A client that takes no byte for this long is cut (rule B13)."""
LINGER_SECONDS = 3.0
"""How long bytes are read and thrown away after a refusal, so that the client gets to read it before a reset."""
EXACT_SECONDS = 5.0
"""A request's own deadline, where it is no longer than this, is kept to the millisecond."""
MAX_PIPELINED = 16
MAX_PIPELINED_BYTES = 1024 * 1024
"""Of bodies that arrive while another request is being answered."""
MOST_UNTAKEN = 64 * 1024
"""Bytes of earlier answers that a client may not have taken when the next request of its is begun."""

log = logging.getLogger(__name__)


class Phase(IntEnum):
    """What the connection waits for. From LINGER on nothing that arrives is looked at."""

    NEW = 0
    IDLE = 1
    HEAD = 2
    BODY = 3
    BUSY = 4
    LINGER = 5
    CLOSING = 6


# Looking a member up in its enum costs more than comparing it (Python 3.11), and each request does so a dozen times.
_IDLE, _HEAD, _BODY, _BUSY, _LINGER = Phase.IDLE, Phase.HEAD, Phase.BODY, Phase.BUSY, Phase.LINGER
_ARRIVING = frozenset({_HEAD, _BODY, _BUSY})
"""Something may arrive in them: in the last one a further request, behind the one that is being answered."""


class Connection(HttpToolsProtocol):
    """Reads requests off one connection and hands each, whole, to the server's application."""

    def __init__(self, server: "Server") -> None:
        super().__init__(server.config, server.uvicorn_state, {}, server.loop)
        self._server = server
        self.phase = Phase.NEW
        self.deadline = inf
        self.write_paused = False
        self._writable: asyncio.Future[None] | None = None
        self._written = 0
        self._taken = 0
        self._taken_at = 0.0
        self._active: Exchange | None = None
        """The request that is being answered."""
        self._reading: Exchange | None = None
        """The request whose body is arriving."""
        self._waiting: list[Exchange] = []
        """Requests that came whole while another was being answered (pipelining), or was not taken yet."""
        self._deaf = False
        """Whether nothing that arrives counts any more: what has come whole is answered, and that is the end."""
        self._unused = 0
        """Bytes received since the last that were a body's: a head or trailers that don't end."""
        self._body: list[bytes] = []
        self._body_size = 0
        self._head_size = 0
        self._framing = refusals.Framing()
        self.url = b""
        self._headers: Headers = []

    # What the transport calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.deadline = self.loop.time() + self._server.limits.header_timeout

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the name is asyncio's
        self._server.connection_gone(self)
        self.phase = Phase.CLOSING
        self.deadline = inf
        self._reading = None
        self._waiting.clear()
        if self._active is not None:
            self._active.interrupt(Interruption.CLIENT_LEFT)
        self._wake_writer()

    def data_received(self, data: bytes) -> None:
        if self.phase >= _LINGER or self._deaf:
            return
        self._unused += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # No other protocol is spoken here: the request is answered as it is, and nothing after it is read.
            self._last_request()
        except httptools.HttpParserCallbackError:
            log.exception("a request could not be taken in")
            self.refuse(ApiError(500, "the gateway failed to read the request", code="internal_error"))
        except httptools.HttpParserError as error:
            self.refuse(refusals.malformed(str(error)))
        if self._unused > self._server.limits.max_head and self.phase in _ARRIVING:
            self.refuse(refusals.large_head(self._server.limits.max_head))

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        self._wake_writer()
        self._go_on()

    # What the parser calls.

    def on_message_begin(self) -> None:
        self.url = b""
        self._headers = []
        self._framing = refusals.Framing()
        self._head_size = 0
        if self.phase is _IDLE:
            self.deadline = self.loop.time() + self._server.limits.header_timeout
        self.phase = max(self.phase, _HEAD)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading is not None:
            return  # a trailer is not a header
        name = name.lower()
        self._head_size += len(name) + len(value) + 4
        if name in refusals.NOTED:
            self._framing.note(name, value)
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.phase >= _LINGER:
            return
        limits = self._server.limits
        if self._head_size + len(self.url) > limits.max_head:
            self.refuse(refusals.large_head(limits.max_head))
            return
        http10 = self.parser.get_http_version() == "1.0"
        refusal = self._framing.refusal(http10=http10, max_body=limits.max_body)
        exchange = None if refusal else self._exchange(http10=http10)
        if exchange is None:
            self.refuse(refusal or refusals.malformed("its target is not a path"))
            return
        self._admit(exchange)

    def on_body(self, body: bytes) -> None:
        self._unused = 0
        if self._reading is None:
            return
        self._body.append(body)
        self._body_size += len(body)
        if self._body_size > self._server.limits.max_body:
            self.refuse(refusals.large_body(self._server.limits.max_body))
        elif self._busy and self._body_size + sum(len(one.body) for one in self._waiting) > MAX_PIPELINED_BYTES:
            self._last_request()

    def on_message_complete(self) -> None:
        self._unused = 0
        exchange = self._reading
        if exchange is None:
            return
        self._reading = None
        exchange.body = b"".join(self._body)
        self._body.clear()
        self._body_size = 0
        if not self._busy and not self._crowded:
            self._begin(exchange)
        elif len(self._waiting) < MAX_PIPELINED:
            self._waiting.append(exchange)
            if self._active is None:
                self._park()
        else:
            self._last_request()

    # What an exchange calls.

    @property
    def date_line(self) -> bytes:
        """The Date header, made once a second."""
        return self._server.date_line

    @property
    def remaining(self) -> float:
        """Seconds until the deadline of the present phase."""
        return self.deadline - self.loop.time()

    def allow(self, seconds: float) -> None:
        """Move the deadline of what is being answered to so many seconds from now."""
        self.deadline = self.loop.time() + seconds
        if seconds <= EXACT_SECONDS:
            # The watch looks four times a second, which is too coarse for so short a time.
            self.loop.call_at(self.deadline, self._look)

    def closes_after(self, exchange: Exchange) -> bool:
        """Whether the connection ends with this answer."""
        return not exchange.keep_alive or self._server.draining

    def write(self, data: bytes) -> None:
        """Send bytes. What the client doesn't take is kept, and the watch cuts a client that takes none."""
        self._written += len(data)
        self.transport.write(data)

    async def writable(self) -> None:
        """Wait until the client has caught up; the handler is cancelled if it leaves or stalls meanwhile."""
        while self.write_paused:
            self._writable = self.loop.create_future()
            await self._writable

    def exchange_complete(self, exchange: Exchange) -> None:
        """Go on to the next request, or close."""
        self._active = None
        if self.phase >= _LINGER:
            return
        if self.closes_after(exchange):
            self._close_after_flush()
        elif not self._waiting:
            self._rest()
        elif self._crowded:
            self._park()
        else:
            self._begin(self._waiting.pop(0))

    def abort(self) -> None:
        """Cut the connection at once."""
        self.phase = Phase.CLOSING
        self.transport.abort()

    # What the server calls.

    @property
    def at_rest(self) -> bool:
        """Whether no request is under way, neither arriving nor being answered."""
        return self.phase <= _IDLE

    def close_if_at_rest(self) -> None:
        """Part of a drain: whoever has sent nothing by now is let go."""
        if self.at_rest:
            self._close_after_flush()

    def interrupt(self, reason: Interruption) -> None:
        """Cancel what is being answered; a connection that answers nothing is cut."""
        if self._active is not None and self._active.task is not None:
            self._active.interrupt(reason)
        else:
            self.abort()

    def check(self, now: float) -> None:
        """Called by the watch: holds the deadline of the present phase, and the one for taking bytes."""
        if now >= self.deadline:
            self._out_of_time()
        elif self._stalled(now):
            self._cut_stalled()

    def _look(self) -> None:
        self.check(self.loop.time())

    def refuse(self, error: ApiError) -> None:
        """Answer a request that can't be taken, then close, reading on a little so that the client sees the answer."""
        if self.phase >= _LINGER:
            # The parser goes on to the end of what arrived, and may find fault with what has been refused already.
            return
        self._reading = None
        self._body.clear()
        if self._busy:
            # An answer is under way: nothing can be written between, so the connection ends after it.
            self._last_request()
            return
        body = error.body()
        lines = (error.head(), self.date_line, self._server.request_id(), len(body), body)
        self.write(b"%b%bx-aigw-request-id: %b\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % lines)
        self._linger()

    # Steps.

    def _exchange(self, *, http10: bool) -> Exchange | None:
        target = self._server.targets[self.url]
        if target is None:
            return None
        path, query = target
        framing = self._framing
        return Exchange(
            self,
            method=self.parser.get_method().decode("ascii"),
            path=path,
            query=query,
            headers=self._headers,
            host=framing.host,
            origin=framing.origin,
            controls=framing.controls,
            http10=http10,
            keep_alive=not http10 and self.parser.should_keep_alive(),
        )

    def _admit(self, exchange: Exchange) -> None:
        """Ask the application before the body is read, so that nobody uploads for a refusal."""
        exchange.rejection = self._server.application.admit(exchange)
        if exchange.rejection is not None and self._framing.has_body:
            self.refuse(exchange.rejection)
            return
        self._reading = exchange
        if not self._busy:
            self.phase = _BODY
            self.deadline = self.loop.time() + self._server.limits.body_timeout
            if self._framing.expects_continue:
                self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    @property
    def _busy(self) -> bool:
        """Whether an answer is under way, or waits for the client to take the one before it."""
        return self._active is not None or bool(self._waiting)

    @property
    def _crowded(self) -> bool:
        """Whether the client hasn't taken what it got. Of what was written a moment ago nobody has told us yet."""
        return self.write_paused or self.transport.get_write_buffer_size() > MOST_UNTAKEN

    def _park(self) -> None:
        """Who doesn't take one answer gets no further one; the watch cuts a client that takes nothing at all."""
        self.phase, self.deadline = _BUSY, inf
        if not self.write_paused:
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """The client may have caught up."""
        if self._active is None and self._waiting and not self.write_paused and self.phase < _LINGER:
            self._begin(self._waiting.pop(0))

    def _begin(self, exchange: Exchange) -> None:
        self._active = exchange
        self.phase = _BUSY
        self.deadline = self.loop.time() + self._server.limits.request_timeout
        if exchange.rejection is not None:
            exchange.reject(exchange.rejection, self._server.request_id())
        else:
            exchange.task = self._server.run(exchange)

    def _rest(self) -> None:
        """Nothing is being answered: wait for what has begun to arrive, or for whatever comes."""
        limits = self._server.limits
        if self._reading is not None:
            self.phase, patience = _BODY, limits.body_timeout
        elif self._unused:
            self.phase, patience = _HEAD, limits.header_timeout
        else:
            self.phase, patience = _IDLE, KEEP_ALIVE_SECONDS
        self.deadline = self.loop.time() + patience

    def _last_request(self) -> None:
        """Answer what has come whole, take nothing more, and close."""
        self._deaf, self._reading = True, None
        self._body.clear()
        self._headers = []
        last = self._waiting[-1] if self._waiting else self._active
        if last is not None:
            last.keep_alive = False
        else:
            self._close_after_flush()

    def _out_of_time(self) -> None:
        limits = self._server.limits
        match self.phase:
            case Phase.HEAD:
                self.refuse(refusals.slow_head(limits.header_timeout))
            case Phase.BODY:
                self.refuse(refusals.slow_body(limits.body_timeout))
            case Phase.BUSY if self._active is not None:
                self.deadline = inf
                self._active.interrupt(Interruption.DEADLINE)
            case Phase.NEW | Phase.IDLE:
                self._close_after_flush()
            case _:
                self.abort()

    def _stalled(self, now: float) -> bool:
        held = self.transport.get_write_buffer_size()
        taken = self._written - held
        if not held or taken != self._taken:
            self._taken = taken
            self._taken_at = now
            return False
        return now - self._taken_at >= STALL_SECONDS

    def _cut_stalled(self) -> None:
        if self._active is not None:
            self._active.interrupt(Interruption.STALLED)
        self.abort()

    def _linger(self) -> None:
        self.phase = _LINGER
        self.deadline = self.loop.time() + LINGER_SECONDS
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _close_after_flush(self) -> None:
        self.phase = Phase.CLOSING
        self.deadline = self.loop.time() + STALL_SECONDS
        self.transport.close()

    def _wake_writer(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
