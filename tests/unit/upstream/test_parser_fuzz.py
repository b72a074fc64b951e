"""A differential fuzz: httptools with our corrections must read what h11 reads, however the bytes are cut."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.upstream.answers import Outcome, ours, reference

TOKEN = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=8).map(lambda text: b"x-" + text.encode())
VALUE = st.text("abc XYZ=,;/\"'123", max_size=12).map(lambda text: text.strip().encode())
BODY = st.binary(max_size=40)
INTERIM = st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"])
SURPLUS = st.sampled_from([b"", b"", b"", b"x", b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na", b"\x00\xff"])
CONNECTION = st.sampled_from([b"", b"", b"connection: close\r\n", b"Connection: keep-alive\r\n"])


@st.composite
def chunked(draw: st.DrawFn) -> bytes:
    """A chunked body, with extensions and trailers now and then."""
    pieces = draw(st.lists(st.binary(min_size=1, max_size=20), max_size=4))
    extension = draw(st.sampled_from([b"", b";a=b", b';a="b"']))
    trailers = draw(st.sampled_from([b"", b"x-trailer: 1\r\n", b"x-trailer: 1\r\nx-b: 2\r\n"]))
    chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    return chunks + b"0\r\n" + trailers + b"\r\n"


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """A valid answer, framed in one of the ways there are, perhaps with surplus bytes."""
    status = draw(st.sampled_from([200, 200, 201, 204, 302, 304, 404, 429, 500, 503]))
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.1", b"1.0"]))
    headers = draw(st.lists(st.tuples(TOKEN, VALUE), max_size=4))
    lines = b"".join(b"%b: %b\r\n" % header for header in headers) + draw(CONNECTION)
    head = draw(INTERIM) + b"HTTP/%b %d Some Reason\r\n%b" % (version, status, lines)
    framing = "none" if status in (204, 304) else draw(st.sampled_from(["length", "chunked", "eof"]))
    body = draw(BODY)
    if framing == "none":
        return head + b"\r\n" + draw(SURPLUS)
    if framing == "length":
        return head + b"content-length: %d\r\n\r\n%b" % (len(body), body) + draw(SURPLUS)
    if framing == "chunked" and version == b"1.1":
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + draw(chunked()) + draw(SURPLUS)
    return head + b"\r\n" + body


@st.composite
def cuts(draw: st.DrawFn, raw: bytes) -> list[bytes]:
    """The same bytes in pieces."""
    places = sorted(draw(st.sets(st.integers(0, len(raw)), max_size=6)))
    return [raw[start:end] for start, end in zip([0, *places], [*places, len(raw)], strict=True) if start < end]


def assert_agree(raw: bytes, mine: Outcome) -> None:
    """Complete answers are equal, but for h11's never reusing HTTP/1.0, which may ask for it."""
    theirs = reference(raw)
    assert mine.kind == theirs.kind
    assert mine[:4] == theirs[:4]
    if b"HTTP/1.0" not in raw:
        assert mine.reusable == theirs.reusable


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_valid_answers_are_read_as_h11_reads_them(data: st.DataObject) -> None:
    raw = data.draw(answers())
    assert_agree(raw, ours(data.draw(cuts(raw))))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_answers_cut_short_end_as_they_do_in_h11(data: st.DataObject) -> None:
    raw = data.draw(answers())
    raw = raw[: data.draw(st.integers(0, len(raw)))]
    assert_agree(raw, ours(data.draw(cuts(raw))))


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_a_damaged_answer_is_never_read_in_two_ways(data: st.DataObject) -> None:
    raw = data.draw(answers())
    place = data.draw(st.integers(0, len(raw)))
    damage = data.draw(
        st.one_of(st.binary(min_size=1, max_size=3), st.sampled_from([b"\r\n", b"\n", b"0", b" ", b":"]))
    )
    raw = raw[:place] + damage + raw[place + data.draw(st.integers(0, 3)) :]
    whole, theirs = ours([raw]), reference(raw)
    assert ours(data.draw(cuts(raw))) == whole
    if whole.kind == theirs.kind == "complete":
        assert (whole.status, whole.body) == (theirs.status, theirs.body)
