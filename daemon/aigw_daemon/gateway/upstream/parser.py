"""Reads HTTP/1 answers: bytes in, state out. Pure, so that a fuzz can hold it against another parser.

httptools does the reading. It reports interim answers (100, 103) as complete messages, hands trailers out as headers,
reads on into a second answer and knows no end of file; this class is what corrects that.
"""

import httptools

from aigw_daemon.gateway.upstream.base import Header, ProtocolViolation, Truncated

MAX_HEAD_BYTES = 64 * 1024
"""The most that an answer may send without a byte of body: headers, interim answers, trailers (rule B15)."""

_FIRST_FINAL_STATUS = 200
_BODILESS = (204, 304)
_VERSIONS = ("1.0", "1.1")


class ResponseParser:
    """The state of one answer, and of the next one after `reset`. The `on_` methods are called by httptools.

    `pieces` are the parts of the body that nobody took yet: the owner empties the list, it is never replaced.
    """

    __slots__ = (
        "_interim",
        "_parser",
        "_pieces_of_this",
        "_quiet_bytes",
        "_until_eof",
        "_violation",
        "complete",
        "head_complete",
        "headers",
        "keep_alive",
        "on_body",
        "pieces",
        "status",
        "surplus",
    )

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        # The list's own method: no Python frame for each piece of a stream.
        self.on_body = self.pieces.append
        self.reset()
        self._parser = httptools.HttpResponseParser(self)

    def reset(self) -> None:
        """Makes ready for the next answer on the same connection; only after a complete one with `keep_alive`."""
        self.status = 0
        self.headers: list[Header] = []
        self.head_complete = False
        self.complete = False
        self.keep_alive = False
        self.surplus = False
        self.pieces.clear()
        self._until_eof = False
        self._interim = False
        self._violation = ""
        self._quiet_bytes = 0
        self._pieces_of_this = 0

    @property
    def untouched(self) -> bool:
        """Whether not a byte of the answer has come."""
        return self._quiet_bytes == 0 and not self.head_complete

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the connection.

        Raises ProtocolViolation, after which the parser is of no use. What follows a complete answer only sets
        `surplus`; bare line ends there are skipped by httptools, in front of the next answer as well.
        """
        if self.complete:
            self.surplus = self.surplus or bool(data.strip(b"\r\n"))
            return
        pieces_before = len(self.pieces)
        self._quiet_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.complete:
                raise ProtocolViolation(f"not a valid HTTP answer: {error}") from error
            self.surplus = True
        if self._violation:
            raise ProtocolViolation(self._violation)
        if self.surplus:
            del self.pieces[self._pieces_of_this :]
        if self.complete or len(self.pieces) > pieces_before:
            self._quiet_bytes = 0
        elif self._quiet_bytes > MAX_HEAD_BYTES:
            raise ProtocolViolation(f"more than {MAX_HEAD_BYTES} bytes of headers or trailers")

    def eof(self) -> None:
        """Takes the end of the connection: the end of a body that has no other end, else raises Truncated."""
        if self.complete:
            return
        if not (self.head_complete and self._until_eof):
            where = "in the middle of its answer" if self.head_complete else "before its answer"
            raise Truncated(f"the connection ended {where}")
        self.complete = True

    def on_message_begin(self) -> None:
        if self.complete:
            self.surplus = True

    def on_header(self, name: bytes, value: bytes) -> None:
        # What comes after the head is a trailer, or belongs to a surplus answer.
        if not self.head_complete:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        status = self._parser.get_status_code()
        if status < _FIRST_FINAL_STATUS:
            self._interim = True
            self.headers.clear()
            return
        self.status = status
        self.head_complete = True
        self.keep_alive = self._parser.should_keep_alive()
        self._check_head()

    def on_message_complete(self) -> None:
        if self.complete:
            return
        if self._interim:
            self._interim = False
            return
        self.complete = True
        self._pieces_of_this = len(self.pieces)

    def _check_head(self) -> None:
        coded = False
        sized = False
        for name, value in self.headers:
            if name == b"content-length":
                sized = True
            elif name == b"transfer-encoding":
                if coded or value.lower() != b"chunked":
                    self._violation = f"transfer-encoding {value!r}, where one `chunked` was all that is allowed"
                coded = True
        if (version := self._parser.get_http_version()) not in _VERSIONS:
            self._violation = f"HTTP version {version}, where only {' and '.join(_VERSIONS)} are spoken"
        elif self._quiet_bytes > MAX_HEAD_BYTES and self._head_size() > MAX_HEAD_BYTES:
            self._violation = f"more than {MAX_HEAD_BYTES} bytes of headers"
        self._until_eof = not (coded or sized or self.status in _BODILESS)

    def _head_size(self) -> int:
        return sum(len(name) + len(value) + len(b": \r\n") for name, value in self.headers)
