"""A stream after its first byte: passed on as it arrives, ended whole or with one error, stopped with its client."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from aigw_daemon.link.messages import GatewayView, Load, Snapshot, Started, Tail
from tests.support.fake_engine import (
    DONE,
    FINISH,
    HELLO,
    STREAM_END,
    STREAM_HEAD,
    USAGE,
    Behaviour,
    EngineRequest,
    FakeEngine,
    chunk,
    fake_engine,
    hangs,
    says,
    says_and_hangs_up,
    stream,
)
from tests.support.gateway import (
    GatewayProcess,
    ask,
    backend,
    data_of,
    gateway_process,
    post,
    route,
    snapshot,
    unchunked,
)
from tests.support.wait import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

STREAM = b'{"model":"m","messages":[],"stream":true}'
STREAM_WITH_USAGE = b'{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":true}}'
WHOLE = b'{"model":"m","messages":[]}'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running_engine() -> AsyncIterator[FakeEngine]:
    async with fake_engine(says(b"")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker() -> AsyncIterator[GatewayProcess]:
    async with gateway_process(snapshot()) as running:
        yield running


@pytest.fixture
def engine(running_engine: FakeEngine) -> FakeEngine:
    running_engine.requests.clear()
    return running_engine


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(worker: GatewayProcess, engine: FakeEngine) -> GatewayProcess:
    worker.messages.clear()
    await worker.start_over(over(engine))
    return worker


def over(engine: FakeEngine, timeout: float = 30.0) -> Snapshot:
    """One route to one engine."""
    limits = GatewayView(request_timeout=timeout)
    return snapshot(backend("b", engine.port), routes=[route("m", ("b", "m"))], gateway=limits)


async def events(gateway: GatewayProcess, body: bytes = STREAM) -> bytes:
    """The whole stream as the client gets it."""
    status, _, answer = await ask(gateway.port, post(body))
    assert status == 200
    return unchunked(answer)


@contextlib.asynccontextmanager
async def client(
    gateway: GatewayProcess, body: bytes = STREAM
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client that has asked and may leave at any time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(post(body))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def in_steps(*pieces: bytes, gate: asyncio.Event | None = None) -> Behaviour:
    """Send each piece in a packet of its own; after the first wait for ``gate``."""

    async def send(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        for number, piece in enumerate(pieces):
            if number == 1 and gate is not None:
                await gate.wait()
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.005)  # so that the kernel doesn't join the packets

    return send


async def test_events_arrive_while_the_stream_is_still_running(gateway: GatewayProcess, engine: FakeEngine) -> None:
    gate = asyncio.Event()
    engine.behaviour = in_steps(STREAM_HEAD + chunk(HELLO), chunk(FINISH) + chunk(DONE) + STREAM_END, gate=gate)
    async with client(gateway) as (reader, _):
        await asyncio.wait_for(reader.readuntil(HELLO), 5)
        gate.set()
        await asyncio.wait_for(reader.readuntil(DONE), 5)


async def test_a_streams_headers_say_what_it_is(gateway: GatewayProcess, engine: FakeEngine) -> None:
    engine.behaviour = says(stream(HELLO, FINISH, DONE))
    _, headers, _ = await ask(gateway.port, post(STREAM))
    assert headers[b"content-type"] == b"text/event-stream"
    assert headers[b"x-accel-buffering"] == b"no"
    assert headers[b"cache-control"] == b"private, no-store"
    assert headers[b"x-aigw-backend"] == b"b"


async def test_usage_is_asked_for_counted_and_taken_out_again(gateway: GatewayProcess, engine: FakeEngine) -> None:
    engine.behaviour = says(stream(HELLO, FINISH, USAGE, DONE))
    _, headers, body = await ask(gateway.port, post(STREAM))
    assert unchunked(body) == HELLO + FINISH + DONE
    assert engine.requests[0].json["stream_options"] == {"include_usage": True}
    record = await gateway.record_of(headers)
    assert (record.prompt_tokens, record.completion_tokens, record.finish_reason) == (3, 2, "stop")
    assert record.ttft_ms is not None
    assert record.stream


async def test_usage_that_the_client_asked_for_is_passed_on(gateway: GatewayProcess, engine: FakeEngine) -> None:
    engine.behaviour = says(stream(HELLO, FINISH, USAGE, DONE))
    assert await events(gateway, STREAM_WITH_USAGE) == HELLO + FINISH + USAGE + DONE
    assert engine.requests[0].body == STREAM_WITH_USAGE


@pytest.mark.parametrize("options", ["null", "{}", '{"include_usage":false,"x":1}'])
async def test_other_stream_options_are_kept(gateway: GatewayProcess, engine: FakeEngine, options: str) -> None:
    engine.behaviour = says(stream(HELLO, FINISH, USAGE, DONE))
    body = f'{{"model":"m","stream":true,"stream_options":{options}}}'.encode()
    assert await events(gateway, body) == HELLO + FINISH + DONE
    asked = engine.requests[0].json["stream_options"]
    assert asked == {**(msgspec.json.decode(options) or {}), "include_usage": True}


async def test_pieces_of_any_size_pass_byte_exact(gateway: GatewayProcess, engine: FakeEngine) -> None:
    odd = (
        (
            b": a comment\n\n"
            b'data: {"choices":[{"index":0,"delta":{"content":"\xc3\xa9\xf0\x9f\x98\x80"}}]}\r\n\r\n'
            b"event: junk\ndata: not json\n\n"
            b'id: 7\ndata: {"choices":[{"index":0,"delta":{"content":"data: [DONE]\\n\\n"},"finish_reason":null}]}\n\n'
        )
        + FINISH
        + DONE
    )
    engine.behaviour = in_steps(STREAM_HEAD, *(chunk(odd[at : at + 3]) for at in range(0, len(odd), 3)), STREAM_END)
    assert await events(gateway) == odd


async def test_a_huge_event_passes_within_bounded_memory(gateway: GatewayProcess, engine: FakeEngine) -> None:
    huge = b'data: {"choices":[],"x":"' + b"y" * 40_000_000 + b'"}\n\n'
    before = resident(gateway.process.pid)

    async def send(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(HELLO))
        for at in range(0, len(huge), 60_000):
            writer.write(chunk(huge[at : at + 60_000]))
            await writer.drain()
        writer.write(chunk(FINISH) + chunk(DONE) + STREAM_END)

    engine.behaviour = send
    assert await events(gateway) == HELLO + huge + FINISH + DONE
    assert resident(gateway.process.pid) - before < 30_000_000


def resident(pid: int) -> int:
    """Bytes of memory in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        pytest.param(says(stream(HELLO)), "stream_cut", id="a clean end without a finish_reason"),
        pytest.param(says(stream(HELLO, DONE)), "stream_cut", id="a false [DONE]"),
        pytest.param(says_and_hangs_up(STREAM_HEAD + chunk(HELLO)), "stream_cut", id="a closed connection"),
        pytest.param(
            says(stream(HELLO, b'data: {"error":{"message":"boom"}}\n\n', DONE)),
            "provider_failure",
            id="an error event",
        ),
        pytest.param(in_steps(STREAM_HEAD + chunk(HELLO), b"zz\r\n"), "stream_cut", id="broken framing"),
    ],
)
async def test_a_cut_stream_ends_with_one_error_and_no_done(
    gateway: GatewayProcess, engine: FakeEngine, behaviour: Behaviour, code: str
) -> None:
    engine.behaviour = behaviour
    _, headers, body = await ask(gateway.port, post(STREAM))
    got = unchunked(body)
    assert got.startswith(HELLO)
    assert b"[DONE]" not in got
    (last,) = data_of(got.removeprefix(HELLO))
    assert msgspec.json.decode(last)["error"]["code"] == code
    record = await gateway.record_of(headers)
    assert record.error is not None
    assert record.error.startswith(code)


