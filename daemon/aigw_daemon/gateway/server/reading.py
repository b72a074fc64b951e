"""Reads requests out of a connection's bytes: httptools, and what it lacks. Bytes in, callbacks out; no socket.

- httptools takes a request line loosely: several spaces, HTTP/0.9 and 2.0, RTSP. What a proxy in front may read
  otherwise is refused here (RFC 9112, 3).
- It stops at the end of a head that offers an upgrade, and takes the body for another protocol. An offer that isn't
  taken must be ignored (RFC 9110, 7.8): such a head is read once more without its offer.
- It can't be paused.

So what arrives is fed in pieces that end where a message can end: behind a blank line, or behind the last byte of a
body whose length is known. A message thus begins a piece, never the middle of one.
"""

import re
from typing import Any, Final

import httptools

_BLANK_LINE: Final = b"\r\n\r\n"
_OVERLAP: Final = len(_BLANK_LINE) - 1
_MINOR: Final = len(b"0\r\n")
"""So far from the end of a request line stands the version's last digit."""
_ZERO: Final = ord("0")
_USUAL: Final = 8 * 1024
"""Bytes of a request that is looked through for a blank line in its body."""
# Blank lines in front of a request are skipped (RFC 9112, 2.2).
_REQUEST_LINE: Final = re.compile(rb"[\r\n]*[^ \r\n]+ [^ \r\n]+ HTTP/1\.[01]\r\n")


class BadRequestLine(httptools.HttpParserError):
    """The first line of a request isn't one."""

    def __init__(self) -> None:
        super().__init__("its first line is not METHOD TARGET HTTP/1.1 with one space between them")


def _parser(protocol: Any) -> httptools.HttpRequestParser:
    parser = httptools.HttpRequestParser(protocol)
    # Else a request with `Connection: close` would make an error of whatever comes behind it.
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


class RequestReader:
    """Feeds one connection's bytes to httptools, which calls the protocol.

    The protocol says where it is, in attributes: a call for each would be felt by every request.
    """

    __slots__ = ("_line", "_protocol", "_tail", "again", "at_start", "http10", "length", "parser", "stopped")

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self.parser = _parser(protocol)
        self._line = b""
        """What has come of a request line that isn't complete."""
        self._tail = b""
        """The last bytes fed, where a blank line may have begun in them."""
        self.at_start = True
        """Whether no message is under way. Set by the protocol."""
        self.length = 0
        """Bytes to come of a body whose length is known, -1 for chunks. Set by the protocol when a head is complete."""
        self.again = b""
        """The head to read in place of one that offers an upgrade. Set by the protocol when that is complete."""
        self.http10 = False
        """Whether the last request line said so. Read by the protocol: cheaper than what httptools makes of it."""
        self.stopped = False
        """Whether nothing more is to be fed for now. Set by the protocol."""

    def feed(self, data: bytes) -> bytes:
        """Feed bytes until they are used up, or `stopped`; the rest is returned. Raises httptools.HttpParserError."""
        begin, size = 0, len(data)
        # One request, and not the end of another: fed at once, for each piece would be felt.
        if self.at_start and size <= _USUAL and data.count(_BLANK_LINE) == 1 and not self._line:
            line = _REQUEST_LINE.match(data)
            if line is not None:
                self.http10 = data[line.end() - _MINOR] == _ZERO
                begin = self._feed_one(data)
        while begin < size and not self.stopped:
            if self.length > 0:
                end = min(begin + self.length, size)
                self.length -= end - begin
                piece = data[begin:end]
            else:
                end = self._end_of_lines(data, begin)
                piece = data[begin:end]
                if self.at_start or self._line:
                    self._check_line(piece)
            begin = end
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade:
                # It comes at the end of a head, which is the end of a piece.
                self._read_again()
        return data[begin:] if begin < size else b""

    def _feed_one(self, data: bytes) -> int:
        """Feed a whole head and what follows it, which has no blank line; how much was fed."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._read_again()
            return data.find(_BLANK_LINE) + len(_BLANK_LINE)
        self._tail = b""
        if self.at_start:
            self.length = 0
            return len(data)
        left = self.length - (len(data) - data.find(_BLANK_LINE) - len(_BLANK_LINE))
        if self.length >= 0 and left >= 0:
            self.length = left
            return len(data)
        if self.length >= 0:
            # The next request has begun, but its head can't be complete.
            self._check_line(data[left:])
        self.length = 0
        self._tail = data[-_OVERLAP:]
        return len(data)

    def _end_of_lines(self, data: bytes, begin: int) -> int:
        """Where the first blank line ends, which may have begun in an earlier piece; else the end of the data."""
        tail = self._tail
        if tail and (found := (tail + data[begin : begin + _OVERLAP]).find(_BLANK_LINE)) >= 0:
            self._tail = b""
            return begin + found + len(_BLANK_LINE) - len(tail)
        if (found := data.find(_BLANK_LINE, begin)) >= 0:
            self._tail = b""
            return found + len(_BLANK_LINE)
        self._tail = (tail + data[max(begin, len(data) - _OVERLAP) :])[-_OVERLAP:]
        return len(data)

    def _check_line(self, piece: bytes) -> None:
        """Look at a request line before the parser sees its end. Raises BadRequestLine."""
        line = self._line + piece if self._line else piece
        if found := _REQUEST_LINE.match(line):
            self._line = b""
            self.http10 = line[found.end() - _MINOR] == _ZERO
            return
        line = line.lstrip(b"\r\n")
        if b"\n" in line:
            raise BadRequestLine
        self._line = line

    def _read_again(self) -> None:
        """The head that was read offers an upgrade: read it without."""
        head, self.again = self.again, b""
        if head and not self.stopped:
            self.parser = _parser(self._protocol)
            self.parser.feed_data(head)
