"""The gateway's worker processes: the one that serves, those that drain, and strays nobody has decided about yet.

A stray is a worker that outlived its daemon: it redials the link until a daemon hears it, and brings the listening
sockets along. Everything that a worker says comes through here.
"""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from socket import socket
from typing import Final

from aigw_daemon.gatekeeper import listeners as sockets
from aigw_daemon.gatekeeper.ears import Ears
from aigw_daemon.gatekeeper.news import News
from aigw_daemon.gatekeeper.questions import Questions
from aigw_daemon.gatekeeper.timing import Timing
from aigw_daemon.gatekeeper.worker import Worker, identity_of, log_of, spec
from aigw_daemon.home import Home
from aigw_daemon.link.caching import CacheReply
from aigw_daemon.link.daemon import WorkerConnection
from aigw_daemon.link.messages import (
    Applied,
    Demand,
    Drain,
    Hello,
    Load,
    Ping,
    Pong,
    Records,
    Snapshot,
    Started,
    Tail,
    Up,
)
from aigw_daemon.supervisor.launcher import Launcher, NotAdopted
from aigw_daemon.version import AIGW_VERSION, LINK_VERSION

LOOK_SECONDS: Final = 0.1
"""How often a worker that has not said hello is looked at: it may have died."""
MOST_OWED: Final = 3
"""Signs of life that a worker may owe in a row. Three questions and not one long wait: while this daemon itself gets no
time, an answer may lie there unread, but hardly three times."""

log = logging.getLogger(__name__)


