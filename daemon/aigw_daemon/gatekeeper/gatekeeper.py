"""Keeps the door of :4000: owns the listening sockets and sees that a worker serves behind them.

The sockets live for as long as the daemon wants to serve, whatever becomes of a worker: one that dies is replaced on
the same sockets, so no connection is refused meanwhile. A worker that outlived its daemon comes by itself (it redials
the link) and is adopted together with its sockets. One loop, `run`, keeps a worker; the link and the operations leave
it messages in fields and wake it.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from aigw_daemon.gatekeeper import listeners as sockets
from aigw_daemon.gatekeeper.apology import apologizing
from aigw_daemon.gatekeeper.crashes import CrashWindow
from aigw_daemon.gatekeeper.crew import Crew
from aigw_daemon.gatekeeper.ears import Ears
from aigw_daemon.gatekeeper.listeners import AddressUnusable, Endpoint, PortTaken
from aigw_daemon.gatekeeper.news import News
from aigw_daemon.gatekeeper.timing import Timing
from aigw_daemon.gatekeeper.worker import NAME, Worker
from aigw_daemon.home import Home
from aigw_daemon.identity import Identity, is_alive
from aigw_daemon.link.caching import CacheCommand, CacheReply
from aigw_daemon.link.daemon import WorkerConnection
from aigw_daemon.link.messages import Load, Snapshot
from aigw_daemon.supervisor.launcher import Launcher, LaunchError
from aigw_daemon.words import State

BUG_PAUSE_SECONDS = 1.0

log = logging.getLogger(__name__)


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
        timing: Timing | None = None,
    ) -> None:
        self._launcher = launcher
        self._ears = ears
        self._remember = remember
        self._timing = timing or Timing()
        self._news = News()
        self._crew = Crew(home, launcher, ears, timing=self._timing, news=self._news)
        self._listeners: list[socket.socket] = list(inherited)
        self._endpoints: list[Endpoint] = []
        self._serving = False
        self._worker: Worker | None = None
        self._outgoing: list[Worker] = []
        """They serve until their successor does, then drain."""
        self._turn = asyncio.Lock()
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
        return self._crew.load().in_flight

    def load(self) -> Load:
        """What the workers last said of the load, over all of them."""
        return self._crew.load()

    def publish(self, snapshot: Snapshot) -> None:
        """Route on this from now on."""
        self._crew.publish(snapshot)

    @property
    def is_current(self) -> bool:
        """Whether the worker that serves routes on what was published last."""
        return self._worker is not None and self._crew.is_current(self._worker)

    async def caught_up(self, seconds: float) -> bool:
        """Wait until it does, at most that long, and only for a worker that can be told."""
        deadline = time.monotonic() + seconds
        while not self.is_current and self._worker is not None and self._worker.connection is not None:
            if (left := deadline - time.monotonic()) <= 0:
                break
            await self._news.wait(left)
        return self.is_current

    async def ask(self, command: CacheCommand, seconds: float) -> CacheReply:
        """Have the worker that serves answer this; its number is given here. Raises `questions.NoAnswer`."""
        return await self._crew.questions.ask(self._worker, command, seconds)

    def tail(self, on: bool) -> None:
        """Have starts of requests reported, or not any more."""
        self._crew.tail(on)

    def detach_listeners(self) -> list[int]:
        """Give the sockets up to an exec in place."""
        return [listener.detach() for listener in self._listeners]

    async def accept(self, connection: WorkerConnection) -> None:
        """Hear one worker out until it leaves; called by the link for each that says hello."""
        await self._crew.accept(connection)

    async def open(self, host: str, port: int, known: Identity | None) -> None:
        """Serve at this address; a worker follows. ``known`` is the worker that the last daemon wrote down.

        Raises PortTaken, and AddressUnusable; then whatever was open before still is.
        """
        async with self._turn:
            if self._endpoints:
                self._move(host, port)
            else:
                await self._begin(host, port, known)
            self._serving = True
            self._news.wake()

    async def close(self) -> None:
        """Drain and stop every worker, then close the sockets."""
        async with self._turn:
            self._serving, self._worker, self._outgoing = False, None, []
            self._news.wake()
            async with asyncio.TaskGroup() as tasks:
                for worker in self._crew.members:
                    tasks.create_task(self._crew.dismiss(worker))
            self._crew.close_to_strays()
            sockets.close(self._listeners)
            self._listeners, self._endpoints = [], []
            self._remember(None)
            self._become(State.STOPPED)

    async def clear(self) -> None:
        """Nothing is to be served: send away whatever an earlier daemon left at the door."""
        if NAME in await self._launcher.strays():
            await self._crew.expect(lambda _: True, time.monotonic() + self._timing.adoption, may_come=lambda: True)
        await self.close()
        await self._launcher.sweep(NAME)

    async def run(self) -> None:
        """Keep a worker behind the door for as long as it is open; ends by cancellation, leaving the worker be."""
        async with asyncio.TaskGroup() as tasks:
            self._crew.begin(tasks)
            while True:
                try:
                    await (self._keep_a_worker() if self._serving else self._news.wait())
                except Exception:  # whatever goes wrong at the door, the engines' supervisor must live on
                    log.exception("gateway: internal error")
                    await asyncio.sleep(BUG_PAUSE_SECONDS)

    # --- the sockets

    async def _begin(self, host: str, port: int, known: Identity | None) -> None:
        """Listen for the first time: on inherited sockets, on those that a worker brings, or on new ones."""
        deadline = time.monotonic() + self._timing.adoption
        if known is not None and is_alive(known):
            await self._expect_or_sweep(
                lambda worker: worker.pid == known.pid, deadline, may_come=lambda: is_alive(known)
            )
        try:
            self._listen(self._wanted(host, port))
        except PortTaken as taken:
            owner = self._launcher.port_owner(taken.port)
            if owner is None or not owner.ours or owner.backend != NAME:
                raise
            # A worker that nobody wrote down.
            endpoint = (taken.host, taken.port)
            await self._expect_or_sweep(
                lambda worker: endpoint in worker.served,
                deadline,
                may_come=lambda: self._launcher.port_owner(endpoint[1]) is not None,
            )
            self._listen(self._wanted(host, port))
        self._adopt()

    async def _expect_or_sweep(
        self, fits: Callable[[Worker], bool], deadline: float, *, may_come: Callable[[], bool]
    ) -> None:
        if await self._crew.expect(fits, deadline, may_come=may_come) is None:
            # It hangs, or has died: the only cases in which a connection may be refused.
            await self._launcher.sweep(NAME)

    def _move(self, host: str, port: int) -> None:
        """Listen elsewhere. The worker serves the old address until its successor serves the new one."""
        wanted = self._wanted(host, port)
        if wanted == self._endpoints:
            return
        try:
            self._listen(wanted)
        except PortTaken as taken:
            if any(port == taken.port for _, port in self._endpoints):
                raise AddressUnusable(
                    f"{taken.host}:{taken.port} overlaps the present address, {self.url}: 'aigw down' first"
                ) from taken
            raise
        if self._worker is not None:
            self._outgoing.append(self._worker)
            self._worker = None

    def _wanted(self, host: str, port: int) -> list[Endpoint]:
        """The addresses to serve; for port 0 the port that we have, else a free one."""
        have = sockets.bound_to(self._within_reach())
        return sockets.endpoints(host, port or next((port for _, port in have), None) or self._launcher.free_port())

    def _within_reach(self) -> list[socket.socket]:
        brought = [listener for worker in self._crew.strays for listener in worker.brought]
        return [*self._listeners, *brought]

    def _listen(self, wanted: list[Endpoint]) -> None:
        have = self._within_reach()
        kept = sockets.gather(wanted, have)
        for worker in self._crew.strays:
            worker.take_brought()
        sockets.close(listener for listener in have if listener not in kept)
        self._listeners, self._endpoints = kept, wanted

    # --- the worker

    def _adopt(self) -> None:
        """Decide about the workers that came by themselves."""
        for worker in self._crew.strays:
            if self._worker is None and worker.same_version and worker.served == set(self._endpoints):
                log.info("gateway: adopted worker %d", worker.pid)
                worker.stray, self._worker = False, worker
            elif worker.served:
                log.info("gateway: worker %d is of another version or address: it is replaced", worker.pid)
                worker.stray = False
                self._outgoing.append(worker)
        self._crew.close_to_strays()

    async def _keep_a_worker(self) -> None:
        """One worker from its start to its end."""
        worker = self._worker or await self._start()
        if worker is None:
            await self._after_crash(None)
            return
        if await self._greeted(worker):
            self._remember(worker.handle.identity)
            self._become(State.READY)
            self._retire_outgoing()
            while self._worker is worker and not worker.gone.is_set():
                await self._news.wait()
        if self._worker is worker:  # else it was replaced or dismissed, not lost
            self._worker = None
            await self._after_crash(worker)

    async def _start(self) -> Worker | None:
        self._become(State.STARTING, self.why)
        try:
            worker = await self._crew.hire(self._listeners)
        except LaunchError as error:
            self.why = f"the gateway worker can't be started: {error}"
            log.error("gateway: %s", self.why)
            return None
        self._worker = worker
        return worker

    async def _greeted(self, worker: Worker) -> bool:
        """Wait for its hello; False when it ends, hangs or is replaced instead."""
        deadline = time.monotonic() + self._timing.greeting
        while worker.connection is None and not worker.gone.is_set() and self._worker is worker:
            if time.monotonic() > deadline:
                log.error("gateway: worker %d said no hello in %g s", worker.pid, self._timing.greeting)
                await self._launcher.stop(worker.handle, grace=0.0)
                await worker.gone.wait()
                return False
            await self._news.wait(deadline - time.monotonic())
        return self._worker is worker and not worker.gone.is_set()

    async def _after_crash(self, worker: Worker | None) -> None:
        self.restarts += 1
        too_many = self._crashes.add(time.monotonic())
        if worker is not None:
            self.why = f"worker {worker.pid} ended unexpectedly ({worker.end})"
            log.error("gateway: %s", self.why)
        if too_many:
            await self._pause()

    async def _pause(self) -> None:
        """Give up on workers for a while; unless one is left that serves, the daemon answers in their place."""
        reason = f"the gateway cannot keep a worker alive: {self.why}; see 'aigw logs gateway'"
        log.error("%s; trying again in %g s", reason, self._timing.retry)
        self._become(State.FAILED, reason)
        listeners = self._listeners
        deadline = time.monotonic() + self._timing.retry
        async with AsyncExitStack() as stack:
            if all(worker.gone.is_set() for worker in self._outgoing):
                await stack.enter_async_context(apologizing(listeners, reason, round(self._timing.retry)))
            while self._listeners is listeners and self._serving and (left := deadline - time.monotonic()) > 0:
                await self._news.wait(left)

    def _retire_outgoing(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        for worker in outgoing:
            self._crew.dismiss_soon(worker)

    def _become(self, state: State, why: str | None = None) -> None:
        self.state, self.why = state, why
        self._ears.on_change()
