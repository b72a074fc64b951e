"""A drain loses nothing that was accepted, ends what outlasts its grace with an error, and leaves the socket alone."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from time import monotonic

import msgspec
import pytest

from aigw_daemon.link.messages import Drain
from tests.support.fake_engine import (
    CHAT_ANSWER,
    DONE,
    FINISH,
    HELLO,
    STREAM_END,
    STREAM_HEAD,
    EngineRequest,
    FakeEngine,
    chunk,
    fake_engine,
    whole,
)
from tests.support.gateway import (
    GatewayProcess,
    ask,
    backend,
    data_of,
    gateway_process,
    parse_answer,
    post,
    route,
    snapshot,
    unchunked,
)
from tests.support.wait import eventually

WHOLE = b'{"model":"m","messages":[]}'
STREAM = b'{"model":"m","messages":[],"stream":true}'


class Gate:
    """Engines answer when it opens."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def answer(self, request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        """Half a stream at once and the rest later, or the whole answer later."""
        streaming = b'"stream":true' in request.body
        writer.write(STREAM_HEAD + chunk(HELLO) if streaming else b"")
        await self.opened.wait()
        writer.write(chunk(FINISH) + chunk(DONE) + STREAM_END if streaming else whole())


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def engine(gate: Gate) -> AsyncIterator[FakeEngine]:
    async with fake_engine(gate.answer) as running:
        yield running


@pytest.fixture
async def gateway(engine: FakeEngine) -> AsyncIterator[GatewayProcess]:
    async with gateway_process(snapshot(backend("b", engine.port), routes=[route("m", ("b", "m"))])) as running:
        yield running


async def accepted(gateway: GatewayProcess, count: int) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connections that the worker has accepted and read nothing from."""
    opened = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(count)]
    # The worker accepts in order: once a later connection is answered, the earlier ones are its own.
    await ask(gateway.port, b"GET /health/live HTTP/1.0\r\n\r\n")
    return opened


async def test_nothing_that_was_accepted_is_dropped(gateway: GatewayProcess, engine: FakeEngine, gate: Gate) -> None:
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(ask(gateway.port, post(WHOLE, close=False))) for _ in range(50)]
        running += [tasks.create_task(ask(gateway.port, post(STREAM, close=False))) for _ in range(50)]
        await eventually(lambda: len(engine.requests) == 100, what="all requests at the engine")
        unread = await accepted(gateway, 50)
        gateway.push(Drain(grace=10.0))
        await eventually(lambda: refuses(gateway), what="no more accepting")
        for _, writer in unread:
            writer.write(post(WHOLE, close=False))
        await eventually(lambda: len(engine.requests) == 150, what="the late requests at the engine")
        gate.opened.set()
    for task in running:
        status, headers, body = task.result()
        assert status == 200
        if b"content-length" in headers:
            assert (headers[b"connection"], body) == (b"close", CHAT_ANSWER)
        else:
            assert unchunked(body) == HELLO + FINISH + DONE
    for reader, writer in unread:
        status, headers, body = parse_answer(await reader.read())
        assert (status, headers[b"connection"], body) == (200, b"close", CHAT_ANSWER)
        writer.close()
    assert await gateway.ended() == 0


def refuses(gateway: GatewayProcess) -> bool:
    """Whether the worker has let go of the listener: a new connection then waits in the kernel's queue unanswered."""
    with socket.create_connection(("127.0.0.1", gateway.port)) as probe:
        probe.settimeout(0.2)
        probe.sendall(b"GET /health/live HTTP/1.0\r\n\r\n")
        try:
            return not probe.recv(1)
        except TimeoutError:
            return True


async def test_the_listening_socket_survives_the_worker(gateway: GatewayProcess) -> None:
    gateway.push(Drain(grace=5.0))
    assert await gateway.ended() == 0
    with socket.create_connection(("127.0.0.1", gateway.port)):
        gateway.listener.settimeout(5)
        connection, _ = gateway.listener.accept()
        connection.close()


async def test_an_idle_worker_ends_soon_after_sigterm(gateway: GatewayProcess) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
    await reader.readuntil(b"}")
    began = monotonic()
    gateway.process.send_signal(signal.SIGTERM)
    assert await gateway.ended() == 0
    assert monotonic() - began < 4.0
    writer.close()


async def test_what_outlasts_the_grace_ends_with_an_error_event(gateway: GatewayProcess, engine: FakeEngine) -> None:
    async with asyncio.TaskGroup() as tasks:
        streamed = tasks.create_task(ask(gateway.port, post(STREAM, close=False)))
        held = tasks.create_task(ask(gateway.port, post(WHOLE, close=False)))
        await eventually(lambda: len(engine.requests) == 2, what="both at the engine")
        gateway.push(Drain(grace=0.3))
    got = unchunked(streamed.result()[2])
    assert got.startswith(HELLO)
    assert "shutting down" in msgspec.json.decode(data_of(got)[-1])["error"]["message"]
    status, headers, _ = held.result()
    assert (status, b"retry-after" in headers) == (503, True)
    assert await gateway.ended() == 0


async def test_a_second_sigterm_ends_it_at_once(gateway: GatewayProcess, engine: FakeEngine) -> None:
    async with asyncio.TaskGroup() as tasks:
        streamed = tasks.create_task(ask(gateway.port, post(STREAM, close=False)))
        await engine.request()
        gateway.process.send_signal(signal.SIGTERM)
        await eventually(lambda: refuses(gateway), what="no more accepting")
        assert gateway.process.poll() is None
        began = monotonic()
        gateway.process.send_signal(signal.SIGTERM)
    assert b"shutting down" in streamed.result()[2]
    assert await gateway.ended() == 0
    assert monotonic() - began < 3.0


async def test_ctrl_c_is_the_daemons_to_hear(gateway: GatewayProcess) -> None:
    gateway.process.send_signal(signal.SIGINT)
    status, _, _ = await ask(gateway.port, b"GET /health/live HTTP/1.0\r\n\r\n")
    assert status == 200


async def test_the_last_records_reach_the_daemon(gateway: GatewayProcess, gate: Gate) -> None:
    gate.opened.set()
    _, headers, _ = await ask(gateway.port, post(WHOLE))
    gateway.push(Drain(grace=5.0))
    assert await gateway.ended() == 0
    assert (await gateway.record_of(headers)).status == 200


async def test_a_worker_without_its_daemon_keeps_serving_and_comes_back(gateway: GatewayProcess, gate: Gate) -> None:
    gate.opened.set()
    before = gateway.connection
    assert before is not None
    before.close()
    status, headers, _ = await ask(gateway.port, post(WHOLE))
    assert status == 200
    await eventually(lambda: gateway.connection is not before, what="another hello")
    assert gateway.connection is not None
    assert gateway.connection.hello.pid == gateway.process.pid
    assert (await gateway.record_of(headers)).status == 200
