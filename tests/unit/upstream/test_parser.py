"""The answer parser, against a table of raw answers: each one whole, cut in two at every byte, and byte by byte."""

import pytest

from aigw_daemon.gateway.upstream.base import ProtocolViolation
from aigw_daemon.gateway.upstream.parser import MAX_HEAD_BYTES, ResponseParser
from tests.unit.upstream.answers import Outcome, every_split, ours, reference

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"

TABLE: dict[str, tuple[bytes, Outcome]] = {
    "content-length": (
        OK + b"Content-Type: text/plain\r\nContent-Length: 2\r\n\r\nok",
        Outcome("complete", 200, ((b"content-type", b"text/plain"), (b"content-length", b"2")), b"ok", reusable=True),
    ),
    "no reason phrase": (
        b"HTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n",
        Outcome("complete", 200, ((b"content-length", b"0"),), b"", reusable=True),
    ),
    "chunked with extensions and trailers": (
        CHUNKED + b'3;a=b;c="d"\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n',
        Outcome("complete", 200, ((b"transfer-encoding", b"chunked"),), b"abc0123456789", reusable=True),
    ),
    "empty header value": (
        OK + b"x-empty:\r\ncontent-length: 1\r\n\r\na",
        Outcome("complete", 200, ((b"x-empty", b""), (b"content-length", b"1")), b"a", reusable=True),
    ),
    "interim answers first": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
        + OK
        + b"content-length: 2\r\n\r\nok",
        Outcome("complete", 200, ((b"content-length", b"2"),), b"ok", reusable=True),
    ),
    "an interim answer that nobody knows": (
        b"HTTP/1.1 142 Soon\r\n\r\n" + OK + b"content-length: 2\r\n\r\nok",
        Outcome("complete", 200, ((b"content-length", b"2"),), b"ok", reusable=True),
    ),
    "204 without a body": (b"HTTP/1.1 204 No Content\r\n\r\n", Outcome("complete", 204, reusable=True)),
    "304 with the length of a body that it hasn't": (
        b"HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\n\r\n",
        Outcome("complete", 304, ((b"content-length", b"10"),), reusable=True),
    ),
    "HTTP/1.0, closed at the end": (
        b"HTTP/1.0 200 OK\r\nx: y\r\n\r\nall of it",
        Outcome("complete", 200, ((b"x", b"y"),), b"all of it"),
    ),
    "HTTP/1.1, closed at the end": (
        OK + b"connection: close\r\n\r\nall of it",
        Outcome("complete", 200, ((b"connection", b"close"),), b"all of it"),
    ),
    "closed at the end, without a body": (OK + b"\r\n", Outcome("complete", 200)),
    "Connection: close": (
        OK + b"connection: close\r\ncontent-length: 2\r\n\r\nok",
        Outcome("complete", 200, ((b"connection", b"close"), (b"content-length", b"2")), b"ok"),
    ),
    "a surplus answer": (
        OK + b"content-length: 2\r\n\r\nok" + CHUNKED + b"3\r\nbad\r\n0\r\n\r\n",
        Outcome("complete", 200, ((b"content-length", b"2"),), b"ok"),
    ),
    "surplus junk": (
        OK + b"content-length: 2\r\n\r\nokay",
        Outcome("complete", 200, ((b"content-length", b"2"),), b"ok"),
    ),
    "surplus after Connection: close": (
        OK + b"connection: close\r\ncontent-length: 1\r\n\r\na" + OK,
        Outcome("complete", 200, ((b"connection", b"close"), (b"content-length", b"1")), b"a"),
    ),
    "cut in the status line": (b"HTTP/1.1 20", Outcome("truncated")),
    "cut in the headers": (OK + b"content-le", Outcome("truncated")),
    "cut after an interim answer": (b"HTTP/1.1 100 Continue\r\n\r\n", Outcome("truncated")),
    "cut content-length": (OK + b"content-length: 10\r\n\r\n12345", Outcome("truncated")),
    "cut in a chunk": (CHUNKED + b"a\r\n12345", Outcome("truncated")),
    "cut between chunks": (CHUNKED + b"5\r\n12345\r\n", Outcome("truncated")),
    "cut before the last line end": (CHUNKED + b"5\r\n12345\r\n0\r\n", Outcome("truncated")),
    "not HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", Outcome("violation")),
    "status of two digits": (b"HTTP/1.1 20 OK\r\n\r\n", Outcome("violation")),
    "status of four digits": (b"HTTP/1.1 2000 OK\r\n\r\n", Outcome("violation")),
    "status that is no number": (b"HTTP/1.1 abc OK\r\n\r\n", Outcome("violation")),
    "space before a colon": (OK + b"x : y\r\n\r\n", Outcome("violation")),
    "chunk size that is no number": (CHUNKED + b"zz\r\n\r\n", Outcome("violation")),
    "chunk longer than its size": (CHUNKED + b"1\r\nabc\r\n", Outcome("violation")),
    "two different lengths": (OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab", Outcome("violation")),
    "negative length": (OK + b"content-length: -1\r\n\r\n", Outcome("violation")),
    "coding that nobody asked for": (OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Outcome("violation")),
    "switching protocols": (
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nx",
        Outcome("violation"),
    ),
}

