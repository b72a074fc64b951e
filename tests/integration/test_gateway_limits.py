"""Attacks on the door itself, by raw sockets: each limit answers in OpenAI's envelope and closes the connection."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from time import monotonic

import msgspec
import pytest
import pytest_asyncio

from aigw_daemon.link.messages import GatewayView
from tests.support.fake_engine import FakeEngine, fake_engine, says, whole
from tests.support.gateway import GatewayProcess, ask, backend, gateway_process, parse_answer, post, route, snapshot

LIMITS = GatewayView(header_timeout=1.0, body_timeout=1.5, max_body=100_000, max_head=64 * 1024, request_timeout=30.0)
BODY = b'{"model":"m","messages":[]}'
GET = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running_engine() -> AsyncIterator[FakeEngine]:
    async with fake_engine(says(whole())) as running:
        yield running


@pytest.fixture
def engine(running_engine: FakeEngine) -> FakeEngine:
    running_engine.requests.clear()
    return running_engine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(running_engine: FakeEngine) -> AsyncIterator[GatewayProcess]:
    first = snapshot(backend("b", running_engine.port), routes=[route("m", ("b", "m"))], gateway=LIMITS)
    async with gateway_process(first) as running:
        yield running


def assert_refused(answer: tuple[int, dict[bytes, bytes], bytes], status: int, code: str) -> None:
    """The envelope, an id to find it by, and the end of the connection."""
    got, headers, body = answer
    assert got == status
    assert headers[b"connection"] == b"close"
    assert headers[b"x-aigw-request-id"].startswith(b"req_")
    assert headers[b"cache-control"] == b"private, no-store"
    assert msgspec.json.decode(body)["error"]["code"] == code


async def test_headers_that_never_end_are_refused_with_431(gateway: GatewayProcess) -> None:
    head = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx-long: " + b"a" * 300_000
    assert_refused(await ask(gateway.port, head), 431, "headers_too_large")


async def test_a_complete_head_above_the_limit_is_refused_with_431(gateway: GatewayProcess) -> None:
    head = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx-long: " + b"a" * 70_000 + b"\r\n\r\n"
    assert_refused(await ask(gateway.port, head), 431, "headers_too_large")


async def test_many_small_headers_above_the_limit_are_refused_with_431(gateway: GatewayProcess) -> None:
    lines = b"".join(b"x-%d: aaaaaaaaaaaaaaaa\r\n" % number for number in range(5_000))
    head = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n" + lines + b"\r\n"
    assert_refused(await ask(gateway.port, head), 431, "headers_too_large")


async def test_a_head_below_the_limit_is_answered(gateway: GatewayProcess) -> None:
    head = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-long: " + b"a" * 60_000 + b"\r\n\r\n"
    status, _, _ = await ask(gateway.port, head)
    assert status == 200


async def test_trailers_that_never_end_are_refused_with_431(gateway: GatewayProcess) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    answer = await ask(gateway.port, head + b"2\r\n{}\r\n0\r\nx-trailer: " + b"a" * 400_000)
    assert_refused(answer, 431, "headers_too_large")


async def test_a_declared_body_above_the_limit_is_refused_before_it_is_sent(gateway: GatewayProcess) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100001\r\n\r\n"
    assert_refused(await ask(gateway.port, head), 413, "request_too_large")


async def test_a_chunked_body_is_counted_while_it_is_read(gateway: GatewayProcess) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    answer = await ask(
        gateway.port, head + b"8000\r\n" + b"a" * 0x8000 + b"\r\n" + (b"8000\r\n" + b"a" * 0x8000 + b"\r\n") * 40
    )
    assert_refused(answer, 413, "request_too_large")


async def test_headers_that_drip_are_cut_at_an_absolute_deadline(gateway: GatewayProcess) -> None:
    began = monotonic()
    answer = await drip(gateway.port, b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx-slow: ", b"a")
    assert_refused(answer, 408, "request_timeout")
    assert 0.9 < monotonic() - began < 4.0


async def test_a_body_that_drips_is_cut_at_an_absolute_deadline(gateway: GatewayProcess) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n"
    assert_refused(await drip(gateway.port, head, b"a"), 408, "body_timeout")


async def drip(port: int, first: bytes, drop: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    """Send a byte every 100 ms until the gateway answers."""

    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(first)
    reading = asyncio.Event()
    received = b""

    async def read() -> None:
        nonlocal received
        received = await reader.read()
        reading.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read())
        while not reading.is_set():
            with contextlib.suppress(ConnectionError):
                writer.write(drop)
                await writer.drain()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reading.wait(), 0.1)
    writer.close()
    return parse_answer(received)


async def test_a_connection_without_a_byte_is_closed_in_silence(gateway: GatewayProcess) -> None:
    assert await ask(gateway.port, b"", seconds=5.0) == (0, {}, b"")


async def test_half_a_second_between_fragments_is_fine(gateway: GatewayProcess) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(GET[:20])
    await asyncio.sleep(0.6)  # the gap itself is what is tested
    writer.write(GET[20:])
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "br", "deflate"])
async def test_a_compressed_body_is_refused_with_415(gateway: GatewayProcess, encoding: str) -> None:
    request = post(BODY, "/v1/chat/completions", f"content-encoding: {encoding}")
    assert_refused(await ask(gateway.port, request), 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
            b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            id="content-length and transfer-encoding",
        ),
        pytest.param(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
            b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
            id="transfer-encoding and content-length",
        ),
        pytest.param(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
            b"content-length: 4\r\ncontent-length: 5\r\n\r\nabcde",
            id="two content-lengths",
        ),
        pytest.param(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n", id="negative length"
        ),
        pytest.param(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
            b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            id="a transfer-encoding beside chunked",
        ),
        pytest.param(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
            id="an unknown transfer-encoding",
        ),
        pytest.param(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n transfer-encoding: chunked\r\n\r\n",
            id="a folded header",
        ),
        pytest.param(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n\r\n", id="two hosts"),
        pytest.param(b"GET /v1/models HTTP/1.1\r\n\r\n", id="no host"),
        pytest.param(b"GET /v1/models HTTP/1.1\r\nhost: localhost/health?\r\n\r\n", id="a path in the host"),
        pytest.param(b"GET /v1/models HTTP/1.1\r\nhost: user@localhost\r\n\r\n", id="a user in the host"),
        pytest.param(b"GET /v1/models HTTP/1.1\r\nhost:\r\n\r\n", id="an empty host"),
        pytest.param(b"GET /v1/mod\x01els HTTP/1.1\r\nhost: localhost\r\n\r\n", id="a control character in the path"),
        pytest.param(b"nonsense\r\n\r\n", id="no HTTP at all"),
    ],
)
async def test_what_could_be_read_in_two_ways_is_refused_with_400(
    gateway: GatewayProcess, engine: FakeEngine, request_bytes: bytes
) -> None:
    assert_refused(await ask(gateway.port, request_bytes), 400, "bad_request")
    assert engine.requests == []


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/chat/completions", "/docs", "/nowhere"])
async def test_a_foreign_host_is_refused_on_every_path(gateway: GatewayProcess, path: str) -> None:
    request = f"GET {path} HTTP/1.1\r\nhost: attacker.example\r\nconnection: close\r\n\r\n".encode()
    assert_refused(await ask(gateway.port, request), 403, "host_not_allowed")


async def test_a_foreign_origin_is_refused_before_its_body_is_read(gateway: GatewayProcess, engine: FakeEngine) -> None:
    request = post(BODY, "/v1/chat/completions", "origin: https://attacker.example")
    assert_refused(await ask(gateway.port, request), 403, "origin_not_allowed")
    assert engine.requests == []


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:4000", "127.0.0.1:4000", "[::1]:4000", "host.docker.internal"]
)
async def test_names_of_this_machine_are_answered(gateway: GatewayProcess, host: str) -> None:
    request = f"GET /health/live HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode()
    status, _, _ = await ask(gateway.port, request)
    assert status == 200


async def test_a_client_that_expects_continue_is_told_to_go_on(gateway: GatewayProcess) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    request = post(BODY, "/v1/chat/completions", "expect: 100-continue")
    writer.write(request.removesuffix(BODY))
    assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
    writer.write(BODY)
    await reader.readline()
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_pipelined_requests_are_answered_in_order(gateway: GatewayProcess) -> None:
    first = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"
    second = b"GET /nowhere HTTP/1.1\r\nhost: localhost\r\n\r\n"
    status, _, rest = await ask(gateway.port, first + second + GET)
    assert status == 200
    assert rest.index(b"HTTP/1.1 404") < rest.index(b"HTTP/1.1 200")


async def test_slow_attackers_do_not_hold_up_others(gateway: GatewayProcess) -> None:
    idle = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(200)]
    for _, writer in idle:
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{")
    status, _, _ = await ask(gateway.port, post(BODY))
    assert status == 200
    for reader, _ in idle:
        assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 408")
    for _, writer in idle:
        writer.close()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not valid JSON"),
        (b'{"model": "m",', "not valid JSON"),
        (b'["model"]', "Expected `object`, got `array`"),
        (b"{}", "missing required field `model`"),
        (b'{"model": 1}', "$.model"),
        (b'{"model": "\xff"}', "not valid JSON"),
        (b'{"model": "m", "stream": "yes"}', "$.stream"),
        (b'{"model": "m", "n": 1000000}', "n must be from 1 to 128"),
        (b'{"model": "m", "max_tokens": 1e300}', "max_tokens must be at most"),
        (b'{"model": "' + b"m" * 600 + b'"}', "model must be a name"),
        (b'{"model": "m", "messages": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", "nested too deeply"),
    ],
)
async def test_a_body_that_is_no_request_is_answered_with_400_and_the_place(
    gateway: GatewayProcess, engine: FakeEngine, body: bytes, message: str
) -> None:
    status, _, answer = await ask(gateway.port, post(body))
    assert status == 400
    assert message in msgspec.json.decode(answer)["error"]["message"]
    assert engine.requests == []
