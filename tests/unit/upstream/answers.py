"""What a parser makes of raw answers: ours and h11's, in one form that can be compared."""

from typing import Literal, NamedTuple

import h11

from aigw_daemon.gateway.upstream.base import Header, ProtocolViolation, Truncated
from aigw_daemon.gateway.upstream.parser import ResponseParser

Kind = Literal["complete", "truncated", "violation"]


class Outcome(NamedTuple):
    """The answer that was read, when it is complete; `reusable` says whether the connection may serve the next."""

    kind: Kind
    status: int = 0
    headers: tuple[Header, ...] = ()
    body: bytes = b""
    reusable: bool = False


def ours(pieces: list[bytes]) -> Outcome:
    """Feeds the pieces to our parser, then an end of file."""
    parser = ResponseParser()
    try:
        for piece in pieces:
            parser.feed(piece)
        reusable = parser.complete and parser.keep_alive and not parser.surplus
        parser.eof()
    except ProtocolViolation:
        return Outcome("violation")
    except Truncated:
        return Outcome("truncated")
    return Outcome("complete", parser.status, tuple(parser.headers), b"".join(parser.pieces), reusable)


def reference(raw: bytes) -> Outcome:
    """What h11 makes of the same bytes and an end of file."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(raw)
    events: list[h11.Event] = []
    outcome = _drain(connection, events)
    if outcome is not None:
        return outcome
    connection.receive_data(b"")
    return _drain(connection, events) or Outcome("truncated")


def _drain(connection: h11.Connection, events: list[h11.Event]) -> Outcome | None:
    ended = connection.trailing_data[1]
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            return Outcome("truncated" if ended else "violation")
        if isinstance(event, h11.ConnectionClosed):
            return Outcome("truncated")
        if not isinstance(event, h11.Event):
            return None
        events.append(event)
        if isinstance(event, h11.EndOfMessage):
            return _complete(connection, events, ended)


def _complete(connection: h11.Connection, events: list[h11.Event], ended: bool) -> Outcome:
    response = next(event for event in events if isinstance(event, h11.Response))
    body = b"".join(bytes(event.data) for event in events if isinstance(event, h11.Data))
    reusable = connection.their_state is h11.DONE and not connection.trailing_data[0].strip(b"\r\n") and not ended
    headers = tuple((bytes(name), bytes(value)) for name, value in response.headers)
    return Outcome("complete", response.status_code, headers, body, reusable)


def every_split(raw: bytes) -> list[list[bytes]]:
    """The bytes cut in two at every place, and one by one."""
    return [[raw[:cut], raw[cut:]] for cut in range(1, len(raw))] + [[raw[at : at + 1] for at in range(len(raw))]]
