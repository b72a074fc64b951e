"""A gateway's connection without a socket: bytes in, and what the application was asked, and what was written."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aigw_daemon.gateway.server.connection import Connection
from aigw_daemon.gateway.server.exchange import Exchange
from aigw_daemon.gateway.server.server import Server
from aigw_daemon.gateway.wire import ApiError, status_line
from aigw_daemon.link.messages import GatewayView

_OF_THE_OFFER = frozenset({b"connection", b"upgrade", b"http2-settings"})


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.paused = False
        self.closed = False

    def write(self, data: Any) -> None:
        """Keep it."""
        self.written += data

    def get_write_buffer_size(self) -> int:
        """All is taken at once."""
        return 0

    def pause_reading(self) -> None:
        """No more bytes, please."""
        self.paused = True

    def resume_reading(self) -> None:
        """More bytes, please."""
        self.paused = False

    def can_write_eof(self) -> bool:
        """It can."""
        return True

    def write_eof(self) -> None:
        """The last byte was written."""
        self.closed = True

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.closed

    def close(self) -> None:
        """Close."""
        self.closed = True

    def abort(self) -> None:
        """Close."""
        self.closed = True


@dataclass(frozen=True)
class Seen:
    """A request as the application got it, without what its offer of an upgrade consists of."""

    method: str
    path: str
    query: bytes
    host: bytes | None
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    keep_alive: bool


@dataclass
class Application:
    """Takes in every request, and answers at once or in its turn."""

    seen: list[Seen] = field(default_factory=list)

    def admit(self, _exchange: Exchange) -> ApiError | None:
        """Everybody may."""
        return None

    async def __call__(self, exchange: Exchange) -> None:
        """Answer a little later."""
        await asyncio.sleep(0)
        self.at_once(exchange)

    def at_once(self, exchange: Exchange) -> bool:
        """Note the request and say hello."""
        headers = tuple(line for line in exchange.headers if line[0] not in _OF_THE_OFFER)
        self.seen.append(
            Seen(
                exchange.method,
                exchange.path,
                exchange.query,
                exchange.host,
                headers,
                exchange.body,
                exchange.keep_alive,
            )
        )
        exchange.respond(status_line(200), b"hello")
        return True


def read(*pieces: bytes) -> tuple[list[Seen], list[int]]:
    """What reached the application, and the statuses that were written. Needs a running loop."""
    application = Application()
    connection, wire = _connection(application, application.at_once)
    for piece in pieces:
        connection.data_received(piece)
    return application.seen, statuses(wire.written)


async def read_in_turn(*pieces: bytes) -> tuple[list[Seen], list[int], int]:
    """The same where each answer takes a while; and how many requests waited for theirs at most."""
    application = Application()
    connection, wire = _connection(application, None)
    most = 0
    for piece in pieces:
        connection.data_received(piece)
        most = max(most, len(connection._waiting))
        while wire.paused:  # noqa: ASYNC110  # a turn of the loop at a time
            await asyncio.sleep(0)
    while not connection.at_rest and not wire.closed:  # noqa: ASYNC110  # likewise
        await asyncio.sleep(0)
    return application.seen, statuses(wire.written), most


def _connection(application: Application, at_once: Callable[[Exchange], bool] | None) -> tuple[Connection, Wire]:
    wire = Wire()
    connection = Connection(Server(application, GatewayView(), lambda: b"req_test", at_once))
    connection.connection_made(wire)
    return connection, wire


def statuses(written: bytes) -> list[int]:
    """The statuses of answers, interim ones among them."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", written)]


def cuts(data: bytes, *places: int) -> list[bytes]:
    """The data in pieces that end at these places."""
    ends = [*sorted({place for place in places if 0 < place < len(data)}), len(data)]
    return [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
