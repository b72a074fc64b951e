"""Daemon and worker over a real socket: hello with descriptors, messages both ways, redial, strangers turned away."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aigw_daemon.identity import boot_id, start_ticks
from aigw_daemon.link.daemon import LinkServer, WorkerConnection
from aigw_daemon.link.messages import Applied, Demand, Down, GatewayView, Hello, Records, RequestRecord, Snapshot, Tail
from aigw_daemon.link.worker import KEPT_WHILE_AWAY, WorkerLink
from tests.support.wait import eventually

COOKIE = "cookie-of-this-test"


def hello(cookie: str = COOKIE, pid: int | None = None) -> Hello:
    return Hello(
        link_version=1,
        aigw_version="0",
        pid=pid or os.getpid(),
        start_ticks=start_ticks(os.getpid()) or 0,
        boot_id=boot_id(),
        cookie=cookie,
        in_flight=0,
        listeners=1,
    )


class Daemon:
    """Collects the connections that the server under test accepts."""

    def __init__(self) -> None:
        self.connections: asyncio.Queue[WorkerConnection] = asyncio.Queue()
        self.received: asyncio.Queue[object] = asyncio.Queue()

    async def accept(self, connection: WorkerConnection) -> None:
        self.connections.put_nowait(connection)
        async for message in connection.messages():
            self.received.put_nowait(message)


@asynccontextmanager
async def serving(path: Path, daemon: Daemon) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        server = tasks.create_task(LinkServer(path, COOKIE, daemon.accept).run())
        try:
            yield
        finally:
            server.cancel()


@asynccontextmanager
async def dialing(
    path: Path, receive: Callable[[Down], None], greeting: Hello | None = None
) -> AsyncIterator[WorkerLink]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        link = WorkerLink(path, lambda: greeting or hello(), [listener], receive)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(link.run())
            try:
                yield link
            finally:
                running.cancel()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "link.sock"


async def test_a_worker_says_hello_and_its_listener_arrives_working(path: Path) -> None:
    daemon = Daemon()
    async with serving(path, daemon), dialing(path, lambda _: None):
        connection = await asyncio.wait_for(daemon.connections.get(), 5)
        assert connection.hello.pid == os.getpid()
        (listener,) = connection.listeners
        listener.setblocking(False)
        with socket.create_connection(listener.getsockname()):
            accepted, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(listener), 5)
        accepted.close()
        listener.close()


async def test_messages_go_both_ways(path: Path) -> None:
    daemon = Daemon()
    heard: asyncio.Queue[Down] = asyncio.Queue()
    async with serving(path, daemon), dialing(path, heard.put_nowait) as link:
        connection = await asyncio.wait_for(daemon.connections.get(), 5)
        snapshot = Snapshot(revision=7, profile="p", gateway=GatewayView(), backends=(), routes=())
        connection.send(snapshot)
        connection.send(Tail(on=True))
        assert [await heard.get(), await heard.get()] == [snapshot, Tail(on=True)]
        link.send(Demand(backend="a", model="m"))
        assert await asyncio.wait_for(daemon.received.get(), 5) == Demand(backend="a", model="m")
        connection.listeners[0].close()


async def test_a_worker_redials_and_delivers_what_it_kept(path: Path) -> None:
    heard: asyncio.Queue[Down] = asyncio.Queue()
    async with dialing(path, heard.put_nowait) as link:
        link.send(Demand(backend="kept", model="m"))
        for _ in range(2):  # the first daemon leaves, a second one comes
            daemon = Daemon()
            async with serving(path, daemon):
                connection = await asyncio.wait_for(daemon.connections.get(), 5)
                link.send(Demand(backend="said", model="m"))
                names = {(await asyncio.wait_for(daemon.received.get(), 5)).backend for _ in range(1)}  # type: ignore[attr-defined]
                assert names <= {"kept", "said"}
                connection.listeners[0].close()


async def test_records_beyond_the_limit_are_counted_as_dropped(path: Path) -> None:
    daemon = Daemon()
    record = RequestRecord("id", 0.0, "/v1/chat/completions", "m", 200, stream=False, duration_ms=1.0, overhead_ms=0.1)
    async with dialing(path, lambda _: None) as link:
        for _ in range(KEPT_WHILE_AWAY + 3):
            link.send(Records(records=(record,)))
        async with serving(path, daemon):
            connection = await asyncio.wait_for(daemon.connections.get(), 5)
            got = [await asyncio.wait_for(daemon.received.get(), 5) for _ in range(KEPT_WHILE_AWAY + 1)]
            connection.listeners[0].close()
    kept = sum(len(message.records) for message in got if isinstance(message, Records))
    dropped = sum(message.dropped for message in got if isinstance(message, Records))
    assert (kept, dropped) == (KEPT_WHILE_AWAY, 3)


@pytest.mark.parametrize("greeting", [hello(cookie="of another aigw"), hello(pid=1)], ids=["cookie", "pid"])
async def test_a_stranger_is_turned_away(path: Path, greeting: Hello, caplog: pytest.LogCaptureFixture) -> None:
    daemon = Daemon()
    async with serving(path, daemon), dialing(path, lambda _: None, greeting):
        await eventually(lambda: "turned away" in caplog.text, what="the warning")
        assert daemon.connections.empty()


async def test_an_acknowledgement_is_not_kept_for_another_daemon(path: Path) -> None:
    daemon = Daemon()
    async with dialing(path, lambda _: None) as link:
        link.send(Applied(7))
        link.send(Demand(backend="kept", model="m"))
        async with serving(path, daemon):
            connection = await asyncio.wait_for(daemon.connections.get(), 5)
            assert await asyncio.wait_for(daemon.received.get(), 5) == Demand(backend="kept", model="m")
            connection.listeners[0].close()
