"""Keeps the door of :4000: owns the listening sockets and sees that a worker serves behind them.

The sockets live for as long as the daemon wants to serve, whatever becomes of a worker: one that dies is replaced on
the same sockets, so no connection is refused meanwhile. A worker that outlived its daemon comes by itself (it redials
the link) and is adopted together with its sockets. One loop, `run`, keeps a worker; the link and the operations leave
it messages in fields and wake it.
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Protocol

from aigw_daemon.gatekeeper import listeners as sockets
from aigw_daemon.gatekeeper.apology import apologizing
from aigw_daemon.gatekeeper.crashes import RETRY_SECONDS, CrashWindow
from aigw_daemon.gatekeeper.listeners import Endpoint, PortTaken
from aigw_daemon.gatekeeper.worker import NAME, Worker, identity_of, spec
from aigw_daemon.home import Home
from aigw_daemon.identity import Identity, is_alive
from aigw_daemon.link.daemon import WorkerConnection
from aigw_daemon.link.messages import Demand, Drain, Hello, Load, Records, Snapshot, Started, Tail, Up
from aigw_daemon.supervisor.process import Launcher, LaunchError
from aigw_daemon.version import AIGW_VERSION, LINK_VERSION
from aigw_daemon.words import State

ADOPTION_SECONDS = 5.0
"""How long a worker that outlived its daemon may take to say hello; it dials five times a second."""
GREETING_SECONDS = 15.0
"""How long a fresh worker may take to say hello: its imports, on a busy machine."""
DRAIN_SECONDS = 10.0
"""What running requests get before a worker that is to leave ends them."""

log = logging.getLogger(__name__)


class Ears(Protocol):
    """Who hears what workers report, and that the door's state changed."""

    def on_records(self, message: Records) -> None:
        """Requests have finished."""

    def on_started(self, message: Started) -> None:
        """A request has begun; only while somebody tails."""

    def on_demand(self, message: Demand) -> None:
        """A request wants a backend that isn't running."""

    def on_load(self) -> None:
        """Counts in flight have changed."""

    def on_change(self) -> None:
        """The state of the gateway has changed."""


