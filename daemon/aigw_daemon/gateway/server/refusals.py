"""What is answered to a request that isn't one: broken, too large, too slow (rules B14, B15, S10). Pure.

Each refusal is OpenAI's envelope like any other error, and the connection closes after it.
"""

from aigw_daemon.gateway import controls
from aigw_daemon.gateway.wire import ApiError
from aigw_daemon.web_names import AUTHORITY


def malformed(detail: str) -> ApiError:
    """400: not HTTP/1.1 as RFC 9112 has it."""
    return ApiError(400, f"the request is not valid HTTP: {detail}", code="bad_request")


def slow_head(seconds: float) -> ApiError:
    """408: the request line and headers took too long."""
    return ApiError(408, f"the request's headers did not arrive within {seconds:g} s")


def slow_body(seconds: float) -> ApiError:
    """408: the body took too long."""
    return ApiError(408, f"the request's body did not arrive within {seconds:g} s", code="body_timeout")


def large_head(limit: int) -> ApiError:
    """431."""
    return ApiError(431, f"the request's headers are larger than the limit of {limit} bytes")


def large_body(limit: int) -> ApiError:
    """413."""
    return ApiError(413, f"the request's body is larger than the limit of {limit} bytes")


_REMEMBERED = 1_024
_GOOD_HOSTS: set[bytes] = set()
"""Host headers that were found to be well-formed."""


class Framing:
    """What the headers of one request say about its host and body; filled while they arrive."""

    __slots__ = (
        "content_encoding",
        "controls",
        "expects_continue",
        "host",
        "hosts",
        "length",
        "origin",
        "sized",
        "transfer_encoding",
    )

    def __init__(self) -> None:
        self.host: bytes | None = None
        self.hosts = 0
        self.origin: bytes | None = None
        self.length = 0
        """The bytes of the body; -1 where it comes in chunks."""
        self.sized = False
        """Whether there is a Content-Length."""
        self.transfer_encoding: bytes | None = None
        self.content_encoding: bytes | None = None
        self.expects_continue = False
        self.controls: tuple[tuple[bytes, bytes], ...] | None = None

    def note(self, name: bytes, value: bytes) -> None:
        """Take in one header out of `NOTED`."""
        match name:
            case b"host":
                self.host = value
                self.hosts += 1
            case b"origin":
                # Two make one that is no origin, and so is refused.
                self.origin = value if self.origin is None else self.origin + b", " + value
            case b"content-length":
                # The parser takes nothing but digits.
                self.length = int(value)
                self.sized = True
            case b"transfer-encoding":
                before = self.transfer_encoding
                self.transfer_encoding = value if before is None else before + b"," + value
                self.length = -1
            case b"content-encoding":
                self.content_encoding = value
            case b"expect":
                self.expects_continue = value.lower() == b"100-continue"
            case _:
                self.controls = (*(self.controls or ()), (name, value))

    @property
    def has_body(self) -> bool:
        """Whether bytes follow the headers."""
        return self.length != 0

    def refusal(self, *, http10: bool, max_body: int) -> ApiError | None:
        """Why this request can't be taken, or None. Smuggling needs two readings of one request: there is one."""
        if self.hosts == 1 and self.host in _GOOD_HOSTS and self.transfer_encoding is self.content_encoding is None:
            # The usual request, without a call for each question.
            return large_body(max_body) if self.length > max_body else None
        return self._bad_host(http10=http10) or self._bad_transfer(http10=http10) or self._bad_body(max_body)

    def _bad_host(self, *, http10: bool) -> ApiError | None:
        if self.hosts > 1:
            return malformed("it has more than one Host header")
        if self.host is None:
            return None if http10 else malformed("it has no Host header")
        if not AUTHORITY.fullmatch(self.host):
            return malformed("its Host header is neither a name nor an address with an optional port")
        if len(_GOOD_HOSTS) < _REMEMBERED:
            _GOOD_HOSTS.add(self.host)
        return None

    def _bad_transfer(self, *, http10: bool) -> ApiError | None:
        if self.transfer_encoding is None:
            return None
        if self.sized:
            return malformed("it has both Content-Length and Transfer-Encoding")
        if http10 or self.transfer_encoding.strip().lower() != b"chunked":
            return malformed("its Transfer-Encoding is not 'chunked'")
        return None

    def _bad_body(self, max_body: int) -> ApiError | None:
        if self.content_encoding is not None and self.content_encoding.strip().lower() != b"identity":
            return ApiError(415, "compressed request bodies are not taken: send the body without Content-Encoding")
        if self.length > max_body:
            return large_body(max_body)
        return None


_FRAMING = frozenset({b"host", b"origin", b"content-length", b"transfer-encoding", b"content-encoding", b"expect"})
NOTED = _FRAMING | controls.NAMES
"""The headers that `Framing` takes in."""
