"""How a connection takes requests in: each under limits, and whole before anybody is asked to answer it.

`Receiving` is what the transport and the parser call; `connection.Connection` on top of it answers, waits and closes.
"""

import logging
from abc import ABC, abstractmethod
from enum import IntEnum
from typing import TYPE_CHECKING

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from aigw_daemon.gateway.server import refusals
from aigw_daemon.gateway.server.exchange import Exchange, Headers
from aigw_daemon.gateway.server.reading import RequestReader
from aigw_daemon.gateway.wire import ApiError

if TYPE_CHECKING:
    from aigw_daemon.gateway.server.server import Server

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
_IDLE, _HEAD, _BODY, _LINGER = Phase.IDLE, Phase.HEAD, Phase.BODY, Phase.LINGER
_ARRIVING = frozenset({_HEAD, _BODY, Phase.BUSY})
"""Something may arrive in them: in the last one a further request, behind the one that is being answered."""
_NO_FRAMING = refusals.Framing()
"""Between two requests; nothing is noted in it."""


class Receiving(HttpToolsProtocol, ABC):
    """Reads requests off one connection."""

    def __init__(self, server: "Server") -> None:
        super().__init__(server.config, server.uvicorn_state, {}, server.loop)
        self._server = server
        self._reader = RequestReader(self)
        self.phase = Phase.NEW
        self.deadline = 0.0
        self._active: Exchange | None = None
        """The request that is being answered."""
        self._reading: Exchange | None = None
        """The request whose body is arriving."""
        self._waiting: list[Exchange] = []
        """Requests that came whole while another was being answered (pipelining), or was not taken yet."""
        self._deaf = False
        """Whether nothing that arrives counts any more: what has come whole is answered, and that is the end."""
        self._paused = False
        """Whether reading is paused: too much waits to be answered."""
        self._unread = b""
        """What had arrived by then, and was not looked at."""
        self._expected = False
        """Whether a client waits to be told to go on with its body."""
        self._unused = 0
        """Bytes received since the last that were a body's: a head or trailers that don't end."""
        self._body: list[bytes] = []
        self._body_size = 0
        self._head_size = 0
        self._framing = _NO_FRAMING
        self.url = b""
        self._headers: Headers = []

    # What becomes of a request is the connection's to say.

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send bytes."""

    @abstractmethod
    def refuse(self, error: ApiError) -> None:
        """Answer a request that can't be taken, then close."""

    @abstractmethod
    def _exchange(self, *, http10: bool) -> Exchange | None:
        """The request whose head is complete; None if its target is none."""

    @abstractmethod
    def _take(self, exchange: Exchange) -> None:
        """A request has come whole."""

    @property
    @abstractmethod
    def _busy(self) -> bool:
        """Whether an answer is under way, or waits for the client to take the one before it."""

    @abstractmethod
    def _pause_if_crammed(self) -> None:
        """Read no more for now if too much waits to be answered."""

    # What the transport calls.

    def data_received(self, data: bytes) -> None:
        if self.phase >= _LINGER or self._deaf:
            return
        if self._paused:
            self._unread += data
            return
        self._unused += len(data)
        try:
            unread = self._reader.feed(data)
            if self._paused:
                self._unread = unread
        except httptools.HttpParserCallbackError:
            log.exception("a request could not be taken in")
            self.refuse(ApiError(500, "the gateway failed to read the request", code="internal_error"))
        except httptools.HttpParserError as error:
            self.refuse(refusals.malformed(str(error)))
        if self._unused > self._server.limits.max_head and self.phase in _ARRIVING:
            self.refuse(refusals.large_head(self._server.limits.max_head))

    # What the parser calls.

    def on_message_begin(self) -> None:
        self.url = b""
        self._headers = []
        self._framing = refusals.Framing()
        self._head_size = 0
        self._reader.at_start = False
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
        reader, limits = self._reader, self._server.limits
        parser = reader.parser
        if self._head_size + len(self.url) > limits.max_head:
            self.refuse(refusals.large_head(limits.max_head))
            return
        http10 = reader.http10
        if parser.should_upgrade():
            self._decline_upgrade(http10=http10)
            return
        framing = self._framing
        refusal = framing.refusal(http10=http10, max_body=limits.max_body)
        exchange = None if refusal else self._exchange(http10=http10)
        if exchange is None:
            self.refuse(refusal or refusals.malformed("its target is neither a path nor an http URL"))
            return
        reader.length = framing.length
        self._admit(exchange)

    def on_body(self, body: bytes) -> None:
        self._unused = 0
        if self._reading is None:
            return
        self._body.append(body)
        self._body_size += len(body)
        if self._body_size > self._server.limits.max_body:
            self.refuse(refusals.large_body(self._server.limits.max_body))
        elif self._active is not None or self._waiting:
            self._pause_if_crammed()

    def on_message_complete(self) -> None:
        self._unused = 0
        self._reader.at_start = True
        self._framing = _NO_FRAMING
        exchange = self._reading
        if exchange is None:
            return
        self._reading = None
        exchange.body = b"".join(self._body)
        self._body.clear()
        self._body_size = 0
        self._take(exchange)

    # Steps.

    def _decline_upgrade(self, *, http10: bool) -> None:
        """No other protocol is spoken here: have the request read as if it hadn't offered one."""
        method = self._reader.parser.get_method()
        if method == b"CONNECT":
            self.refuse(refusals.malformed("CONNECT is for proxies, and this isn't one"))
            return
        version = b"1.0" if http10 else b"1.1"
        lines = [b"%b: %b\r\n" % line for line in self._headers if line[0] != b"upgrade"]
        self._reader.again = b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(lines))

    def _admit(self, exchange: Exchange) -> None:
        """Ask the application before the body is read, so that nobody uploads for a refusal."""
        exchange.rejection = self._server.application.admit(exchange)
        framing = self._framing
        if exchange.rejection is not None and framing.has_body:
            self.refuse(exchange.rejection)
            return
        self._reading = exchange
        self._expected = framing.expects_continue and framing.has_body and not exchange.http10
        if not self._busy:
            self.phase = _BODY
            self.deadline = self.loop.time() + self._server.limits.body_timeout
            if self._expected:
                self._tell_to_go_on()

    def _tell_to_go_on(self) -> None:
        self._expected = False
        self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