class Gatekeeper:
    """Owns the sockets and the worker behind them."""

    def __init__(
        self,
        home: Home,
        launcher: Launcher,
        ears: Ears,
        *,
        remember: Callable[[Identity | None], None],
        inherited: Sequence[socket.socket] = (),
    ) -> None:
        self._home = home
        self._launcher = launcher
        self._ears = ears
        self._remember = remember
        self._listeners: list[socket.socket] = list(inherited)
        self._endpoints: list[Endpoint] = []
        self._serving = False
        self._snapshot: Snapshot | None = None
        self._tail = False
        self._worker: Worker | None = None
        self._outgoing: Worker | None = None
        """Serves until its successor does, then drains."""
        self._others: dict[int, Worker] = {}
        """By PID: workers that drain, and strays nobody has decided about yet."""
        self._woken = asyncio.Event()
        self._turn = asyncio.Lock()
        self._tasks: asyncio.TaskGroup | None = None
        self._crashes = CrashWindow()
        self.state = State.STOPPED
        self.why: str | None = None
        self.restarts = 0

    @property
    def url(self) -> str | None:
        """Where clients reach the gateway; None while it is closed."""
        return sockets.url(self._endpoints) if self._endpoints else None

    @property
    def pid(self) -> int | None:
        """Of the worker that serves."""
        return self._worker.pid if self._worker else None

    def in_flight(self) -> dict[str, int]:
        """Requests per backend, over all workers that still have some."""
        total: dict[str, int] = {}
        for worker in self._known():
            for backend, count in worker.in_flight.items():
                total[backend] = total.get(backend, 0) + count
        return total

    def publish(self, snapshot: Snapshot) -> None:
        """Route on this from now on."""
        self._snapshot = snapshot
        for worker in self._known():
            worker.send(snapshot)

    def tail(self, on: bool) -> None:
        """Have starts of requests reported, or not any more."""
        self._tail = on
        for worker in self._known():
            worker.send(Tail(on=on))

    def detach_listeners(self) -> list[int]:
        """Give the sockets up to an exec in place."""
        return [listener.detach() for listener in self._listeners]

    async def open(self, host: str, port: int, known: Identity | None) -> None:
        """Serve at this address; a worker follows. ``known`` is the worker that the last daemon wrote down.

        Raises PortTaken, and AddressUnusable; then whatever was open before still is.
        """
        async with self._turn:
            wanted = sockets.endpoints(host, port or self._any_port())
            if wanted == self._endpoints:
                return
            listeners = await self._claim(wanted, known)
            if listeners is not self._listeners:
                sockets.close(self._listeners)
            if self._endpoints:
                self._replace_worker()
            self._listeners, self._endpoints, self._serving = listeners, wanted, True
            self._wake()

    async def close(self) -> None:
        """Drain and stop every worker, then close the sockets."""
        async with self._turn:
            self._serving = False
            workers = self._known()
            self._worker = self._outgoing = None
            async with asyncio.TaskGroup() as tasks:
                for worker in workers:
                    tasks.create_task(self._dismiss(worker))
            sockets.close(self._listeners)
            self._listeners, self._endpoints = [], []
            self._remember(None)
            self._become(State.STOPPED)
            self._wake()

    async def run(self) -> None:
        """Keep a worker behind the door for as long as it is open; ends by cancellation, leaving the worker be."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            while True:
                if self._serving:
                    await self._keep_a_worker()
                else:
                    await self._news()

    async def accept(self, connection: WorkerConnection) -> None:
        """Hear one worker out until it leaves; called by the link for each that says hello."""
        worker = await self._recognize(connection)
        worker.connection = connection
        if self._snapshot is not None:
            connection.send(self._snapshot)
        connection.send(Tail(on=self._tail))
        self._wake()
        try:
            async for message in connection.messages():
                self._hear(worker, message)
        finally:
            if worker.connection is connection:
                worker.connection = None

    async def _claim(self, wanted: list[Endpoint], known: Identity | None) -> list[socket.socket]:
        """The sockets for ``wanted``: inherited, brought by a worker that is adopted, or bound anew."""
        stray = await self._stray(ADOPTION_SECONDS if known and is_alive(known) else 0.0)
        if sockets.bound_to(self._listeners) == set(wanted):
            self._adopt(stray, self._listeners)
            return self._listeners
        if stray is None:
            try:
                return sockets.bind(wanted)
            except PortTaken as taken:
                if not self._is_ours(taken.port):
                    raise
                stray = await self._stray(ADOPTION_SECONDS)
        return await self._take_over(stray, wanted)

    async def _take_over(self, stray: Worker | None, wanted: list[Endpoint]) -> list[socket.socket]:
        if stray is not None and sockets.bound_to(stray.brought) == set(wanted):
            listeners, stray.brought = stray.brought, []
            self._adopt(stray, listeners)
            return listeners
        if stray is not None:
            await self._dismiss(stray)
        # It owns the port, bears our cookie and does not say hello, or serves elsewhere: the only case in which a
        # connection may be refused.
        await self._launcher.sweep(NAME)
        return sockets.bind(wanted)

    def _adopt(self, stray: Worker | None, listeners: list[socket.socket]) -> None:
        if stray is None:
            return
        if stray.brought is not listeners:
            sockets.close(stray.brought)
            stray.brought = []
        self._others.pop(stray.pid, None)
        if stray.same_version:
            log.info("gateway: adopted worker %d", stray.pid)
            self._worker = stray
        else:
            log.info("gateway: worker %d is of another version: it serves until its successor does", stray.pid)
            self._outgoing = stray

    async def _stray(self, seconds: float) -> Worker | None:
        """A worker that came by itself, waiting for one as long as that."""
        deadline = time.monotonic() + seconds
        while True:
            for worker in self._others.values():
                if worker.stray and worker.connection is not None:
                    return worker
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return None
            await self._news(min(remaining, 0.1))

    def _any_port(self) -> int:
        """For a profile that says 0: the port that we have, else a free one."""
        return self._endpoints[0][1] if self._endpoints else self._launcher.free_port()

    def _is_ours(self, port: int) -> bool:
        owner = self._launcher.port_owner(port)
        return owner is not None and owner.ours

    async def _keep_a_worker(self) -> None:
        """One worker from its start to its end."""
        worker = self._worker or await self._start()
        if worker is not None and await self._greeted(worker):
            self._remember(worker.handle.identity)
            self._become(State.READY)
            self._retire_outgoing()
            while self._serving and self._worker is worker and not worker.gone.is_set():
                await self._news()
            if self._worker is not worker:
                return  # it was replaced or dismissed, not lost
        self._worker = None
        if self._serving:
            await self._after_crash(worker)

    async def _start(self) -> Worker | None:
        self._become(State.STARTING, self.why)
        try:
            handle = await self._launcher.spawn(spec(self._home, self._listeners))
        except LaunchError as error:
            self.why = f"the gateway worker can't be started: {error}"
            log.error("gateway: %s", self.why)
            return None
        worker = Worker(handle)
        self._watch(worker)
        if not self._serving:  # closed while it was being started
            await self._dismiss(worker)
            return None
        self._worker = worker
        return worker

    async def _greeted(self, worker: Worker) -> bool:
        deadline = time.monotonic() + GREETING_SECONDS
        while worker.connection is None and not worker.gone.is_set():
            if time.monotonic() > deadline:
                log.error("gateway: worker %d said no hello in %d s", worker.pid, GREETING_SECONDS)
                await self._launcher.stop(worker.handle, grace=0.0)
                return False
            await self._news(1.0)
        return not worker.gone.is_set()

    async def _after_crash(self, worker: Worker | None) -> None:
        self.restarts += 1
        too_many = self._crashes.add(time.monotonic())
        if worker is not None:
            self.why = f"worker {worker.pid} ended unexpectedly ({worker.end})"
            log.error("gateway: %s", self.why)
            self._ears.on_load()
        if too_many:
            await self._apologize()

    async def _apologize(self) -> None:
        reason = f"the gateway cannot keep a worker alive: {self.why}; see 'aigw logs gateway'"
        log.error("%s; trying again in %d s", reason, RETRY_SECONDS)
        self._become(State.FAILED, reason)
        deadline = time.monotonic() + RETRY_SECONDS
        async with apologizing(self._listeners, reason, int(RETRY_SECONDS)):
            while self._serving and (remaining := deadline - time.monotonic()) > 0:
                await self._news(remaining)

    def _replace_worker(self) -> None:
        if self._worker is not None:
            self._outgoing, self._worker = self._worker, None

    def _retire_outgoing(self) -> None:
        outgoing, self._outgoing = self._outgoing, None
        if outgoing is not None:
            self._others[outgoing.pid] = outgoing
            self._spawn(self._dismiss(outgoing), f"dismiss-{outgoing.pid}")

    async def _dismiss(self, worker: Worker) -> None:
        """Have it finish what it serves and leave; stop it when it does not."""
        worker.stray = False
        worker.send(Drain(grace=DRAIN_SECONDS))
        try:
            async with asyncio.timeout(DRAIN_SECONDS + 2 if worker.connection else 0):
                await worker.gone.wait()
        except TimeoutError:
            await self._launcher.stop(worker.handle, grace=1.0)
        sockets.close(worker.brought)
        self._others.pop(worker.pid, None)
        self._ears.on_load()

    async def _recognize(self, connection: WorkerConnection) -> Worker:
        """The worker that called: one of ours by PID, else one that outlived an earlier daemon."""
        for worker in self._known():
            if worker.pid == connection.hello.pid:
                sockets.close(connection.listeners)
                return worker
        handle = await self._launcher.adopt(identity_of(connection.hello))
        worker = Worker(handle, stray=True, brought=connection.listeners, same_version=_same_version(connection.hello))
        self._others[worker.pid] = worker
        self._watch(worker)
        if self._endpoints:  # the door is kept already: this one is left over
            self._spawn(self._dismiss(worker), f"dismiss-{worker.pid}")
        return worker

    async def dismiss_strays(self) -> None:
        """Send away every worker that came by itself: nothing is to be served."""
        while (stray := await self._stray(0.0)) is not None:
            await self._dismiss(stray)

    def _watch(self, worker: Worker) -> None:
        async def until_gone() -> None:
            worker.end = str(await worker.handle.wait())
            worker.gone.set()
            worker.in_flight.clear()
            self._others.pop(worker.pid, None)
            self._wake()

        self._spawn(until_gone(), f"watch-worker-{worker.pid}")

    def _hear(self, worker: Worker, message: Up) -> None:
        match message:
            case Load():
                worker.in_flight = message.in_flight
                self._ears.on_load()
            case Records():
                self._ears.on_records(message)
            case Started():
                self._ears.on_started(message)
            case Demand():
                self._ears.on_demand(message)
            case Hello():
                log.warning("gateway: worker %d said hello twice", worker.pid)

    def _known(self) -> list[Worker]:
        return [worker for worker in (self._worker, self._outgoing, *self._others.values()) if worker is not None]

    def _become(self, state: State, why: str | None = None) -> None:
        self.state, self.why = state, why
        self._ears.on_change()

    def _wake(self) -> None:
        """Have everybody who waits look again."""
        woken, self._woken = self._woken, asyncio.Event()
        woken.set()

    async def _news(self, seconds: float | None = None) -> None:
        """Wait until something happened, at most that long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        if self._tasks is None:
            raise RuntimeError("the gatekeeper is not running")
        self._tasks.create_task(work, name=name)


def _same_version(hello: Hello) -> bool:
    return (hello.link_version, hello.aigw_version) == (LINK_VERSION, AIGW_VERSION)
