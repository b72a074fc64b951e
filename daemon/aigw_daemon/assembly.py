"""The composition root: what a daemon is built of, in which order, and why. Stops in reverse."""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from aigw_daemon.control import server
from aigw_daemon.control.announce import announce
from aigw_daemon.control.changes import Changes
from aigw_daemon.control.operations import Ending, Operations, Parts
from aigw_daemon.control.problems import Refusal
from aigw_daemon.control.routes import application
from aigw_daemon.control.schema import UpRequest
from aigw_daemon.findable import keep_findable, write_place
from aigw_daemon.gatekeeper.gatekeeper import Gatekeeper
from aigw_daemon.history.events import BackendEvent, EventLog
from aigw_daemon.history.hub import RecordHub
from aigw_daemon.home import Home
from aigw_daemon.leftovers import Leftovers, kill_leftovers, stop_leftovers
from aigw_daemon.link.daemon import LinkServer
from aigw_daemon.link.messages import Demand, Load, Records, Started
from aigw_daemon.models.puller import Puller
from aigw_daemon.state_file import StateFile
from aigw_daemon.supervisor.happenings import Happening
from aigw_daemon.supervisor.process import LocalLauncher
from aigw_daemon.supervisor.supervisor import Supervisor
from aigw_daemon.supervisor.traffic import Traffic

__all__ = ["Daemon", "Ending"]

log = logging.getLogger(__name__)


class Hearing:
    """Hears the workers and hands each message to whom it concerns (the gatekeeper's `Ears`)."""

    def __init__(self, changes: Changes, hub: RecordHub) -> None:
        self._changes = changes
        self._hub = hub
        self._load = Load({})
        self._told_at = 0.0
        self.on_demand: Callable[[Demand], None] = lambda _: None

    def traffic(self, backend: str) -> Traffic:
        """What this backend has to do (the supervisor's `Watch`)."""
        load = self._load
        relayed, refused = load.relayed.get(backend, 0), backend in load.refused
        return Traffic(load.in_flight.get(backend, 0), relayed, self._told_at, refused)

    def on_records(self, message: Records) -> None:
        """See Ears."""
        for record in message.records:
            self._hub.publish(record)

    def on_started(self, message: Started) -> None:
        """See Ears."""
        self._hub.publish(message)

    def on_load(self, total: Load) -> None:
        """See Ears."""
        self._told_at = time.monotonic()
        changed, self._load = total.in_flight != self._load.in_flight, total
        if changed:
            self._changes.happened()

    def on_change(self) -> None:
        """See Ears."""
        self._changes.happened()


