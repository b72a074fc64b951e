"""A gateway in the test's own process: its lanes, circuits and clocks within reach, real sockets on both sides."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from aigw_daemon.gateway.admission import Lane
from aigw_daemon.gateway.assembly import Gateway
from aigw_daemon.gateway.breaker import Breaker
from aigw_daemon.gateway.upstream.pool import PooledClient
from aigw_daemon.link.messages import GatewayView, Records, RequestRecord, Snapshot, Up
from aigw_daemon.words import State
from tests.support.fake_engine import FakeEngine
from tests.support.gateway import ask, backend, parse_answer, post, route, snapshot
from tests.support.wait import eventually

M = TypeVar("M", bound=Up)
LONGEST_READ = 4 * 1024 * 1024
"""Bytes that `Asking.until` looks through for what it waits for."""
Answer = tuple[int, dict[bytes, bytes], bytes]


@dataclass
class LocalGateway:
    """A gateway that serves, and what it told its daemon."""

    gateway: Gateway
    upstream: PooledClient
    port: int
    messages: list[Up] = field(default_factory=list)

    def apply(self, wanted: Snapshot) -> None:
        """Route on this from now on."""
        self.gateway.apply(wanted)

    def lane(self, backend: str) -> Lane:
        """The slots of a backend."""
        return self.gateway.live.standings.lane(backend)

    def breaker(self, backend: str) -> Breaker:
        """The circuit of a backend."""
        return self.gateway.live.standings.breaker(backend)

    def said(self, kind: type[M]) -> list[M]:
        """All messages of a kind so far."""
        return [message for message in self.messages if isinstance(message, kind)]

    async def record_where(self, fits: Callable[[RequestRecord], bool]) -> RequestRecord:
        """The first record that fits, as soon as it is there."""

        def found() -> list[RequestRecord]:
            return [record for batch in self.said(Records) for record in batch.records if fits(record)]

        return (await eventually(found, what="the record"))[0]

    async def record_of(self, headers: dict[bytes, bytes]) -> RequestRecord:
        """The record of the answer with these headers, as soon as it is there."""
        wanted = headers[b"x-aigw-request-id"].decode()
        return await self.record_where(lambda record: record.id == wanted)

    async def ask(self, body: bytes, *lines: str, path: str = "chat/completions", seconds: float = 10.0) -> Answer:
        """One question on a connection of its own, with these header lines."""
        return await ask(self.port, post(body, f"/v1/{path}", *lines), seconds=seconds)

    @contextlib.asynccontextmanager
    async def asking(self, body: bytes, *lines: str) -> AsyncIterator["Asking"]:
        """A client that has asked, and leaves at the end of the block."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=LONGEST_READ)
        writer.write(post(body, "/v1/chat/completions", *lines))
        try:
            yield Asking(reader, writer)
        finally:
            writer.transport.abort()


@dataclass
class Asking:
    """A client in the midst of a question."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def leave(self) -> None:
        """Hang up before the end of the block."""
        self.writer.transport.abort()

    async def until(self, expected: bytes, seconds: float = 5.0) -> bytes:
        """Read up to these bytes."""
        async with asyncio.timeout(seconds):
            return await self.reader.readuntil(expected)

    async def rest(self, seconds: float = 10.0) -> bytes:
        """Read to the end."""
        async with asyncio.timeout(seconds):
            return await self.reader.read()

    async def answer(self, seconds: float = 10.0) -> Answer:
        """The whole answer, of which nothing was read yet."""
        return parse_answer(await self.rest(seconds))


@contextlib.asynccontextmanager
async def local_gateway(first: Snapshot) -> AsyncIterator[LocalGateway]:
    """Serve on a free port until the end of the block."""
    upstream, messages = PooledClient(), list[Up]()
    gateway = Gateway(upstream, messages.append)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    local = LocalGateway(gateway, upstream, listener.getsockname()[1], messages)
    local.apply(first)
    await gateway.server.listen([listener])
    async with asyncio.TaskGroup() as tasks:
        services = [tasks.create_task(gateway.server.watch()), tasks.create_task(gateway.reporter.run())]
        try:
            yield local
        finally:
            await gateway.server.close()
            await gateway.cached.aclose()
            for service in services:
                service.cancel()
            await upstream.aclose()


def with_state(wanted: Snapshot, backend: str, state: State) -> Snapshot:
    """The same snapshot with one backend in another state."""
    views = (msgspec.structs.replace(view, state=state) if view.name == backend else view for view in wanted.backends)
    return msgspec.structs.replace(wanted, backends=tuple(views))


def over_two(first: FakeEngine, second: FakeEngine, *, limits: GatewayView | None = None, **changes: Any) -> Snapshot:
    """A route ``m`` over two engines, with what it says beside its targets."""
    targets = msgspec.structs.replace(route("m", ("one", "m"), ("two", "m2")), **changes)
    views = (backend("one", first.port), backend("two", second.port, models=["m2"]))
    return snapshot(*views, routes=[targets], gateway=limits or GatewayView(request_timeout=30.0))


def sentence(body: bytes) -> str:
    """The sentence of an error."""
    return str(msgspec.json.decode(body)["error"]["message"])
