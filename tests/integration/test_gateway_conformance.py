"""The worker against HTTP/1.1 as others test it, and against the very bytes that clients of other languages send.

The cases are those of h1spec. The bytes were recorded from the clients, which aren't all on every machine.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio

from tests.support.fake_engine import FakeEngine, fake_engine, says, whole
from tests.support.gateway import GatewayProcess, backend, gateway_process, route, snapshot

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOST = b"host: localhost\r\n"
BODY = b'{"model":"m","messages":[]}'
CHUNKS = b"1b\r\n%b\r\n0\r\n\r\n" % BODY
LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[FakeEngine]:
    async with fake_engine(says(whole())) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(engine: FakeEngine) -> AsyncIterator[GatewayProcess]:
    one = snapshot(backend("one", engine.port), routes=[route("m", ("one", "m"))])
    async with gateway_process(one) as running:
        yield running


async def said(port: int, *pieces: bytes, seconds: float = 10.0) -> bytes:
    """The status line that answers these bytes; the client waits for an answer behind each piece but the last."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    line = b""
    try:
        for piece in pieces:
            writer.write(piece)
            with contextlib.suppress(TimeoutError):
                line = await asyncio.wait_for(reader.readline(), seconds)
                if line.startswith(b"HTTP/1.1 100"):
                    await reader.readline()
    finally:
        writer.transport.abort()
    return line


HALVES = [
    b"G",
    b"GET ",
    b"GET /",
    b"GET / ",
    b"GET / HTTP",
    b"GET / HTTP/1.1",
    b"GET / HTTP/1.1\r",
    b"GET / HTTP/1.1\r\n",
    b"GET / HTTP/1.1\r\nHos",
    b"GET / HTTP/1.1\r\nHost:",
    b"GET / HTTP/1.1\r\nHost: ",
    b"GET / HTTP/1.1\r\nHost: localhost",
    b"GET / HTTP/1.1\r\nHost: localhost\r",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r",
]


