"""Drives the gateway and the bare relay in this process, with transports that have no socket behind them.

So what is measured is Python and nothing else: the system calls of a real request come on top, alike for both.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from cProfile import Profile
from functools import partial
from time import perf_counter, process_time
from typing import Any, NamedTuple

import msgspec

from aigw_daemon.gateway.assembly import Gateway
from aigw_daemon.gateway.server.connection import Connection as ClientConnection
from aigw_daemon.gateway.server.server import Server
from aigw_daemon.gateway.upstream.base import Address
from aigw_daemon.gateway.upstream.connection import Connection as UpstreamConnection
from aigw_daemon.gateway.upstream.pool import PooledClient
from aigw_daemon.link.messages import BackendView, CacheView, GatewayView, ModelView, RouteView, Snapshot, TargetView
from aigw_daemon.words import EngineKind, State
from scripts.bench.answers import ANSWER, MODEL
from scripts.bench.bare_server import BareRelay

CONNECTIONS = 32
_UPSTREAM = Address("127.0.0.1", 9)
_SNAPSHOT = Snapshot(
    1,
    "profiling",
    GatewayView(),
    (
        BackendView(
            "upstream",
            EngineKind.OPENAI,
            State.READY,
            0.0,
            _UPSTREAM.host,
            _UPSTREAM.port,
            models=(ModelView(MODEL, 0),),
        ),
    ),
    (RouteView(MODEL, (TargetView("upstream", MODEL),)),),
)
_BODY = (
    b'{"model":"%b","messages":[{"role":"user","content":"Tell me about the quick brown fox, please."}],'
    b'"temperature":0.7,"max_tokens":128}' % MODEL.encode()
)
_REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:4000\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)
_ANSWER = (
    b"HTTP/1.1 200 OK\r\nserver: nginx\r\ndate: Sun, 22 Nov 2026 23:00:00 GMT\r\ncontent-type: application/json\r\n"
    b"connection: keep-alive\r\ncontent-length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER.encode())
)


class Contestant(NamedTuple):
    """Who is measured."""

    serving: Callable[[PooledClient], AbstractAsyncContextManager[Server]]
    """Makes the server, on this upstream client."""


class Cost(NamedTuple):
    """What each request cost, in seconds; with a profiler, what that cost is in it as well."""

    cpu: float
    elapsed: float
    """More than `cpu` where somebody else had the core."""
    last_answer: bytes


class Wire(asyncio.Transport):
    """A transport without a socket: what is written is handed to `taken`."""

    def __init__(self, taken: Callable[[bytes], object]) -> None:
        super().__init__()
        self.write = taken  # type: ignore[assignment,method-assign]  # a method between would be measured, too

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 9) if name in {"peername", "sockname"} else default

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        """Nothing is behind it that would have to end."""

    close = pause_reading = resume_reading = abort


class InProcessClient(PooledClient):
    """The gateway's own client before an upstream that has its answer ready."""

    async def _dial(self, address: Address) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        connection = UpstreamConnection(address, self._keep, self._forget)
        connection.connection_made(Wire(lambda _request: loop.call_soon(connection.data_received, _ANSWER)))
        return connection


class Load:
    """Clients that each send their next request when they have the answer to the last."""

    def __init__(self, server: Server, requests: int) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._left = requests
        self._ended = self._loop.create_future()

    async def run(self) -> bytes:
        """Sends all requests; the last answer."""
        for connection in [self._connection() for _ in range(CONNECTIONS)]:
            connection.data_received(_REQUEST)
        last: bytes = await self._ended
        return last

    def _connection(self) -> ClientConnection:
        connection = ClientConnection(self._server)

        def take(answer: bytes) -> None:
            self._left -= 1
            if self._left >= CONNECTIONS:
                self._loop.call_soon(connection.data_received, _REQUEST)
            elif self._left == 0:
                self._ended.set_result(answer)

        connection.connection_made(Wire(take))
        return connection


@asynccontextmanager
async def _bare_relay(client: PooledClient) -> AsyncIterator[Server]:
    """The yardstick of scripts/bench."""
    yield Server(BareRelay(_UPSTREAM, client), GatewayView(), lambda: b"profiling")


@asynccontextmanager
async def _aigw(cache: CacheView, client: PooledClient) -> AsyncIterator[Server]:
    """The gateway as its worker builds it, with one ready backend. Its records go nowhere."""
    gateway = Gateway(client, lambda _message: None)
    gateway.apply(msgspec.structs.replace(_SNAPSHOT, cache=cache))
    with suppress(asyncio.CancelledError):
        async with asyncio.TaskGroup() as tasks:
            reporter = tasks.create_task(gateway.reporter.run(), name="reporter")
            yield gateway.server
            reporter.cancel()


BARE_RELAY = Contestant(_bare_relay)
AIGW = Contestant(partial(_aigw, CacheView(mode="off")))
"""aigw that relays each request."""
HIT = Contestant(partial(_aigw, CacheView()))
"""aigw with the answer in its cache."""


async def measure(contestant: Contestant, requests: int, profile: Profile | None = None) -> Cost:
    """Answers so many requests, at least one for each connection, and takes the CPU time of it."""
    async with contestant.serving(InProcessClient()) as server:
        # Everything that is made once has been made when the clock starts: an answer is kept by the second round.
        for _ in range(2):
            await Load(server, CONNECTIONS).run()
        if profile is not None:
            profile.enable()
        began, cpu_before = perf_counter(), process_time()
        last = await Load(server, requests).run()
        cpu, elapsed = process_time() - cpu_before, perf_counter() - began
        if profile is not None:
            profile.disable()
    return Cost(cpu / requests, elapsed / requests, last)
