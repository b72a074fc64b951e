"""What the gateway asks of an HTTP client for engines: addresses, answers and the few errors it tells apart.

The pooled client in `pool.py` is the implementation for engines on this machine. Everything else in the gateway
knows only this file, so that a cloud client or a test can take its place.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Protocol

import msgspec

from aigw_daemon.network.egress import DIRECT, Egress
from aigw_daemon.network.proxies import SOCKS

Header = tuple[bytes, bytes]

_DEFAULT_PORTS = {False: 80, True: 443}
# A line end or NUL inside any part would let one request pass for two.
_BREAKS_A_LINE = re.compile(r"[\x00\r\n]")


class Address(msgspec.Struct, frozen=True, cache_hash=True):
    """Where an upstream listens. With `tls`, its certificate must be valid for `host`."""

    host: str
    port: int
    tls: bool = False
    egress: Egress = DIRECT
    """The way to it."""

    @property
    def authority(self) -> str:
        """The value of the Host header: brackets around IPv6, no port where it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.tls] else f"{host}:{self.port}"

    @property
    def is_forwarded(self) -> bool:
        """Whether an HTTP proxy reads its requests, rather than a tunnel through one carrying them.

        Their request line has the whole URL (RFC 9112, 3.2.2), and the proxy's credentials are a header.
        """
        proxy = self.egress.proxy
        return proxy is not None and proxy.scheme != SOCKS and not self.tls


class UpstreamError(Exception):
    """An upstream could not be asked, or did not answer in full.

    `reason` is a short word that stays the same between versions, for records and metrics; the text is a sentence.
    """

    reason = "upstream_error"


class ConnectFailed(UpstreamError):
    """No connection came about, so nothing was sent.

    `reason` is refused, connect_timeout, tls, unresolved, proxy or unreachable.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.after_stale = False
        """Whether a kept connection broke under the request just before: then it may have reached the upstream."""

    @property
    def gone(self) -> bool:
        """Whether nobody may be there any more, rather than somebody who is slow or not trusted."""
        return self.reason in {"refused", "unreachable"}

    @property
    def refused(self) -> bool:
        """The host answered, but nobody listens on the port (rule B8: demote at once)."""
        return self.reason == "refused"


class Truncated(UpstreamError):
    """The connection ended before the answer did (rule B17: never taken for a short answer)."""

    reason = "truncated"


class ProtocolViolation(UpstreamError):
    """What came back is not an HTTP/1 answer that can be trusted, or its headers are too large."""

    reason = "protocol_violation"


class BodyTooLarge(UpstreamError):
    """The body is longer than the caller was ready to hold."""

    reason = "body_too_large"


class Response(ABC):
    """One answer, whose body may still be arriving. Header names are lower-cased; trailers are not headers.

    Whoever got it reads it to its end or calls `close`, else its connection stays taken.
    """

    __slots__ = ("headers", "status")

    status: int
    headers: list[Header]

    def header(self, name: bytes) -> bytes | None:
        """The first value of the header `name` (lower case), or None."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    @property
    def content_type(self) -> bytes:
        """The media type without its parameters, lower-cased: `text/event-stream`; empty when there is none."""
        return (self.header(b"content-type") or b"").partition(b";")[0].strip().lower()

    async def read(self, limit: int) -> bytes:
        """The whole rest of the body. Raises BodyTooLarge above `limit` bytes, and what `chunk` raises."""
        pieces: list[bytes] = []
        size = 0
        if (whole := self.body_if_complete()) is not None:
            pieces.append(whole)
            size = len(whole)
        while size <= limit and (piece := await self.chunk()) is not None:
            pieces.append(piece)
            size += len(piece)
        if size > limit:
            self.close()
            raise BodyTooLarge(f"the upstream's answer is longer than the limit of {limit} bytes")
        return b"".join(pieces)

    @abstractmethod
    async def chunk(self) -> bytes | None:
        """All that arrived since the last call, waiting for something to arrive; None at the complete end.

        Never empty. Raises Truncated or ProtocolViolation after the last byte that did arrive.
        """

    @abstractmethod
    def body_if_complete(self) -> bytes | None:
        """The rest of the body if it is all here already, else None. Like `read`, it hands the bytes out once."""

    @abstractmethod
    def close(self) -> None:
        """Drops an unfinished answer together with its connection, at once. Does nothing after the end, or twice."""


class Upstream(Protocol):
    """Sends a request and gives back its answer as soon as the head of the answer is there."""

    async def request(self, address: Address, head: bytes, body: bytes) -> Response:
        """Asks `address`. `head` comes from `request_head`; Content-Length is added here.

        Raises ConnectFailed, Truncated or ProtocolViolation. Cancelling closes the connection at once.
        Redirects are answers like any other (rule S7).
        """
        ...


def request_head(method: str, path: str, host: str, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """The request line and headers, without Content-Length and the blank line, which the client adds.

    Pure, so that a caller can keep the result and send it many times. Raises ValueError for a part that would
    break out of its line.
    """
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}", *(f"{name}: {value}" for name, value in headers)]
    for line in lines:
        if _BREAKS_A_LINE.search(line):
            raise ValueError(f"a request head can't hold a line end or NUL: {line!r}")
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")