# Where we refuse what h11 lets pass, on purpose: a length beside a coding, or two of them, is how answers are smuggled.
STRICTER: dict[str, bytes] = {
    "both a length and a coding": OK + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
    "the same length twice": OK + b"content-length: 1\r\ncontent-length: 1\r\n\r\na",
    "folded header": OK + b"x: a\r\n b\r\ncontent-length: 0\r\n\r\n",
    "bare line feeds": b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
    "HTTP/2 as text": b"HTTP/2.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n",
}


def feed_often(parser: ResponseParser, piece: bytes, size: int) -> None:
    """Feeds `piece` again and again, `size` bytes in all."""
    for _ in range(size // len(piece)):
        parser.feed(piece)


@pytest.mark.parametrize("name", TABLE)
def test_reads_the_answer_wherever_it_is_cut(name: str) -> None:
    raw, expected = TABLE[name]
    assert ours([raw]) == expected
    for pieces in every_split(raw):
        assert ours(pieces) == expected, pieces


@pytest.mark.parametrize("name", [name for name in TABLE if name != "switching protocols"])
def test_agrees_with_h11(name: str) -> None:
    raw, expected = TABLE[name]
    assert reference(raw) == expected


@pytest.mark.parametrize("name", STRICTER)
def test_refuses_some_answers_that_h11_lets_pass(name: str) -> None:
    raw = STRICTER[name]
    assert reference(raw).kind == "complete"
    for pieces in [[raw], *every_split(raw)]:
        assert ours(pieces).kind == "violation", pieces


def test_the_next_answer_on_the_connection_starts_afresh() -> None:
    parser = ResponseParser()
    parser.feed(CHUNKED + b"2\r\nab\r\n0\r\nx-trailer: 1\r\n\r\n")
    assert (parser.complete, parser.keep_alive) == (True, True)
    parser.reset()
    assert parser.untouched
    parser.feed(b"HTTP/1.1 503 Busy\r\ncontent-length: 1\r\n\r\n!")
    assert (parser.status, parser.headers, parser.pieces) == (503, [(b"content-length", b"1")], [b"!"])


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (OK, b"x-pad: " + b"a" * 1000 + b"\r\n"),
        (OK + b"x-endless: ", b"a" * 1000),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (CHUNKED + b"1\r\na\r\n0\r\n", b"x-trailer: " + b"a" * 1000 + b"\r\n"),
        (CHUNKED + b"1;extension=", b"a" * 1000),
    ],
    ids=["headers", "one header", "interim answers", "trailers", "chunk extension"],
)
def test_headers_and_what_is_like_them_are_bounded(start: bytes, more: bytes) -> None:
    parser = ResponseParser()
    parser.feed(start)
    with pytest.raises(ProtocolViolation, match="more than 65536 bytes"):
        feed_often(parser, more, 2 * MAX_HEAD_BYTES)


def test_a_head_above_the_limit_is_refused_in_one_piece_too() -> None:
    with pytest.raises(ProtocolViolation, match="more than 65536 bytes of headers"):
        ResponseParser().feed(OK + b"x: " + b"a" * MAX_HEAD_BYTES + b"\r\ncontent-length: 1\r\n\r\na")


def test_a_large_body_in_one_piece_with_a_small_head_passes() -> None:
    parser = ResponseParser()
    parser.feed(OK + b"content-length: 200000\r\n\r\n" + b"a" * 200_000)
    assert parser.complete
