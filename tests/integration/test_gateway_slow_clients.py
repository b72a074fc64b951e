"""Clients that don't take what they asked for, or hold a connection for nothing; with limits short enough to test."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

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


class Large(Hello):
    """Answers with more than a client's buffers take."""

    BODY = b"x" * 900_000

    async def __call__(self, exchange: Exchange) -> None:
        """In a task, as what an engine answers."""
        self.at_once(exchange)

    def at_once(self, exchange: Exchange) -> bool:
        """Without one, as a kept answer."""
        exchange.respond(status_line(200), self.BODY)
        return True


@contextlib.asynccontextmanager
async def serving(
    application: Floods | Hello, at_once: Callable[[Exchange], bool] | None = None
) -> AsyncIterator[tuple[Server, int]]:
    """A server in this process, on a free port."""
    server = Server(application, GatewayView(), RequestIds(), at_once)
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


@pytest.mark.parametrize("kept", [True, False], ids=["answers that are there", "answers that take a task"])
@pytest.mark.parametrize("together", [True, False], ids=["all at once", "one after the other"])
async def test_who_asks_on_without_taking_the_answers_gets_one_at_a_time(kept: bool, together: bool) -> None:
    large, asked = Large(), 12
    async with serving(large, large.at_once if kept else None) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        if together:
            writer.write(GET * asked)
        else:
            for _ in range(asked):
                writer.write(GET)
                await asyncio.sleep(0.005)  # each comes for itself
        await eventually(lambda: server.connections == 1 and only(server)._waiting, what="requests that wait")
        most = 0
        for _ in range(asked):
            most = max(most, only(server).transport.get_write_buffer_size())
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(len(Large.BODY)) == Large.BODY
        assert most < 1.2 * len(Large.BODY)
        writer.close()


@pytest.mark.parametrize("kept", [True, False], ids=["answers that are there", "answers that take a task"])
async def test_too_many_requests_at_once_are_read_only_as_they_are_answered(kept: bool) -> None:
    large, asked = Large(), 40
    async with serving(large, large.at_once if kept else None) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(GET * asked)
        await eventually(lambda: server.connections == 1 and only(server)._paused, what="a pause in reading")
        assert len(only(server)._waiting) == connection.MAX_PIPELINED
        for _ in range(asked):
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            assert b"connection: close" not in await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(len(Large.BODY))
        assert not only(server)._paused
        writer.write(GET)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()


POST = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 700000\r\n\r\n" + b"x" * 700_000


async def test_large_bodies_behind_a_request_are_read_when_it_is_answered() -> None:
    taken: list[int] = []

    class Takes(Hello):
        async def __call__(self, exchange: Exchange) -> None:
            await asyncio.sleep(0.01)  # until more has come than may wait
            taken.append(len(exchange.body))
            exchange.respond(status_line(200), b"hello")

    async with serving(Takes()) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(POST * 8 + GET)
        for _ in range(9):
            await reader.readuntil(b"hello")
            held = sum(len(one.body) for one in only(server)._waiting) + only(server)._body_size
            assert held <= connection.MAX_PIPELINED_BYTES + 700_000
        assert taken == [700_000] * 8 + [0]
        writer.close()


async def test_a_client_that_leaves_while_its_requests_are_not_read_is_noticed() -> None:
    """Nobody else would: what it sent stands before the end of its connection."""
    ended: list[Interruption | None] = []

    class Waits(Hello):
        async def __call__(self, exchange: Exchange) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(exchange.interruption)

    async with serving(Waits()) as (server, port):
        for leave in ("close", "abort"):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(GET * 1_000)
            await eventually(lambda: server.connections == 1 and only(server)._paused, what="a pause in reading")
            writer.transport.abort() if leave == "abort" else writer.close()
            await eventually(lambda: server.connections == 0, seconds=2.0, what="the end of its connection")
        assert ended == [Interruption.CLIENT_LEFT] * 2


@pytest.mark.parametrize(
    "more",
    [
        b"GET / HTTP/1.1\r\nhost: localhost\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9999999\r\n\r\n",
    ],
    ids=["a head", "a body"],
)
async def test_a_next_request_without_end_is_not_gathered_behind_the_one_that_is_answered(more: bytes) -> None:
    flood, head = Floods(), more.startswith(b"GET")
    async with serving(flood) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(GET + more)
        for _ in range(200):
            writer.write(b"x-more: " + b"x" * 10_000 + b"\r\n")
            await reader.readexactly(10_000)
        await eventually(lambda: only(server)._deaf or only(server)._paused, what="the end of what is heard")
        busy = only(server)
        assert (busy._deaf, busy._paused, busy._waiting) == (head, not head, [])
        if head:
            assert (busy._headers, busy._body, busy._reading) == ([], [], None)
        else:
            assert busy._body_size < connection.MAX_PIPELINED_BYTES + 300_000
        sent = flood.sent
        await reader.readexactly(3_000_000)
        await eventually(lambda: flood.sent > sent, what="the stream going on")
        writer.close()
        await eventually(lambda: flood.ended is Interruption.CLIENT_LEFT, what="the end of the stream")


def only(server: Server) -> connection.Connection:
    """The one connection that there is."""
    (found,) = server._open()
    return found


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