async def test_every_choice_must_finish_unless_the_engine_says_that_it_is_done(
    gateway: GatewayProcess, engine: FakeEngine
) -> None:
    second = FINISH.replace(b'"index":0', b'"index":1')
    body = b'{"model":"m","n":2,"stream":true}'
    engine.behaviour = says(stream(HELLO, FINISH))
    assert b"stream_cut" in await events(gateway, body)
    engine.behaviour = says(stream(HELLO, FINISH, DONE))
    assert await events(gateway, body) == HELLO + FINISH + DONE
    engine.behaviour = says(stream(HELLO, FINISH, second, DONE))
    assert await events(gateway, body) == HELLO + FINISH + second + DONE


async def test_a_deadline_in_mid_stream_ends_it_with_an_error(gateway: GatewayProcess, engine: FakeEngine) -> None:
    engine.behaviour = hangs_in_mid_stream
    await gateway.apply(over(engine, timeout=0.5))
    got = await events(gateway)
    assert msgspec.json.decode(data_of(got)[-1])["error"]["code"] == "timeout"
    await asyncio.wait_for(engine.requests[0].gone.wait(), 1)


async def hangs_after_headers(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM_HEAD)
    await asyncio.Event().wait()


async def hangs_in_mid_stream(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM_HEAD + chunk(HELLO))
    await asyncio.Event().wait()


