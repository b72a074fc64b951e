"""The gateway worker's process: ``python -m aigw_daemon.gateway.worker --link PATH --listen FD,FD``.

It serves on the daemon's listening sockets and routes on the daemon's snapshots. If the daemon dies it goes on with the
last snapshot. SIGTERM, or a `Drain` from the daemon, ends it without dropping a request; a second SIGTERM ends it at
once. It exits with 0 either way.
"""

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from aigw_daemon.gateway.assembly import Gateway
from aigw_daemon.gateway.upstream.pool import PooledClient
from aigw_daemon.identity import boot_id, start_ticks
from aigw_daemon.link.caching import CacheCommand
from aigw_daemon.link.messages import Applied, Down, Drain, Hello, Ping, Pong, Snapshot, Tail, Up
from aigw_daemon.link.worker import WorkerLink
from aigw_daemon.version import AIGW_VERSION, LINK_VERSION

COOKIE_VARIABLE = "AIGW_INSTANCE"
DEFAULT_GRACE_SECONDS = 30.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What the daemon starts a worker with."""

    link: Path
    listeners: tuple[int, ...]
    cookie: str
    place: Path | None = None


def parse_options(argv: Sequence[str], cookie: str) -> Options:
    """Read the command line; exits with 2 and a sentence for a wrong one."""
    parser = argparse.ArgumentParser(prog="aigw-gateway", description="The gateway worker; aigwd starts it.")
    parser.add_argument("--link", type=Path, required=True, help="the daemon's link socket")
    parser.add_argument("--place", type=Path, help="file in which the daemon writes where its link socket is now")
    parser.add_argument("--listen", required=True, help="descriptors of listening sockets, comma-separated")
    found = parser.parse_args(argv)
    try:
        listeners = tuple(int(fd) for fd in found.listen.split(","))
    except ValueError:
        parser.error(f"--listen takes descriptor numbers such as 3,4, not {found.listen!r}")
    return Options(found.link, listeners, cookie, found.place)


class Worker:
    """One life of a worker: serves until it is told to drain."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._sockets = [socket.socket(fileno=fd) for fd in options.listeners]
        self._upstream = PooledClient()
        self._link = WorkerLink(options.link, self._hello, self._sockets, self._receive, place=options.place)
        self._gateway = Gateway(self._upstream, self._send)
        self._grace: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._at_once = asyncio.Event()
        self._told = asyncio.Event()

    async def run(self) -> None:
        """Serve, drain when told, and let the daemon have the last records."""
        self._hear_signals()
        async with asyncio.TaskGroup() as tasks:
            services = [
                tasks.create_task(self._link.run(), name="link"),
                tasks.create_task(self._listen_when_told(), name="listen"),
                tasks.create_task(self._make_app(), name="app"),
                tasks.create_task(self._gateway.reporter.run(), name="reporter"),
                tasks.create_task(self._gateway.cache_desk.run(self._send), name="cache desk"),
                tasks.create_task(self._gateway.server.watch(), name="watch"),
            ]
            await self._drain_when_told()
            self._gateway.reporter.flush()
            for service in services:
                service.cancel()
        await self._gateway.cached.aclose()
        await self._upstream.aclose()

    async def _listen_when_told(self) -> None:
        """Accept from the first snapshot on: until then callers wait in the kernel's queue, and none is turned away."""
        await self._told.wait()
        if not self._grace.done():
            await self._gateway.server.listen([listener.dup() for listener in self._sockets])

    async def _make_app(self) -> None:
        await self._gateway.app.make()
        # What was imported by now is never garbage. Looking through it takes 15 ms, in which no request gets on.
        gc.collect()
        gc.freeze()

    async def _drain_when_told(self) -> None:
        grace = await self._grace
        # Closed here too, or the worker's copies would keep the port after the daemon's are gone.
        for listener in self._sockets:
            listener.close()
        server = self._gateway.server
        async with asyncio.TaskGroup() as tasks:
            drain = tasks.create_task(server.drain(grace), name="drain")
            hurry = tasks.create_task(self._at_once.wait(), name="hurry")
            await asyncio.wait([drain, hurry], return_when=asyncio.FIRST_COMPLETED)
            if not drain.done():
                drain.cancel()
                await server.close()
            hurry.cancel()

    def _hear_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._terminate)
        # Ctrl-C in the daemon's terminal reaches this process as well, but what it means is the daemon's to say.
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _terminate(self) -> None:
        if self._grace.done():
            self._at_once.set()
        else:
            self._grace.set_result(DEFAULT_GRACE_SECONDS)

    def _send(self, message: Up) -> None:
        self._link.send(message)

    def _receive(self, message: Down) -> None:
        match message:
            case Snapshot():
                self._gateway.apply(message)
                self._told.set()
                self._send(Applied(message.revision))
            case CacheCommand():
                self._gateway.cache_desk.hear(message)
            case Ping():
                self._send(Pong())
            case Tail():
                self._gateway.reporter.tailing = message.on
            case Drain():
                if not self._grace.done():
                    self._grace.set_result(message.grace)

    def _hello(self) -> Hello:
        self._gateway.reporter.tell_again()
        pid = os.getpid()
        return Hello(
            link_version=LINK_VERSION,
            aigw_version=AIGW_VERSION,
            pid=pid,
            start_ticks=start_ticks(pid) or 0,
            boot_id=boot_id(),
            cookie=self._options.cookie,
            in_flight=self._gateway.live.standings.in_flight,
            listeners=len([listener for listener in self._sockets if listener.fileno() >= 0]),
        )


async def serve(options: Options) -> None:
    """Run one worker to its end."""
    await Worker(options).run()


def main(argv: Sequence[str] | None = None) -> int:
    """The process; the exit code is 0 after a drain."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s gateway: %(message)s")
    options = parse_options(argv if argv is not None else sys.argv[1:], os.environ.get(COOKIE_VARIABLE, ""))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
