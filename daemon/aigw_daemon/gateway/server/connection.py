"""One TCP connection of a client: uvicorn's httptools protocol with the limits that it lacks (rules B14, B15, S10).

uvicorn has no deadline for receiving a request, no size limits, and starts the application before the body is here.
Here a request is taken in whole, under limits, and refused in OpenAI's envelope. There are no timers: each connection
holds one deadline, which the server's watch looks at four times a second, so that a request costs no timer either.
"""

import asyncio
import select
from math import inf
from typing import TYPE_CHECKING

from aigw_daemon.gateway.server import refusals
from aigw_daemon.gateway.server.exchange import Exchange, Interruption
from aigw_daemon.gateway.server.receiving import Phase, Receiving
from aigw_daemon.gateway.wire import ID_LINES, ApiError

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
"""Requests that wait behind the one being answered; no more are read meanwhile."""
MAX_PIPELINED_BYTES = 1024 * 1024
"""Likewise of their bodies."""
MOST_UNTAKEN = 64 * 1024
"""Bytes of earlier answers that a client may not have taken when the next request of its is begun."""
_GONE = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
"""What the kernel says of a connection that the other side has closed, whether all of it was read or not."""
# Looking a member up in its enum costs more than comparing it: see `receiving`.
_IDLE, _HEAD, _BODY, _BUSY, _LINGER = Phase.IDLE, Phase.HEAD, Phase.BODY, Phase.BUSY, Phase.LINGER


class Connection(Receiving):
    """Hands each request of one connection, whole, to the server's application, and sends the answers."""

    def __init__(self, server: "Server") -> None:
        super().__init__(server)
        self.deadline = inf
        self.write_paused = False
        self._writable: asyncio.Future[None] | None = None
        self._written = 0
        self._taken = 0
        self._taken_at = 0.0

    # What the transport calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.deadline = self.loop.time() + self._server.limits.header_timeout

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the name is asyncio's
        self._server.connection_gone(self)
        self.phase = Phase.CLOSING
        self.deadline = inf
        self._reading = None
        self._unread = b""
        self._waiting.clear()
        if self._active is not None:
            self._active.interrupt(Interruption.CLIENT_LEFT)
        self._wake_writer()

    def eof_received(self) -> None:
        self._look_at_sent()

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        self._wake_writer()
        self._go_on()

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

    @property
    def unsent(self) -> int:
        """Bytes that the kernel hasn't taken; those of this turn of the loop may not be counted yet."""
        return self.transport.get_write_buffer_size()

    def look_at_sent_soon(self) -> None:
        """Tell the active exchange in the next turn whether the kernel has taken what was written."""
        self.loop.call_soon(self._look_at_sent)

    def _look_at_sent(self) -> None:
        # A transport that is closing has thrown away what it held.
        if self._active is not None and not self.transport.is_closing():
            self._active.sent(whole=not self.unsent)

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
        if self._paused:
            self._read_on_soon()

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
        elif self._paused and self._has_gone():
            self.abort()
        else:
            self._look_at_sent()

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
        body, name = error.body(), self._server.request_id()
        lines = (error.head(), self.date_line, self._cors(), ID_LINES % (name, name), len(body), body)
        self.write(b"%b%b%b%bconnection: close\r\ncontent-length: %d\r\n\r\n%b" % lines)
        self._linger()

    # Steps.

    def _exchange(self, *, http10: bool) -> Exchange | None:
        target = self._server.targets[self.url]
        if target is None:
            return None
        path, query, authority = target
        framing, parser = self._framing, self._reader.parser
        exchange = Exchange(
            self,
            method=parser.get_method().decode("ascii"),
            path=path,
            query=query,
            headers=self._headers,
            # A URL in the request line is what is asked for, whatever the Host header says (RFC 9112, 3.2.2).
            host=framing.host if authority is None else authority,
            origin=framing.origin,
            controls=framing.controls,
            http10=http10,
            keep_alive=not http10 and parser.should_keep_alive(),
        )
        if framing.origin is not None:
            exchange.cors = self._cors()
        return exchange

    def _cors(self) -> bytes:
        """Header lines for the page that asks, on whatever it is answered: the one place that puts them there."""
        origin = self._framing.origin
        return b"" if origin is None else self._server.cors(origin)

    def _take(self, exchange: Exchange) -> None:
        if not self._busy and not self._crowded:
            self._begin(exchange)
            return
        self._waiting.append(exchange)
        if self._active is None:
            self._park()
        self._pause_if_crammed()

    @property
    def _busy(self) -> bool:
        """Whether an answer is under way, or waits for the client to take the one before it."""
        return self._active is not None or bool(self._waiting)

    @property
    def _crowded(self) -> bool:
        """Whether the client hasn't taken what it got. Of what was written a moment ago nobody has told us yet."""
        return self.write_paused or self.transport.get_write_buffer_size() > MOST_UNTAKEN

    @property
    def _crammed(self) -> bool:
        """Whether so much waits behind the request being answered that no more is to be read for now."""
        if not self._busy:
            return False
        waiting = self._waiting
        held = self._body_size + sum(len(one.body) for one in waiting)
        return len(waiting) >= MAX_PIPELINED or held > MAX_PIPELINED_BYTES

    def _pause_if_crammed(self) -> None:
        if not self._crammed:
            return
        self._paused = self._reader.stopped = True
        self.transport.pause_reading()

    def _read_on_soon(self) -> None:
        # Not at once: an answer may be given in the midst of the parser's work.
        self.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self._paused or self._crammed or self.phase >= _LINGER:
            return
        self._paused = self._reader.stopped = False
        unread, self._unread = self._unread, b""
        self.data_received(unread)
        if not self._paused:
            self.transport.resume_reading()

    def _stop_reading(self) -> None:
        """Nothing that comes is looked at any more, but whether the client leaves is still to be seen."""
        self._reader.stopped = True
        self._unread = b""
        if self._paused:
            self._paused = False
            self.transport.resume_reading()

    def _has_gone(self) -> bool:
        """Whether the client has closed: while reading is paused, the transport doesn't notice."""
        descriptor = self.transport.get_extra_info("socket").fileno()
        if descriptor < 0 or self.transport.is_closing():
            return False  # connection_lost is on its way
        poll = select.poll()
        poll.register(descriptor, _GONE)
        return bool(poll.poll(0))

    def _park(self) -> None:
        """Who doesn't take one answer gets no further one; the watch cuts a client that takes nothing at all."""
        self.phase, self.deadline = _BUSY, inf
        if not self.write_paused:
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """The client may have caught up."""
        if self._active is None and self._waiting and not self.write_paused and self.phase < _LINGER:
            self._begin(self._waiting.pop(0))
            if self._paused:
                self._read_on_soon()

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
            if self._expected and not self._body:
                self._tell_to_go_on()
        elif self._unused:
            self.phase, patience = _HEAD, limits.header_timeout
        else:
            self.phase, patience = _IDLE, KEEP_ALIVE_SECONDS
        self.deadline = self.loop.time() + patience

    def _last_request(self) -> None:
        """Answer what has come whole, take nothing more, and close."""
        self._deaf, self._reading = True, None
        self._stop_reading()
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
        self._stop_reading()
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