async def hangs_in_mid_body(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{")
    await asyncio.Event().wait()


async def floods(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM_HEAD)
    while True:
        writer.write(chunk(HELLO * 100))
        await writer.drain()


@pytest.mark.parametrize(
    ("behaviour", "body"),
    [
        pytest.param(hangs, STREAM, id="waiting for headers"),
        pytest.param(hangs_after_headers, STREAM, id="waiting for the first event"),
        pytest.param(hangs_in_mid_stream, STREAM, id="in mid-stream"),
        pytest.param(floods, STREAM, id="in mid-stream and behind"),
        pytest.param(hangs, WHOLE, id="not streamed, waiting for headers"),
        pytest.param(hangs_in_mid_body, WHOLE, id="not streamed, in mid-body"),
    ],
)
async def test_a_client_that_leaves_stops_the_generation_within_a_second(
    gateway: GatewayProcess, engine: FakeEngine, behaviour: Behaviour, body: bytes
) -> None:
    engine.behaviour = behaviour
    async with client(gateway, body) as (reader, _):
        await engine.request()
        if behaviour in {hangs_in_mid_stream, floods}:
            await reader.readuntil(HELLO)
        await eventually(lambda: in_flight(gateway) == {"b": 1}, what="the load of one request")
    await asyncio.wait_for(engine.requests[0].gone.wait(), 1.0)
    record = await gateway.record_where(lambda record: (record.error or "").startswith("client_left"))
    assert (record.model, record.stream) == ("m", body is STREAM)
    await eventually(lambda: in_flight(gateway) == {"b": 0}, what="no load")


def in_flight(gateway: GatewayProcess) -> dict[str, int]:
    """As the daemon was told last."""
    loads = gateway.said(Load)
    return loads[-1].in_flight if loads else {}


async def test_hundreds_of_clients_that_leave_leave_nothing_behind(gateway: GatewayProcess, engine: FakeEngine) -> None:
    engine.behaviour = hangs_in_mid_stream
    before = sockets(gateway.process.pid)

    async def come_and_go(number: int) -> None:
        async with client(gateway):
            await asyncio.sleep(number % 50 / 1000)  # a moment of its own for each

    async with asyncio.TaskGroup() as tasks:
        for number in range(300):
            tasks.create_task(come_and_go(number))
    await eventually(lambda: all(request.gone.is_set() for request in engine.requests), what="all upstreams closed")
    await eventually(lambda: sockets(gateway.process.pid) <= before, what="all sockets closed")
    engine.behaviour = says(stream(HELLO, FINISH, DONE))
    assert await events(gateway) == HELLO + FINISH + DONE


def sockets(pid: int) -> int:
    """Open sockets of a process."""
    links = (path.readlink() for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink())
    return sum(str(link).startswith("socket:") for link in links)


async def test_a_client_that_reads_nothing_holds_back_the_engine(gateway: GatewayProcess, engine: FakeEngine) -> None:
    sent = 0

    async def flood(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(STREAM_HEAD)
        while True:
            writer.write(chunk(HELLO * 1000))
            await writer.drain()
            sent += 1

    engine.behaviour = flood
    before = resident(gateway.process.pid)
    async with client(gateway):
        await engine.request()
        seen = -1
        while seen != sent:
            seen = sent
            await asyncio.sleep(0.3)  # it is held back once nothing more is taken for a while
        assert resident(gateway.process.pid) - before < 20_000_000


async def test_starts_are_told_only_while_somebody_tails(gateway: GatewayProcess, engine: FakeEngine) -> None:
    engine.behaviour = says(stream(HELLO, FINISH, DONE))
    await events(gateway)
    gateway.push(Tail(on=True))
    await gateway.apply(over(engine))
    await events(gateway)
    await eventually(lambda: len(gateway.said(Started)) == 1, what="one start")
    gateway.push(Tail(on=False))
    await gateway.apply(over(engine))
    await events(gateway)
    assert len(gateway.said(Started)) == 1


async def test_an_http_1_0_client_gets_a_stream_that_ends_with_its_connection(
    gateway: GatewayProcess, engine: FakeEngine
) -> None:
    engine.behaviour = says(stream(HELLO, FINISH, DONE))
    head = f"POST /v1/chat/completions HTTP/1.0\r\ncontent-length: {len(STREAM)}\r\n\r\n".encode()
    status, headers, body = await ask(gateway.port, head + STREAM)
    assert (status, body) == (200, HELLO + FINISH + DONE)
    assert b"transfer-encoding" not in headers
