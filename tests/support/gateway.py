"""A real gateway worker process with a test in the daemon's place: real link, real sockets, snapshots of our choice."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from aigw_daemon.link.daemon import LinkServer, WorkerConnection
from aigw_daemon.link.messages import (
    BackendView,
    CacheView,
    Down,
    GatewayView,
    ModelView,
    Records,
    RequestRecord,
    RouteView,
    Snapshot,
    TargetView,
    Up,
)
from aigw_daemon.words import EngineKind, State
from tests.support.wait import eventually

COOKIE = "a-test"
M = TypeVar("M", bound=Up)


def backend(
    name: str,
    port: int,
    *,
    models: Iterable[str] = ("m",),
    state: State = State.READY,
    engine: EngineKind = EngineKind.LLAMACPP,
    wanted: bool = True,
    why: str | None = None,
) -> BackendView:
    """A backend on loopback as the daemon would show it."""
    views = tuple(ModelView(id=model, created=1_700_000_000, context=4096) for model in models)
    return BackendView(
        name, engine, state, since=1_700_000_000.0, host="127.0.0.1", port=port, models=views, wanted=wanted, why=why
    )


def route(name: str, *targets: tuple[str, str], cold: str = "wait", pattern: bool = False) -> RouteView:
    """A route to (backend, model) targets."""
    return RouteView(name, tuple(TargetView(*target) for target in targets), cold=cold, pattern=pattern)


def snapshot(
    *backends: BackendView,
    routes: Iterable[RouteView] = (),
    gateway: GatewayView | None = None,
    cache: CacheView | None = None,
    revision: int = 1,
) -> Snapshot:
    """What the daemon would push. Unless ``cache`` says otherwise no answer is kept: most tests are about engines."""
    off = CacheView(mode="off")
    return Snapshot(revision, "test", gateway or GatewayView(), backends, tuple(routes), cache=cache or off)


class GatewayProcess:
    """A worker, what it said, and the ways to talk to it as its daemon."""

    def __init__(self, process: subprocess.Popen[bytes], listener: socket.socket) -> None:
        self.process = process
        self.listener = listener
        self.messages: list[Up] = []
        self.connection: WorkerConnection | None = None
        self._last: Snapshot | None = None
        self._revision = 0

    @property
    def port(self) -> int:
        """Where it serves."""
        return int(self.listener.getsockname()[1])

    @property
    def url(self) -> str:
        """The base URL without ``/v1``."""
        return f"http://127.0.0.1:{self.port}"

    async def accept(self, connection: WorkerConnection) -> None:
        """The daemon's side of the link: push the snapshot at hello, keep what comes."""
        for carried in connection.listeners:
            carried.close()
        self.connection = connection
        if self._last is not None:
            connection.send(self._last)
        async for message in connection.messages():
            self.messages.append(message)

    def push(self, message: Down) -> None:
        """Send to the worker now, and a snapshot again whenever it comes back."""
        if isinstance(message, Snapshot):
            self._last = message
        if self.connection is not None:
            self.connection.send(message)

    async def apply(self, wanted: Snapshot) -> None:
        """Push a snapshot and return when it counts: ``/health`` then shows its profile."""
        self._revision += 1
        name = f"test-{self._revision}"
        self.push(msgspec.structs.replace(wanted, profile=name, revision=self._revision))
        request = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        async with asyncio.timeout(10):
            while msgspec.json.decode((await ask(self.port, request))[2])["profile"] != name:
                pass  # every question is an exchange with another process, so this doesn't spin

    async def start_over(self, wanted: Snapshot) -> None:
        """Apply a snapshot as if each of its processes had just been started: no circuit remembers the ones before."""
        stopped = tuple(msgspec.structs.replace(backend, state=State.STOPPED) for backend in wanted.backends)
        self.push(msgspec.structs.replace(wanted, backends=stopped))
        await self.apply(wanted)

    def said(self, kind: type[M]) -> list[M]:
        """All messages of a kind so far."""
        return [message for message in self.messages if isinstance(message, kind)]

    @property
    def records(self) -> list[RequestRecord]:
        """All records so far."""
        return [record for batch in self.said(Records) for record in batch.records]

    async def record_of(self, headers: dict[bytes, bytes]) -> RequestRecord:
        """The record of the answer with these headers, as soon as it is there."""
        wanted = headers[b"x-aigw-request-id"].decode()
        return await self.record_where(lambda record: record.id == wanted)

    async def record_where(self, fits: Callable[[RequestRecord], bool]) -> RequestRecord:
        """The first record that fits, as soon as it is there."""
        await eventually(lambda: any(map(fits, self.records)), what="the record")
        return next(filter(fits, self.records))

    async def ended(self, seconds: float = 20.0) -> int:
        """The exit code, once it has ended."""
        await eventually(lambda: self.process.poll() is not None, seconds=seconds, what="the worker's end")
        return self.process.returncode


@contextlib.asynccontextmanager
async def gateway_process(first: Snapshot | None = None) -> AsyncIterator[GatewayProcess]:
    """Start a worker on a free port and wait until it serves the snapshot; end it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="aigw-"))  # a Unix socket's path must be short
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            gateway = GatewayProcess(_spawn(folder / "link.sock", listener), listener)
            link = LinkServer(folder / "link.sock", COOKIE, gateway.accept)
            async with asyncio.TaskGroup() as tasks:
                serving = tasks.create_task(link.run())
                try:
                    await eventually(lambda: gateway.connection is not None, seconds=20.0, what="the hello")
                    if first is not None:
                        await gateway.apply(first)
                    yield gateway
                finally:
                    _end(gateway.process)
                    serving.cancel()
    finally:
        shutil.rmtree(folder)


def _spawn(link: Path, listener: socket.socket) -> subprocess.Popen[bytes]:
    descriptor = str(listener.fileno())
    return subprocess.Popen(
        [sys.executable, "-m", "aigw_daemon.gateway.worker", "--link", str(link), "--listen", descriptor],
        pass_fds=[listener.fileno()],
        env={**os.environ, "AIGW_INSTANCE": COOKIE},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def ask(port: int, request: bytes, *, seconds: float = 10.0) -> tuple[int, dict[bytes, bytes], bytes]:
    """Send raw bytes and read until the other side closes: status, headers (lower case), body as it came."""
    async with asyncio.timeout(seconds):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            received = await reader.read()
        finally:
            writer.close()
    return parse_answer(received)


def parse_answer(received: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers and body of the one answer in these bytes; status 0 when there is none."""
    if not received:
        return 0, {}, b""
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
    return int(lines[0].split(b" ")[1]), headers, body


def post(body: bytes, path: str = "/v1/chat/completions", *lines: str, close: bool = True) -> bytes:
    """A raw POST with the headers that every client sends."""
    fixed = [f"POST {path} HTTP/1.1", "host: localhost", "content-type: application/json"]
    framing = [f"content-length: {len(body)}", "connection: close" if close else "connection: keep-alive"]
    return "\r\n".join([*fixed, *framing, *lines, "", ""]).encode() + body


def unchunked(body: bytes) -> bytes:
    """The bytes of a complete chunked body."""
    whole = bytearray()
    while True:
        size, _, body = body.partition(b"\r\n")
        if int(size, 16) == 0:
            return bytes(whole)
        whole += body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]


def data_of(events: bytes) -> list[bytes]:
    """The data lines of a stream of events."""
    return [line.removeprefix(b"data: ") for line in events.splitlines() if line.startswith(b"data: ")]
