"""Reading requests: whatever the pieces they come in, and whatever protocols they offer to go on in."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_daemon.gateway.server.connection import MAX_PIPELINED
from tests.support.reading import cuts, read, read_in_turn

BODY = b'{"model":"m"}'
SIZED = b"content-length: %d\r\n\r\n%b" % (len(BODY), BODY)
CHUNKED = b"transfer-encoding: chunked\r\n\r\n4\r\n%b\r\n9;x=y\r\n%b\r\n0\r\nx-trailer: 1\r\n\r\n" % (
    BODY[:4],
    BODY[4:],
)
BLANK = b"transfer-encoding: chunked\r\n\r\n8\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n"
"""A body that holds nothing but line ends."""
BODIES = {"sized": SIZED, "chunked": CHUNKED, "blank lines": BLANK, "none": b"\r\n"}
OFFERS = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    b"upgrade: websocket\r\nconnection: keep-alive,UPGRADE\r\n",
    b"Connection: upgrade\r\nUpgrade: foo/2, bar\r\n",
    b"Connection: HTTP2-Settings\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n",
)
HOST = b"host: localhost\r\n"
NEXT = b"GET /next?a=b HTTP/1.1\r\nhost: localhost\r\n\r\n"


def request(rest: bytes, offer: bytes = b"", version: bytes = b"1.1") -> bytes:
    return b"POST /chat HTTP/%b\r\n%b%b%b" % (version, HOST, offer, rest)


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("body", BODIES)
async def test_an_offered_upgrade_is_ignored_wherever_the_bytes_are_cut(offer: bytes, body: str) -> None:
    """RFC 9110, 7.8: the request is what it would be without the offer, and so is the one behind it."""
    plain = read(request(BODIES[body]) + NEXT)
    assert [seen.path for seen in plain[0]] == ["/chat", "/next"]
    offering = request(BODIES[body], offer) + NEXT
    assert read(*(offering[place : place + 1] for place in range(len(offering)))) == plain
    for place in range(len(offering)):
        assert read(*cuts(offering, place)) == plain, offering[:place]


@pytest.mark.parametrize("offer", OFFERS)
async def test_two_requests_that_both_offer_an_upgrade_are_both_read(offer: bytes) -> None:
    seen, statuses = read(request(SIZED, offer) + request(CHUNKED, offer) + NEXT)
    assert ([one.body for one in seen], statuses) == ([BODY, BODY, b""], [200, 200, 200])


@pytest.mark.parametrize("offer", OFFERS)
async def test_a_connection_that_is_to_be_closed_is_closed_in_spite_of_an_offer(offer: bytes) -> None:
    seen, _ = read(request(SIZED, offer + b"connection: close\r\n") + NEXT)
    assert [(one.body, one.keep_alive) for one in seen] == [(BODY, False)]


@pytest.mark.parametrize("offer", [b"", *OFFERS])
@pytest.mark.parametrize(
    "lines",
    [
        b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
        b"content-length: 4\r\ncontent-length: 5\r\n\r\nabcde",
        b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
        b"content-length: +4\r\n\r\nabcd",
        b" content-length: 4\r\n\r\nabcd",
        b"content-length : 4\r\n\r\nabcd",
        b"x: 1\n\r\nabcd",
        b"host: other\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n4 \r\nabcd\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n0x4\r\nabcd\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n4\nabcd\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n4\r\nabcde\r\n0\r\n\r\n",
    ],
)
async def test_what_could_be_read_in_two_ways_is_refused_with_an_offer_as_without(lines: bytes, offer: bytes) -> None:
    dangerous = request(lines, offer)
    for place in range(len(dangerous)):
        assert read(*cuts(dangerous + NEXT, place)) == ([], [400]), dangerous[:place]


@pytest.mark.parametrize(
    "line",
    [
        b"GET  / HTTP/1.1\r\n",
        b"GET /  HTTP/1.1\r\n",
        b"GET / HTTP/1.1 \r\n",
        b" GET / HTTP/1.1\r\n",
        b"GET\t/ HTTP/1.1\r\n",
        b"GET / a HTTP/1.1\r\n",
        b"GET / HTTP/2.0\r\n",
        b"GET / HTTP/2\r\n",
        b"GET / HTTP/0.9\r\n",
        b"GET / HTTP/1.2\r\n",
        b"GET / HTTP/9.9\r\n",
        b"GET / http/1.1\r\n",
        b"GET / HTTP/1.1\n",
        b"GET /\r\n",
        b"GET / \r\n",
        b"DESCRIBE / RTSP/1.0\r\n",
        b"SOURCE / ICE/1.0\r\n",
        b"PRI * HTTP/2.0\r\n",
        b"CONNECT localhost:4000 HTTP/1.1\r\n",
        b"CONNECT / HTTP/1.1\r\n",
        b"CONNECT http://localhost/ HTTP/1.1\r\n",
    ],
)
async def test_a_line_that_is_no_request_line_is_refused_wherever_it_stands(line: bytes) -> None:
    bad = line + HOST + b"\r\n"
    for place in range(len(bad)):
        assert read(*cuts(bad, place)) == ([], [400]), bad[:place]
    for before in (NEXT, request(SIZED), request(CHUNKED), request(BLANK), request(SIZED, OFFERS[0])):
        whole = before + bad
        for place in range(len(before) - 5, len(whole)):
            seen, statuses = read(*cuts(whole, place))
            assert (len(seen), statuses) == (1, [200, 400]), whole[:place]


async def test_blank_lines_before_a_request_are_skipped() -> None:
    """RFC 9112, 2.2."""
    data = b"\r\n\r\n\r\n" + NEXT + b"\r\n" + NEXT
    for place in range(len(data)):
        assert read(*cuts(data, place))[1] == [200, 200]


PARTS = st.sampled_from(
    [NEXT, *(request(body, offer) for body in BODIES.values() for offer in (b"", *OFFERS)), request(SIZED, b"", b"1.0")]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(PARTS, min_size=1, max_size=6), st.lists(st.integers(1, 1500), max_size=8))
async def test_the_pieces_that_requests_come_in_change_nothing(parts: list[bytes], places: list[int]) -> None:
    data = b"".join(parts)
    assert read(*cuts(data, *places)) == read(data)


@settings(max_examples=100, deadline=None)
@given(st.lists(PARTS, min_size=20, max_size=60), st.lists(st.integers(1, 9000), max_size=5))
async def test_a_pause_in_reading_changes_nothing(parts: list[bytes], places: list[int]) -> None:
    """More requests at once than may wait."""
    data = b"".join(parts)
    seen, statuses, most = await read_in_turn(*cuts(data, *places))
    assert (seen, statuses) == read(data)
    assert most <= MAX_PIPELINED


async def test_a_head_is_bounded_with_an_offer_as_without() -> None:
    long = b"x-long: " + b"a" * 70_000 + b"\r\n\r\n"
    assert read(request(long)) == read(request(long, OFFERS[0])) == ([], [431])


@pytest.mark.parametrize("offer", [b"", OFFERS[0]])
@pytest.mark.parametrize(
    ("version", "rest", "statuses"),
    [
        (b"1.1", SIZED, [100, 200]),
        (b"1.1", CHUNKED, [100, 200]),
        (b"1.0", SIZED, [200]),
        (b"1.1", b"\r\n", [200]),
        (b"1.1", b"content-length: 0\r\n\r\n", [200]),
        (b"1.1", b"content-length: 999999999\r\n\r\n", [413]),
        (b"1.1", b"content-encoding: gzip\r\n" + SIZED, [415]),
    ],
)
async def test_a_client_is_told_to_go_on_only_where_its_body_will_be_read(
    offer: bytes, version: bytes, rest: bytes, statuses: list[int]
) -> None:
    expecting = request(b"Expect: 100-Continue\r\n" + rest, offer, version)
    assert read(expecting)[1] == statuses


@pytest.mark.parametrize(
    ("target", "path", "query", "host"),
    [
        (b"/v1/models?a=b", "/v1/models", b"a=b", b"localhost"),
        (b"http://other:4000/v1/models?a=b", "/v1/models", b"a=b", b"other:4000"),
        (b"HTTPS://[::1]/v1", "/v1", b"", b"[::1]"),
        (b"http://other", "/", b"", b"other"),
        (b"http://other?a=b", "/", b"a=b", b"other"),
        (b"//other/v1", "//other/v1", b"", b"localhost"),
        (b"*", "*", b"", b"localhost"),
    ],
)
async def test_a_url_as_target_says_which_host_is_asked(target: bytes, path: str, query: bytes, host: bytes) -> None:
    """RFC 9112, 3.2.2: the Host header counts for nothing then."""
    seen, _ = read(b"OPTIONS %b HTTP/1.1\r\nhost: localhost\r\n\r\n" % target)
    assert [(one.path, one.query, one.host) for one in seen] == [(path, query, host)]


@pytest.mark.parametrize(
    "target",
    [
        b"http://user@localhost/",
        b"http:///v1",
        b"http:/v1",
        b"ftp://localhost/",
        b"localhost:4000",
        b"v1/models",
        b"http://localhost:123456/",
        b"http://local host/",
        b"http://[::1/",
        b"http://localhost\\@other/",
    ],
)
async def test_another_kind_of_target_is_refused(target: bytes) -> None:
    assert read(b"GET %b HTTP/1.1\r\nhost: localhost\r\n\r\n" % target) == ([], [400])


async def test_a_url_as_target_still_needs_the_host_header() -> None:
    assert read(b"GET http://localhost/ HTTP/1.1\r\n\r\n") == ([], [400])
    assert read(b"GET http://localhost/ HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n") == ([], [400])
