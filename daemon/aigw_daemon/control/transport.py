"""HTTP/1.1 over a Unix socket, for the control API's client: one connection per request, nothing but sockets imported.

Importing a general HTTP client takes longer than most commands take to ask and print.
"""

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlencode

_LONGEST_LINE = 65536
_PIECE = 65536
_ERROR = 400


class NobodyListens(Exception):
    """No connection can be made to the socket."""


class Broken(Exception):
    """The connection was lost, or what came isn't an HTTP answer."""


class Answer:
    """The status and body of one answer; the body is read once, whole or by lines."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.status = _status(_line(stream))
        self._headers = dict(_headers(stream))

    @property
    def is_error(self) -> bool:
        """Whether the status is 4xx or 5xx."""
        return self.status >= _ERROR

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self._pieces())

    def lines(self) -> Iterator[bytes]:
        """Each line without its end, as soon as it is there. Lines end at line feeds alone."""
        begun = b""
        for piece in self._pieces():
            *whole, begun = (begun + piece).split(b"\n")
            yield from whole
        if begun:
            yield begun

    def _pieces(self) -> Iterator[bytes]:
        if self._headers.get("transfer-encoding", "").lower() == "chunked":
            return self._chunks()
        length = self._headers.get("content-length")
        return self._rest() if length is None else iter([_exactly(self._stream, int(length))])

    def _chunks(self) -> Iterator[bytes]:
        while size := int(_line(self._stream).partition(b";")[0], 16):
            yield _exactly(self._stream, size)
            _line(self._stream)
        while _line(self._stream):
            pass

    def _rest(self) -> Iterator[bytes]:
        """An answer without a length ends with the connection."""
        while piece := self._stream.read1(_PIECE):  # type: ignore[attr-defined]  # makefile("rb") is buffered
            yield piece


def connected(path: Path, timeout: float) -> socket.socket:
    """A connection to the socket at ``path``. Raises NobodyListens, and TimeoutError after ``timeout`` seconds."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(timeout)
        connection.connect(str(path))
    except TimeoutError:
        connection.close()
        raise
    except OSError as error:
        connection.close()
        raise NobodyListens(str(error)) from error
    return connection


@contextmanager
def asking(
    connection: socket.socket,
    method: str,
    target: str,
    *,
    body: Any = None,
    query: Mapping[str, Any] | None = None,
    timeout: float | None,
) -> Iterator[Answer]:
    """Send one request, whose answer lasts as long as the context; closes the connection.

    ``body`` is sent as JSON. ``timeout`` bounds each wait for more, in seconds; None: no bound. Raises TimeoutError
    and Broken.
    """
    with connection, _broken(), connection.makefile("rb") as stream:
        connection.sendall(_request(method, target, body, query))
        connection.settimeout(timeout)
        yield Answer(stream)


@contextmanager
def _broken() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise
    except (OSError, ValueError) as error:
        raise Broken(str(error)) from error


def _request(method: str, target: str, body: Any, query: Mapping[str, Any] | None) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    asked = urlencode({name: _in_query(value) for name, value in (query or {}).items()})
    head = [
        f"{method} {target}{f'?{asked}' if asked else ''} HTTP/1.1",
        # A placeholder: the request goes to the socket, whatever it says.
        "host: localhost",
        "connection: close",
        *([f"content-type: application/json\r\ncontent-length: {len(content)}"] if content else []),
    ]
    return "\r\n".join([*head, "", ""]).encode() + content


def _in_query(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _status(line: bytes) -> int:
    version, _, rest = line.partition(b" ")
    if not version.startswith(b"HTTP/1."):
        raise Broken("the answer isn't HTTP")
    return int(rest[:3])


def _headers(stream: BinaryIO) -> Iterator[tuple[str, str]]:
    while line := _line(stream):
        name, _, value = line.decode("latin-1").partition(":")
        yield name.strip().lower(), value.strip()


def _line(stream: BinaryIO) -> bytes:
    line = stream.readline(_LONGEST_LINE)
    if not line.endswith(b"\n"):
        raise Broken("the connection ended in the middle of an answer")
    return line.rstrip(b"\r\n")


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise Broken("the connection ended in the middle of an answer")
    return data
