"""A backend that holds a process: what is known of it while it runs, and that its end is heard."""

import asyncio

from aigw_daemon.supervisor import bringup
from aigw_daemon.supervisor.backend import Backend, Edges, Plan
from aigw_daemon.supervisor.bringup import Running, process_section
from aigw_daemon.supervisor.engines.registry import ENGINES
from aigw_daemon.supervisor.failures import Exit
from aigw_daemon.supervisor.launcher import Stopped
from aigw_daemon.supervisor.lifecycle import Event, Life
from aigw_daemon.supervisor.patience import progress
from aigw_daemon.supervisor.probe import Reading
from aigw_daemon.supervisor.takedown import LOG_LINES
from aigw_daemon.words import State


class ProcessBackend(Backend):
    """The part of a backend that knows its process; when it has one and when not is decided in `managed`."""

    life = Life.MANAGED

    def __init__(self, plan: Plan, edges: Edges) -> None:
        super().__init__(plan, edges)
        self._process: Running | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._exit: Exit | None = None
        """How the process ended by itself."""
        self._oom_kills = 0
        """The kernel's count when the process was last looked at."""
        self._reading = Reading()
        self._memory: int | None = None
        self._progress: str | None = None

    def _hold(self, process: Running) -> None:
        if self._tasks is None:
            raise RuntimeError(f"the backend {self.name} is not running")
        if process is not self._process:
            self._process, self._exit = process, None
            self._oom_kills = self._edges.launcher.oom_kills()
            self._watcher = self._tasks.create_task(self._watch(process), name=f"{self.name}: watch")
            self._edges.on_change()

    async def _watch(self, process: Running) -> None:
        ended = await process.handle.wait()
        self._inbox.put_nowait(lambda: self._on_exit(process, ended))

    def _on_exit(self, process: Running, ended: Exit) -> None:
        if self._process is process:
            self._exit = ended
            self._transition(Event.EXITED, f"its process {process.handle.identity.pid} {ended}")

    def _let_go(self, stopped: Stopped) -> None:
        """Nothing of it runs any more; or something does that can't be killed, and then it stays on record."""
        if self._watcher is not None:
            self._watcher.cancel()
        self._edges.gpus.release(self.name)
        self._process, self._watcher, self._memory, self._reading = None, None, None, Reading()
        if not stopped.unkillable:
            self._edges.groups.release(self.name)
            self._forget_process()

    def _forget_process(self) -> None:
        self._edges.state.update_backend(self.name, identity=None, descendants=(), gpus=())

    def _running(self) -> list[asyncio.Task[None]]:
        return [*super()._running(), *([self._watcher] if self._watcher is not None else [])]

    async def _note(self) -> None:
        """Keep what is shown and what must survive us: memory, descendants, the last line of the log."""
        edges, process, record = self._edges, self._process, self._edges.state.backend(self.name)
        if process is None:
            return
        self._oom_kills = edges.launcher.oom_kills()
        members = edges.launcher.members(process.handle)
        if members != record.descendants:
            edges.state.update_backend(self.name, descendants=members)
        self._memory = edges.launcher.usage(process.handle).memory_bytes
        if self.state is State.STARTING:
            lines = await edges.launcher.tail(bringup.log_path(self.plan, edges), LOG_LINES, record.log_offset)
            self._say(progress(ENGINES[self.plan.kind].stages, lines))

    def _say(self, sentence: str | None) -> None:
        """Show how far the start is."""
        before, self._progress = self._progress, sentence
        if sentence != before:
            self._edges.on_change()

    def _occupy_gpus(self) -> None:
        """Nobody is to start where this one is about to leave: what it still holds would be missing there."""
        self._edges.gpus.hold(self.name, (seat.uuid for seat in self._edges.state.backend(self.name).gpus))

    def _gpus(self) -> tuple[int | str, ...]:
        """The indices of what it runs on; else what the profile names."""
        if self._process is not None and (seats := self._edges.state.backend(self.name).gpus):
            return tuple(seat.index for seat in seats)
        wanted = process_section(self.plan).gpus
        return wanted if isinstance(wanted, tuple) else ()
