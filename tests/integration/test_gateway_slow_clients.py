"""Clients that don't take what they asked for, or hold a connection for nothing; with limits short enough to test."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from aigw_daemon.gateway.server import connection
from aigw_daemon.gateway.server.exchange import Exchange, Interruption
from aigw_daemon.gateway.server.ids import RequestIds
from aigw_daemon.gateway.server.server import Server
from aigw_daemon.gateway.wire import ApiError, status_line
from aigw_daemon.link.messages import GatewayView
from tests.support.wait import eventually

GET = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
PIECE = b"x" * 65_536


class Floods:
    """Sends without end, as fast as its client takes it."""

    def __init__(self) -> None:
        self.sent = 0
        self.ended: Interruption | None = None

    def admit(self, _exchange: Exchange) -> ApiError | None:
        """Everybody may."""
        return None

    async def __call__(self, exchange: Exchange) -> None:
        """Send until interrupted."""
        exchange.start(status_line(200))
        try:
            while True:
                exchange.write(PIECE)
                self.sent += len(PIECE)
                await exchange.drain()
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.ended = exchange.interruption
            raise


class Hello:
    """Answers at once."""

    def admit(self, _exchange: Exchange) -> ApiError | None:
        """Everybody may."""
        return None

    async def __call__(self, exchange: Exchange) -> None:
        """Say hello."""
        exchange.respond(status_line(200), b"hello")


@contextlib.asynccontextmanager
async def serving(application: Floods | Hello) -> AsyncIterator[tuple[Server, int]]:
    """A server in this process, on a free port."""
    server = Server(application, GatewayView(), RequestIds())
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    await server.listen([listener])
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(server.watch())
        try:
            yield server, port
        finally:
            await server.close()
            watching.cancel()


async def test_a_client_that_takes_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "STALL_SECONDS", 0.6)
    flood = Floods()
    async with serving(flood) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(GET)
        await eventually(lambda: flood.ended is not None, what="the end of the stalled stream")
        assert flood.ended is Interruption.STALLED
        await eventually(lambda: server.connections == 0, what="the end of its connection")
        with contextlib.suppress(ConnectionError):
            got = await reader.read()
            assert b"0\r\n\r\n" not in got[-5:]
        writer.close()


async def test_a_slow_client_that_takes_something_is_served_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "STALL_SECONDS", 1.0)
    flood = Floods()
    async with serving(flood) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(GET)
        for _ in range(12):
            await asyncio.sleep(0.2)  # its slowness is what is tested
            await reader.readexactly(500_000)
        assert (flood.ended, server.connections) == (None, 1)
        writer.close()
        await eventually(lambda: flood.ended is Interruption.CLIENT_LEFT, what="the end of the stream")


async def test_an_idle_connection_is_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "KEEP_ALIVE_SECONDS", 0.5)
    async with serving(Hello()) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            writer.write(GET)
            assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        await eventually(lambda: server.connections == 0, what="the end of its connection")
        writer.close()


async def test_a_request_with_two_faults_is_refused_once_and_leaves_no_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The head is refused; then the parser finds that the body's end can't be known either."""
    async with serving(Hello()) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n")
        assert (await reader.read()).count(b"HTTP/1.1 400") == 1
        writer.close()
        await eventually(lambda: server.connections == 0, what="the end of its connection")
    assert caplog.text == ""


async def test_a_bug_in_a_handler_is_one_500_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    class Breaks(Hello):
        async def __call__(self, exchange: Exchange) -> None:
            raise RuntimeError("a bug")

    async with serving(Breaks()) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(GET)
            answer = await reader.readuntil(b"}}")
            assert answer.startswith(b"HTTP/1.1 500")
            assert b"internal_error" in answer
            assert b"a bug" not in answer
        writer.close()
    assert "a bug" in caplog.text
