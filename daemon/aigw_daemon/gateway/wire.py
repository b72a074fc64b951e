"""The gateway's words on the wire: OpenAI's one error envelope, status lines and header lines.

Every error that a client sees, whatever met it, leaves through `ApiError`; `kind` is the one place where a status gets
its type and code.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import msgspec

JSON = b"content-type: application/json\r\n"
NO_STORE = b"cache-control: private, no-store\r\n"
"""On every answer (rule B24)."""
ID_LINES: Final = b"x-aigw-request-id: %b\r\nx-request-id: %b\r\n"
"""On every answer: the request's id, twice. Clients of OpenAI read the second name."""

BAD_JSON: Final = (ValueError, RecursionError)
"""What msgspec raises for bytes that are no JSON: ValueErrors for its own reasons and for what is no UTF-8."""

Scalar = str | int | float | bool
"""A field's value that is neither an object nor an array."""

_PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")

_KINDS: Mapping[int, tuple[str, str]] = {
    400: ("invalid_request_error", "invalid_request"),
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", "forbidden"),
    404: ("invalid_request_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    408: ("invalid_request_error", "request_timeout"),
    413: ("invalid_request_error", "request_too_large"),
    415: ("invalid_request_error", "unsupported_media_type"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    431: ("invalid_request_error", "headers_too_large"),
    500: ("server_error", "provider_failure"),
    501: ("invalid_request_error", "endpoint_not_supported"),
    503: ("server_error", "service_unavailable"),
    504: ("server_error", "timeout"),
}


def kind(status: int) -> tuple[str, str]:
    """The envelope's type and code for a status; a code may still be overridden where it says more."""
    if found := _KINDS.get(status):
        return found
    return ("server_error", "server_error") if status >= HTTPStatus.INTERNAL_SERVER_ERROR else _KINDS[400]


class ApiError(Exception):
    """What the client is told instead of an answer.

    ``retry_after`` is in seconds; ``extra`` are an engine's own fields, which go beside those of the envelope.
    ``should_retry``: False where another try of the same request can't help; clients obey it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        type_: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
        allow: str | None = None,
        extra: Mapping[str, Scalar] | None = None,
        should_retry: bool = True,
    ) -> None:
        super().__init__(message)
        default_type, default_code = kind(status)
        self.status = status
        self.message = message
        self.code = code or default_code
        self.type = type_ or default_type
        self.param = param
        self.retry_after = retry_after
        self.allow = allow
        self.extra = extra or {}
        self.should_retry = should_retry

    def body(self) -> bytes:
        """The envelope as JSON."""
        return msgspec.json.encode({"error": self._content()})

    def event(self) -> bytes:
        """The same as one SSE event, for a stream that has already begun."""
        return b"data: %b\n\n" % self.body()

    def head(self) -> bytes:
        """The status line and header lines, without those that belong to the connection."""
        lines = [status_line(self.status), JSON, NO_STORE]
        if self.retry_after is not None:
            lines.append(b"retry-after: %d\r\n" % self.retry_after)
        if self.allow is not None:
            lines.append(header("allow", self.allow))
        # The openai client obeys this before Retry-After, so it goes only where trying again can't help (rule B6).
        if not self.should_retry:
            lines.append(b"x-should-retry: false\r\n")
        return b"".join(lines)

    def summary(self) -> str:
        """``code: message``, as a record keeps it."""
        return f"{self.code}: {self.message}"

    def _content(self) -> dict[str, Any]:
        envelope = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {**envelope, **self.extra}


def _line_of(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


_STATUS_LINES = {status: _line_of(status) for status in range(100, 600)}


def status_line(status: int) -> bytes:
    """``HTTP/1.1 200 OK``, for any status from 100 to 599."""
    return _STATUS_LINES[status]


def header(name: str, value: str) -> bytes:
    """One header line; what isn't printable ASCII is percent-encoded, so no value can break out of its line."""
    return f"{name}: {quote(value, safe=_PRINTABLE)}\r\n".encode()