class Daemon:
    """One aigwd, from its first socket to its last process."""

    def __init__(self, home: Home, *, inherited_listeners: Sequence[int] = ()) -> None:
        self._home = home
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._stop_asked = asyncio.Event()
        self._signals = 0
        # The state comes first: it holds the cookie by which everything else knows what is ours.
        self._state = StateFile(home)
        launcher = self._launcher = LocalLauncher(self._state.document.instance)
        self._events = EventLog(home.events_file)
        changes = Changes()
        hub = RecordHub(self._watched)
        hearing = Hearing(changes, hub)
        supervisor = Supervisor(
            home, self._state, launcher=launcher, traffic=hearing.traffic, on_change=changes.happened, tell=self._tell
        )
        self._gatekeeper = self._watched_gateway(hearing, inherited_listeners)
        self._puller = Puller(home)
        self._link = LinkServer(home.link_socket, self._state.document.instance, self._gatekeeper.accept)
        self._supervisor = supervisor
        self._changes = changes
        self._operations = Operations(
            Parts(
                home=home,
                state=self._state,
                launcher=launcher,
                supervisor=supervisor,
                gatekeeper=self._gatekeeper,
                hub=hub,
                events=self._events,
                puller=self._puller,
                changes=changes,
                stop=self._stop_asked.set,
                end=self._end,
            )
        )
        hearing.on_demand = lambda demand: supervisor.demand(demand.backend)

    def _watched_gateway(self, hearing: Hearing, inherited: Sequence[int]) -> Gatekeeper:
        return Gatekeeper(
            self._home,
            self._launcher,
            hearing,
            remember=lambda identity: self._state.update(gateway=identity),
            inherited=[socket.socket(fileno=number) for number in inherited],
        )

    async def run(
        self,
        *,
        on_ready: Callable[[], None],
        serve: bool = False,
        profile: str | None = None,
        say: Callable[[str], None] | None = None,
    ) -> Ending:
        """Serve the control API until stopped. ``on_ready`` is called once it answers.

        ``serve`` does at once what `aigw up` would ask for; ``say`` is then told what is served.
        """
        async with self._puller, asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(work, name=name)
                for name, work in (
                    ("supervisor", self._supervisor.run()),
                    ("gatekeeper", self._gatekeeper.run()),
                    ("link", self._link.run()),
                    ("publisher", self._publish()),
                    ("stop", self._stop_when_asked()),
                )
            ]
            # The control socket comes before the engines: the operator can look on while they are taken up again.
            async with server.serving(application(self._operations), self._home.control_socket):
                await write_place(self._home)
                background.append(tasks.create_task(keep_findable(self._home, self._move), name="findable"))
                on_ready()
                background.append(tasks.create_task(self._take_up(serve, profile), name="take-up"))
                if serve and say is not None:
                    watching = announce(self._operations.watch(), say)
                    background.append(tasks.create_task(watching, name="announcement"))
                ending = await self._ending
                self._changes.close()
            # Cancelled, not stopped: whatever still runs is to be found by the next daemon.
            for task in background:
                task.cancel()
        if ending is Ending.AT_ONCE:
            # A launcher of its own, to which whatever still runs is a stray.
            await kill_leftovers(self._state, LocalLauncher(self._state.document.instance), Leftovers())
        if ending in {Ending.STOPPED, Ending.AT_ONCE}:
            with suppress(OSError):
                self._home.place_file.unlink()
        await self._events.close()
        await self._state.close()
        return ending

    async def stop_leftovers(self) -> Leftovers:
        """Instead of `run`: stop what an earlier daemon left."""
        return await stop_leftovers(self._state, self._launcher)

    def stop(self) -> None:
        """Stop everything, then end; a second call kills what is still stopping (SIGTERM, SIGINT)."""
        self._signals += 1
        if self._signals > 1:
            self._end(Ending.AT_ONCE)
        self._stop_asked.set()

    def detach_listeners(self) -> list[int]:
        """The gateway's sockets by number, for the program that replaces this one."""
        return self._gatekeeper.detach_listeners()

    async def _take_up(self, serve: bool, profile: str | None) -> None:
        try:
            if serve:
                await self._operations.up(UpRequest(profile=profile))
            else:
                await self._operations.resume()
        except Refusal as refusal:
            log.error("%s%s", refusal, f"; {refusal.problem.hint}" if refusal.problem.hint else "")
            if serve:
                self._end(Ending.FAILED)
        except Exception:  # a daemon that can still be asked is worth more than one that is gone
            log.exception("cannot go on with what an earlier daemon served")
            if serve:
                self._end(Ending.FAILED)

    async def _move(self) -> None:
        try:
            await self._operations.restart_daemon()
        except Refusal as refusal:
            log.error("%s", refusal)

    async def _publish(self) -> None:
        async for _ in self._changes.beats(at_least=None):
            try:
                self._operations.publish()
            except Exception:  # the worker goes on with what it has
                log.exception("cannot tell the gateway of a change")

    async def _stop_when_asked(self) -> None:
        await self._stop_asked.wait()
        try:
            await self._operations.stop_everything()
        except Exception:  # the next daemon, or 'aigw down' without one, stops the rest
            log.exception("cannot stop everything")
            self._end(Ending.FAILED)
        self._end(Ending.STOPPED)

    def _tell(self, backend: str, happening: Happening, sentence: str | None) -> None:
        self._events.add(BackendEvent(time.time(), backend, happening, sentence))

    def _watched(self, on: bool) -> None:
        # A method, because the hub is built before the gatekeeper that it talks to.
        self._gatekeeper.tail(on)

    def _end(self, ending: Ending) -> None:
        if not self._ending.done():
            self._ending.set_result(ending)