async def test_half_a_request_is_waited_for_and_then_answered(gateway: GatewayProcess) -> None:
    async def halves(half: bytes) -> tuple[bytes, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(half)
        early = b""
        with contextlib.suppress(TimeoutError):
            early = await asyncio.wait_for(reader.read(1), 0.5)
        writer.write((HALVES[-1] + b"\n").removeprefix(half))
        late = await reader.readline()
        writer.close()
        return early, late

    answers = await asyncio.gather(*(halves(half) for half in HALVES))
    assert answers == [(b"", b"HTTP/1.1 200 OK\r\n")] * len(HALVES)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / \r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n%bExpect: 100-continue\r\n\r\n" % HOST, 200),
        (b"GET / HTTP/1.1\r\n%b\r\n" % HOST, 200),
        (b"GET / HTTP/1.1\r\nhoSt:\tlocalhost\r\nempty:\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\n%bX-Invalid[]: test\r\n\r\n" % HOST, 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n%bHost: 127.0.0.1\r\n\r\n" % HOST, 400),
        (b"GET / HTTP/1.1\r\n%bContent-Length: -123456789123456789123456789\r\n\r\n" % HOST, 400),
        (b"GET / HTTP/1.1\r\n%bContent-Length: -1234\r\n\r\n" % HOST, 400),
        (b"GET / HTTP/1.1\r\n%bContent-Length: abc\r\n\r\n" % HOST, 400),
        (b"GET / HTTP/1.1\r\n%bX-Empty-Header: \r\n\r\n" % HOST, 200),
        (b"GET / HTTP/1.1\r\n%bX-Bad-Control-Char: test\x07\r\n\r\n" % HOST, 400),
        (b"GET / HTTP/9.9\r\n%b\r\n" % HOST, 400),
        (b"Extra lineGET / HTTP/1.1\r\n%b\r\n" % HOST, 400),
        (b"GET / HTTP/1.1\r\n%b\r\rSome-Header: Test\r\n\r\n" % HOST, 400),
        (b"GET / HTTP/1.1\r\n%b\rSome-Header: Test\r\n\r\n" % HOST, 400),
        (b"POST / HTTP/1.1\r\n%bContent-Length: 5\r\n\r\nhello" % HOST, 404),
        (b"GET / HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" % HOST, 400),
        # Beyond h1spec.
        (b"GET / HTTP/1.1\r\n%bContent-Length: 99999999999999999999999999\r\n\r\n" % HOST, 400),
        (b"GET / HTTP/1.1\r\n%bContent-Length:\r\n\r\n" % HOST, 400),
        (b"GET / HTTP/1.1\r\n%bContent-Length: 1, 1\r\n\r\nx" % HOST, 400),
        (b"GET / HTTP/1.1\r\n%bName\r\n\r\n" % HOST, 400),
        (b"GET / HTTP/1.1\r\n%b: value\r\n\r\n" % HOST, 400),
        (b"GET / HTTP/1.1\r\n%bX Y: value\r\n\r\n" % HOST, 400),
        (b"GET / HTTP/1.1\r\n%bX: a\r\n b\r\n\r\n" % HOST, 400),
        (b"GET / HTTP/1.1\r\n%bX: a\x00b\r\n\r\n" % HOST, 400),
        (b"NEW / HTTP/1.1\r\n%b\r\n" % HOST, 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"\r\n\r\nGET / HTTP/1.1\r\n%b\r\n" % HOST, 200),
        (b"GET / HTTP/1.0\r\n\r\n", 200),
        (LINE + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (LINE + HOST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", 400),
        (LINE + HOST + b"Transfer-Encoding: chunked\r\n\r\n1ffffffffffffffff\r\n", 400),
        (LINE + HOST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}x\r\n", 400),
        (LINE + HOST + b"Transfer-Encoding: chunked\r\n\r\n2\n{}\r\n0\r\n\r\n", 400),
        (LINE + HOST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS, 400),
        (b"POST /v1/chat/completions HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS, 400),
    ],
)
async def test_requests_are_answered_or_refused_as_http_has_it(
    gateway: GatewayProcess, request_bytes: bytes, status: int
) -> None:
    line = await said(gateway.port, request_bytes)
    assert line.startswith(b"HTTP/1.1 %d " % status), line


def head(*lines: str) -> bytes:
    return LINE + "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"


JSON = "Content-Type: application/json"
SIZE = f"Content-Length: {len(BODY)}"
OFFER = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c")
JAVA = ("HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA", "User-Agent: Java-http-client/17.0.15")
GO = ("Host: localhost:4000", "User-Agent: Go-http-client/1.1")
TRACE = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
CLIENTS: dict[str, tuple[bytes, ...]] = {
    "java": (head(OFFER[0], SIZE, "Host: localhost:4000", JAVA[0], OFFER[1], JAVA[1], JSON) + BODY,),
    "java, a body of unknown length": (
        head(OFFER[0], "Host: localhost:4000", JAVA[0], "Transfer-encoding: chunked", OFFER[1], JAVA[1], JSON) + CHUNKS,
    ),
    "java that asks before it sends": (
        head(OFFER[0], SIZE, "Expect: 100-Continue", "Host: localhost:4000", JAVA[0], OFFER[1], JAVA[1], JSON),
        BODY,
    ),
    "java's old client": (
        head(
            JSON, "User-Agent: Java/17.0.15", "Host: localhost:4000",
            "Accept: text/html, image/gif, image/jpeg, */*; q=0.2", "Connection: keep-alive",
            "Transfer-Encoding: chunked",
        )
        + CHUNKS,
    ),
    "curl --http2": (
        head(
            "Host: localhost:4000", "User-Agent: curl/7.88.1", "Accept: */*", *OFFER,
            "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA", JSON, SIZE,
        )
        + BODY,
    ),
    "curl that asks before it sends": (
        head(
            "Host: localhost:4000", "User-Agent: curl/7.88.1", "Accept: */*", "Expect: 100-continue",
            "Transfer-Encoding: chunked", "Content-Type: application/x-www-form-urlencoded",
        ),
        CHUNKS,
    ),
    "go": (head(*GO, SIZE, JSON, "Accept-Encoding: gzip") + BODY,),
    "go, a body of unknown length": (
        head(*GO, "Transfer-Encoding: chunked", JSON, "Accept-Encoding: gzip") + CHUNKS,
    ),
    "go that asks before it sends": (
        head(*GO, SIZE, JSON, "Expect: 100-continue", "Accept-Encoding: gzip"), BODY,
    ),
    "rust": (
        head("content-type: application/json", "content-length: 27", "accept: */*", "host: localhost:4000") + BODY,
    ),
    "rust, a body of unknown length": (
        head("content-type: application/json", "accept: */*", "host: localhost:4000", "transfer-encoding: chunked")
        + b"1B\r\n%b\r\n0\r\n\r\n" % BODY,
    ),
    ".net": (
        head("Host: localhost:4000", TRACE, "Transfer-Encoding: chunked", f"{JSON}; charset=utf-8"),
        b"1B\r\n%b\r\n" % BODY + b"0\r\n\r\n",
    ),
    ".net that asks before it sends": (
        head("Host: localhost:4000", "Expect: 100-continue", TRACE, f"{JSON}; charset=utf-8", SIZE), BODY,
    ),
    "node": (
        head(
            "host: localhost:4000", "connection: keep-alive", "content-type: application/json", "accept: */*",
            "accept-language: *", "sec-fetch-mode: cors", "user-agent: node", "accept-encoding: gzip, deflate", SIZE,
        )
        + BODY,
    ),
    "node, a body in parts": (
        head(JSON, "Host: localhost:4000", "Connection: keep-alive", "Transfer-Encoding: chunked")
        + b'5\r\n{"mod\r\n16\r\nel":"m","messages":[]}\r\n0\r\n\r\n',
    ),
    "python": (
        head(
            "Host: localhost:4000", "Accept-Encoding: gzip, deflate, zstd", "Connection: keep-alive",
            "authorization: Bearer not-needed", "accept: application/json", "content-type: application/json",
            "user-agent: OpenAI/Python 3.54.0", "x-stainless-lang: python", "x-stainless-retry-count: 0", SIZE,
        )
        + BODY,
    ),
}  # fmt: skip


@pytest.mark.parametrize("client", CLIENTS)
async def test_what_clients_of_other_languages_send_is_answered(
    gateway: GatewayProcess, engine: FakeEngine, client: str
) -> None:
    """Wherever the network cuts it; and a second request on the same connection is answered as the first."""
    pieces = CLIENTS[client]
    if len(pieces) == 1 or client == ".net":
        request_bytes = b"".join(pieces)
        for place in (None, len(LINE) - 1, request_bytes.index(b"\r\n\r\n") + 2, len(request_bytes) - 3):
            engine.requests.clear()
            await twice(
                gateway.port, [request_bytes] if place is None else [request_bytes[:place], request_bytes[place:]]
            )
            assert [request.json for request in engine.requests] == [msgspec.json.decode(BODY)] * 2
        return
    assert await said(gateway.port, *pieces[:1]) == b"HTTP/1.1 100 Continue\r\n"
    assert (await said(gateway.port, *pieces)).startswith(b"HTTP/1.1 200")


async def twice(port: int, pieces: list[bytes]) -> None:
    """Send the same request on one connection twice, and read both answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for _ in range(2):
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0.005)  # a packet of its own for each
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            assert answer.startswith(b"HTTP/1.1 200"), answer
            await reader.readuntil(b"}}")
    finally:
        writer.close()


async def test_seventeen_requests_at_once_are_all_answered(gateway: GatewayProcess, engine: FakeEngine) -> None:
    """More than may wait, and each asks an engine."""
    engine.requests.clear()
    one = head("Host: localhost", SIZE, JSON) + BODY
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(one * 60)
    for _ in range(60):
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).startswith(b"HTTP/1.1 200")
        await reader.readuntil(b"}}")
    writer.close()
    assert len(engine.requests) == 60