class Crew:
    """All living workers of this home that the daemon knows of."""

    def __init__(self, home: Home, launcher: Launcher, ears: Ears, *, timing: Timing, news: News) -> None:
        self._home = home
        self._launcher = launcher
        self._ears = ears
        self._timing = timing
        self._news = news
        self.questions = Questions()
        self._members: dict[int, Worker] = {}
        self._snapshot: Snapshot | None = None
        self._tail = False
        self._welcoming = True
        self._tasks: asyncio.TaskGroup | None = None

    def begin(self, tasks: asyncio.TaskGroup) -> None:
        """Own the crew's tasks from now on."""
        self._tasks = tasks

    @property
    def members(self) -> list[Worker]:
        """All of them, whatever they do."""
        return list(self._members.values())

    @property
    def strays(self) -> list[Worker]:
        """Those that came by themselves and that nobody has decided about."""
        return [worker for worker in self._members.values() if worker.stray]

    def load(self) -> Load:
        """What backends have to do, over all workers."""
        loads = [worker.load for worker in self._members.values()]
        return Load(
            in_flight=_sum(load.in_flight for load in loads),
            relayed=_sum(load.relayed for load in loads),
            waiting=_sum(load.waiting for load in loads),
            broken={name: why for load in loads for name, why in load.broken.items()},
            refused=tuple({name for load in loads for name in load.refused}),
        )

    def publish(self, snapshot: Snapshot) -> None:
        """Route on this from now on."""
        self._snapshot = snapshot
        for worker in self._members.values():
            worker.send(snapshot)

    def is_current(self, worker: Worker) -> bool:
        """Whether this worker routes on the last snapshot."""
        return self._snapshot is None or worker.applied == self._snapshot.revision

    def tail(self, on: bool) -> None:
        """Have starts of requests reported, or not any more."""
        self._tail = on
        for worker in self._members.values():
            worker.send(Tail(on=on))

    async def hire(self, listeners: Sequence[socket]) -> Worker:
        """Start a worker on these sockets. Raises LaunchError."""
        worker = Worker(await self._launcher.spawn(spec(self._home, listeners)))
        self._add(worker)
        return worker

    async def accept(self, connection: WorkerConnection) -> None:
        """Hear one worker out until it leaves; called by the link for each that says hello."""
        try:
            worker = await self._recognize(connection)
        except NotAdopted as error:
            log.warning("gateway: a worker was turned away: %s", error)
            return
        self._greet(worker, connection)
        try:
            async for message in connection.messages():
                self._hear(worker, message)
        finally:
            if worker.connection is connection:
                worker.connection = None

    async def expect(
        self, fits: Callable[[Worker], bool], deadline: float, *, may_come: Callable[[], bool]
    ) -> Worker | None:
        """The stray that fits, waiting for it until ``deadline`` (monotonic seconds), as long as it ``may_come``."""
        while True:
            found = next(filter(fits, self.strays), None)
            remaining = deadline - time.monotonic()
            if found is not None or remaining <= 0 or not may_come():
                return found
            await self._news.wait(min(remaining, LOOK_SECONDS))

    def close_to_strays(self) -> None:
        """It is decided who serves: from now on a worker that comes by itself is left over and has to leave."""
        self._welcoming = False
        for worker in self.strays:
            self.dismiss_soon(worker)

    async def dismiss(self, worker: Worker) -> None:
        """Have it finish what it serves and leave; stop it when it does not."""
        worker.stray, worker.leaving = False, True
        sockets.close(worker.take_brought())
        if worker.connection is None:
            # It can't be told over the link: it understands SIGTERM alike.
            self._launcher.signal(worker.handle, signal.SIGTERM)
        worker.send(Drain(grace=self._timing.drain))
        try:
            async with asyncio.timeout(self._timing.drain + self._timing.leaving):
                await worker.gone.wait()
        except TimeoutError:
            await self._launcher.stop(worker.handle, grace=1.0)

    def dismiss_soon(self, worker: Worker) -> None:
        """The same, without waiting for it."""
        worker.stray = False
        self._spawn(self.dismiss(worker), f"dismiss-worker-{worker.pid}")

    async def _recognize(self, connection: WorkerConnection) -> Worker:
        """The worker that called: one that we know by its PID, else one that outlived an earlier daemon."""
        hello = connection.hello
        if (known := self._members.get(hello.pid)) is not None:
            sockets.close(connection.listeners)
            return known
        try:
            handle = await self._launcher.adopt(identity_of(hello), log_path=log_of(self._home))
        except BaseException:
            sockets.close(connection.listeners)
            raise
        worker = Worker(
            handle,
            stray=True,
            brought=connection.listeners,
            served=frozenset(sockets.bound_to(connection.listeners)),
            same_version=(hello.link_version, hello.aigw_version) == (LINK_VERSION, AIGW_VERSION),
        )
        self._add(worker)
        return worker

    def _greet(self, worker: Worker, connection: WorkerConnection) -> None:
        worker.connection, worker.owed, worker.applied = connection, 0, None
        if worker.same_version and not worker.asked:
            self._spawn(self._until_mute(worker), f"signs-of-life-{worker.pid}")
        if self._snapshot is not None:
            connection.send(self._snapshot)
        connection.send(Tail(on=self._tail))
        if worker.leaving:  # it was told while it could not hear
            connection.send(Drain(grace=self._timing.drain))
        elif worker.stray and not self._welcoming:
            self.dismiss_soon(worker)
        self._news.wake()

    def _hear(self, worker: Worker, message: Up) -> None:
        worker.owed = 0
        match message:
            case Load():
                worker.load = message
                self._ears.on_load(self.load())
            case Records():
                self._ears.on_records(message)
            case Started():
                self._ears.on_started(message)
            case Demand():
                self._ears.on_demand(message)
            case CacheReply():
                self.questions.answered(message)
            case Applied():
                worker.applied = message.revision
                self._news.wake()
                self._ears.on_change()
            case Pong():
                pass  # that it came is all that it says
            case Hello():
                log.warning("gateway: worker %d said hello twice", worker.pid)

    async def _until_mute(self, worker: Worker) -> None:
        """Ask it for signs of life until it is gone, and kill it when it gives none: the next one gets its sockets."""
        while worker.owed < MOST_OWED:
            worker.asked += 1
            worker.owed += 1
            worker.send(Ping())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timing.sign_of_life):
                    await worker.gone.wait()
                    return
        worker.verdict = f"it gave no sign of life for {MOST_OWED * self._timing.sign_of_life:g} s"
        log.error("gateway: worker %d is killed: %s", worker.pid, worker.verdict)
        await self._launcher.stop(worker.handle, grace=0.0)

    def _add(self, worker: Worker) -> None:
        self._members[worker.pid] = worker
        self._spawn(self._until_gone(worker), f"watch-worker-{worker.pid}")

    async def _until_gone(self, worker: Worker) -> None:
        end = await worker.handle.wait()
        worker.end = worker.verdict or str(end)
        self._members.pop(worker.pid, None)
        sockets.close(worker.take_brought())
        worker.gone.set()
        self.questions.gone(worker)
        self._news.wake()
        self._ears.on_load(self.load())

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        if self._tasks is None:
            work.close()
            raise RuntimeError("the gatekeeper is not running")
        self._tasks.create_task(_logged(work, name), name=name)


def _sum(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in counts:
        for backend, count in each.items():
            total[backend] = total.get(backend, 0) + count
    return total


async def _logged(work: Coroutine[None, None, None], name: str) -> None:
    try:
        await work
    except Exception:  # a bug about one worker must not end the daemon, and with it the care for all others
        log.exception("gateway: %s failed", name)
