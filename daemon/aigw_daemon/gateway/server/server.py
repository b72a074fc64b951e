"""The gateway's serving loop: accepts on sockets that somebody else owns, watches deadlines, drains without loss.

uvicorn's own drain closes connections that were accepted but not read yet (14 requests of 16 in a trial). This one
stops accepting, serves what is on its way in, says ``Connection: close`` on every answer, and closes the rest only
then. The listening sockets are the daemon's: our descriptors are closed, never shut down, and the kernel's queue stays
with it.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from time import time
from typing import Protocol
from wsgiref.handlers import format_date_time

from uvicorn import Config
from uvicorn.server import ServerState

from aigw_daemon.gateway.server.connection import Connection
from aigw_daemon.gateway.server.exchange import Exchange, Interruption
from aigw_daemon.gateway.server.targets import Targets
from aigw_daemon.gateway.wire import ApiError
from aigw_daemon.link.messages import GatewayView

WATCH_SECONDS = 0.25
"""How exact deadlines are."""
DRAIN_LINGER_SECONDS = 1.0
"""How long a drain waits for a request on a connection that has none: it may be on its way."""
LAST_FLUSH_SECONDS = 1.0
"""How long a client gets to take the last bytes of an interrupted answer."""
BACKLOG = 2048

log = logging.getLogger(__name__)


class Application(Protocol):
    """What the server serves."""

    def admit(self, exchange: Exchange) -> ApiError | None:
        """Look at the head of a request, before its body is read: the error to answer with, or None."""
        ...

    def __call__(self, exchange: Exchange) -> Awaitable[None]:
        """Answer. Cancelled when the exchange is interrupted; then `exchange.interruption` says why."""
        ...


class Server:
    """Serves one application on sockets that are already listening."""

    def __init__(
        self,
        application: Application,
        limits: GatewayView,
        request_id: Callable[[], bytes],
        at_once: Callable[[Exchange], bool] | None = None,
        cors: Callable[[bytes], bytes] = lambda _: b"",
    ) -> None:
        self.application = application
        self._at_once = at_once
        """Answers what needs no waiting for anything, and says whether it has: a task would be half of its cost."""
        self.cors = cors
        """Header lines that let the page of this origin read its answer, whatever that is; none for a foreign one."""
        self.request_id = request_id
        self.limits = limits
        """Replaced whole when the snapshot brings others; the next request sees them."""
        self.loop = asyncio.get_running_loop()
        self.config = Config(_no_asgi, interface="asgi3", log_config=None, lifespan="off", ws="none")
        self.config.load()
        self.uvicorn_state = ServerState()
        self.draining = False
        self.date_line = _date_line()
        self.targets = Targets()
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self._changed = asyncio.Event()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open())

    async def listen(self, listeners: Sequence[socket.socket]) -> None:
        """Begin to accept on these sockets; they are ours to close from now on."""
        for listener in listeners:
            self._servers.append(
                await self.loop.create_server(lambda: Connection(self), sock=listener, backlog=BACKLOG)
            )

    async def watch(self) -> None:
        """Hold every connection's deadline, until cancelled."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            self.date_line = _date_line()
            now = self.loop.time()
            for connection in self._open():
                connection.check(now)

    async def drain(self, grace: float) -> None:
        """Stop accepting, finish what runs within ``grace`` seconds, and return when every connection is gone.

        What still runs then is interrupted, which ends a stream with an error event (rule B16). Cancelling this ends
        the wait at once; `close` cuts what is left.
        """
        self.draining = True
        for server in self._servers:
            server.close()
        try:
            async with asyncio.timeout(grace):
                # Nobody knows whether a silent connection has a request on its way: it gets a moment to show.
                await self._wait_for_none(DRAIN_LINGER_SECONDS)
                for connection in self._open():
                    connection.close_if_at_rest()
                await self._wait_for_none(None)
        except TimeoutError:
            log.warning("%d connections were still open after %g s", len(self._open()), grace)
            await self.close()

    async def close(self) -> None:
        """Interrupt everything and wait until its handlers have ended."""
        self.draining = True
        for server in self._servers:
            server.close()
        for connection in self._open():
            connection.interrupt(Interruption.SHUTDOWN)
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._wait_for_none(LAST_FLUSH_SECONDS)
        for connection in self._open():
            connection.abort()

    def run(self, exchange: Exchange) -> asyncio.Task[None] | None:
        """Answer at once, or in a task of the exchange's own. The server owns it: `drain` and `close` wait for it."""
        if self._at_once is not None and self._answered(exchange, self._at_once):
            return None
        # Not in a TaskGroup: its bookkeeping would be paid by every request, and a set of tasks does what is needed.
        task = self.loop.create_task(self._answer(exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def connection_gone(self, connection: Connection) -> None:
        """Forget a connection."""
        self.uvicorn_state.connections.discard(connection)
        if self.draining:
            self._changed.set()

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await self.application(exchange)
        except Exception:  # a bug in one request's handling must end in an answer, and touch no other request
            log.exception("answering %s %r failed", exchange.method, exchange.path)
            self._answer_bug(exchange)
        finally:
            if not exchange.complete:
                exchange.abort()

    def _answered(self, exchange: Exchange, at_once: Callable[[Exchange], bool]) -> bool:
        try:
            return at_once(exchange)
        except Exception:  # as in `_answer`; the task that follows would meet the same bug
            log.exception("answering %s %r at once failed", exchange.method, exchange.path)
            self._answer_bug(exchange)
            return True

    def _answer_bug(self, exchange: Exchange) -> None:
        if exchange.started:
            return
        error = ApiError(500, "the gateway failed while answering; its log has the details", code="internal_error")
        exchange.reject(error, self.request_id())

    def _open(self) -> list[Connection]:
        return [connection for connection in self.uvicorn_state.connections if isinstance(connection, Connection)]

    async def _wait_for_none(self, seconds: float | None) -> None:
        """Wait until no connection is open, or ``seconds`` are over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._open():
                    self._changed.clear()
                    await self._changed.wait()


async def _no_asgi(scope: object, receive: object, send: object) -> None:
    """What uvicorn's configuration wants as an application; requests never reach it."""


def _date_line() -> bytes:
    return f"date: {format_date_time(time())}\r\n".encode()
