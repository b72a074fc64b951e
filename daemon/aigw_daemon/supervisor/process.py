"""Engines as processes: start, recognise, watch, stop, sweep. The only place that starts or signals one.

`LocalLauncher` is the `Launcher` of this machine: each engine leads a session of its own, is watched and reaped through
a pidfd, and is found again by its cookie (`AIGW_INSTANCE` and `AIGW_BACKEND` in its environment), whatever became of
its leader.
"""

import asyncio
import ctypes
import errno
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Collection, Container, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from aigw_daemon.identity import Identity, boot_id
from aigw_daemon.state_file import Member
from aigw_daemon.supervisor import kin, logs, ports, proctable
from aigw_daemon.supervisor.launcher import (
    STOP_GRACE,
    Handle,
    Launcher,
    LaunchError,
    LogStart,
    NotAdopted,
    ProcessSpec,
    Stopped,
    Usage,
)
from aigw_daemon.supervisor.open_logs import OpenLogs
from aigw_daemon.supervisor.ports import PortOwner
from aigw_daemon.supervisor.proctable import BACKEND, INSTANCE
from aigw_daemon.supervisor.watch import LocalProcess, all_ended, open_member, reap_ended

__all__ = ["Handle", "LaunchError", "Launcher", "LocalLauncher", "NotAdopted", "ProcessSpec", "Stopped", "Usage"]

KILL_SECONDS: Final = 5.0
"""How long the kernel may take to end what was killed, before that is reported as unkillable (rule A7)."""
KILL_ROUND_SECONDS: Final = 0.5
"""After which the process table is looked at again."""
INSIST_SECONDS: Final = 1.0
"""After which a process that has nothing to finish is sent SIGTERM again."""
TEND_SECONDS: Final = 1.0
"""How often logs are checked; the cap of a log holds to within what is written in this time."""
MEMBERS_EVERY: Final = 2
"""Of those rounds, each how many-th looks for new descendants and orphans."""
REAP_SECONDS: Final = 0.5
"""How often ended children are looked for. One of which nobody knows the parent must be there at two looks: the part of
this program that started it, if one did, has long reaped it by then. As PID 1 of a container we inherit strangers."""

_TRANSIENT = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ETXTBSY, errno.ENOSPC})
_SYSTEMD = frozenset(
    {"NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID", "WATCHDOG_USEC", "INVOCATION_ID"}
)
"""Said by systemd to the daemon, and to nobody else."""
_PR_SET_CHILD_SUBREAPER: Final = 36

log = logging.getLogger(__name__)


def become_subreaper() -> None:
    """Have orphans of our children become ours, so that they can be reaped (rule A9). Survives an exec."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        log.warning("cannot become a subreaper (%s): orphans of engines go to PID 1", os.strerror(number))


class LocalLauncher:
    """Runs engines on this machine. ``instance`` is the cookie: the same for every daemon of one home."""

    def __init__(self, instance: str, *, kill_seconds: float = KILL_SECONDS, log_cap: int = logs.CAP) -> None:
        self._instance = instance
        self._kill_seconds = kill_seconds
        self._logs = OpenLogs(log_cap)
        self._running: dict[int, LocalProcess] = {}
        self._zombies: dict[Member, float] = {}
        """When each zombie of unknown origin was first seen; monotonic seconds."""
        self._starting = threading.Lock()
        """Held from the start of a process until it is watched: a sweep in its thread must not take it for a stray."""

    async def spawn(self, spec: ProcessSpec) -> LocalProcess:
        """See Launcher.

        There is no await between the start and the watch, so nothing can come between them (rule A10); a start takes a
        few milliseconds.
        """
        with self._starting:
            output = _open_log(spec)
            try:
                begin = LogStart(logs.file_id(output), os.fstat(output).st_size)
                pid = self._start(spec, output)
                identity = Identity(
                    pid=pid,
                    start_ticks=_ticks(pid),
                    boot_id=boot_id(),
                    pgid=pid,
                    cookie=self._instance,
                    argv=spec.argv,
                )
                process = self._watch(LocalProcess(spec.name, identity, os.pidfd_open(pid), begin))
            except BaseException:
                os.close(output)
                raise
            self._logs.hold(spec.log, output, lambda: process.running)
            return process

    async def adopt(
        self, identity: Identity, *, log_path: Path | None = None, log_file: logs.FileId | None = None
    ) -> LocalProcess:
        """See Launcher. One that we watch already is given as it is."""
        known = self._running.get(identity.pid)
        if known is not None and known.identity.start_ticks == identity.start_ticks:
            return known
        try:
            descriptor = os.pidfd_open(identity.pid)
        except OSError as error:
            raise NotAdopted(f"process {identity.pid} is gone") from error
        try:
            # Checked after the pidfd was opened: from here on the number can't come to mean another process.
            name = self._recognise(identity)
        except NotAdopted:
            reap_ended(descriptor)
            os.close(descriptor)
            raise
        process = self._watch(LocalProcess(name, identity, descriptor))
        if log_path is not None and (output := logs.open_of_process(identity.pid, log_path, log_file)) is not None:
            self._logs.hold(log_path, output, lambda: process.running)
        return process

    def signal(self, handle: Handle, number: signal.Signals) -> None:
        """See Launcher."""
        process = self._own(handle)
        if process.running:
            # The leader is not reaped, so its number is still its group's.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.identity.pgid, number)

    async def stop(
        self, handle: Handle, *, grace: float = STOP_GRACE, members: Iterable[Member] = (), insist: bool = False
    ) -> Stopped:
        """See Launcher."""
        process = self._own(handle)
        await self._look_for_members()
        self.signal(process, signal.SIGTERM)
        # A stopped process can't act on SIGTERM before it is continued.
        self.signal(process, signal.SIGCONT)
        killed = process.running and not await self._heeds(process, grace, INSIST_SECONDS if insist else grace)
        if killed:
            self.signal(process, signal.SIGKILL)
            await process.ends_within(self._kill_seconds)
        swept = await self._sweep(process.name, process, members)
        return Stopped(process.exit, killed, swept.swept, swept.unkillable)

    async def _heeds(self, process: LocalProcess, grace: float, again: float) -> bool:
        """Whether it ends within ``grace`` seconds; asked once more each ``again`` seconds."""
        until = time.monotonic() + grace
        while not await process.ends_within(min(again, max(0.0, until - time.monotonic()))):
            if time.monotonic() >= until:
                return False
            self.signal(process, signal.SIGTERM)
        return True

    async def sweep(self, name: str, members: Iterable[Member] = ()) -> Stopped:
        """See Launcher."""
        return await self._sweep(name, None, members)

    def members(self, handle: Handle) -> tuple[Member, ...]:
        """See Launcher."""
        return self._own(handle).members

    def usage(self, handle: Handle) -> Usage:
        """See Launcher."""
        process = self._own(handle)
        pids = [process.identity.pid, *(member.pid for member in process.members)]
        found = [entry for entry in map(proctable.read, pids) if entry is not None]
        return Usage(
            memory_bytes=sum(entry.resident_pages for entry in found) * proctable.PAGE,
            cpu_seconds=sum(entry.cpu_ticks for entry in found) / proctable.TICKS,
        )

    def oom_kills(self) -> int:
        """See Launcher."""
        return proctable.oom_kills()

    def memory(self) -> int:
        """See Launcher."""
        return proctable.memory_total()

    async def tail(self, path: Path, lines: int, since: int = 0) -> list[str]:
        """See Launcher."""
        return await self._logs.tail(path, lines, since)

    def log_size(self, path: Path) -> int:
        """See Launcher."""
        return self._logs.size(path)

    def log_reader(self, path: Path) -> int | None:
        """See Launcher."""
        return self._logs.reader(path)

    def log_moved(self, path: Path) -> str | None:
        """See Launcher."""
        return self._logs.moved(path)

    def port_owner(self, port: int) -> PortOwner | None:
        """See Launcher."""
        if ports.is_free(port):
            return None
        return ports.owner(port, self._instance) or PortOwner(None, None, "unknown")

    def listens(self, handle: Handle, port: int) -> bool:
        """See Launcher."""
        process = self._own(handle)
        processes = proctable.table()
        pid = process.identity.pid
        return ports.held_by(port, {pid} | proctable.descendants(processes, {pid}))

    def free_port(self, avoid: Collection[int] = ()) -> int:
        """See Launcher."""
        return ports.choose(avoid)

    async def strays(self) -> set[str]:
        """See Launcher."""
        return await asyncio.to_thread(self._stray_names)

    async def tend(self) -> None:
        """See Launcher."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tend_leaders(), name="tend-leaders")
            tasks.create_task(self._tend_orphans(), name="tend-orphans")

    async def _tend_leaders(self) -> None:
        rounds = 0
        while True:
            await asyncio.sleep(TEND_SECONDS)
            rounds += 1
            await self._logs.tend()
            if rounds % MEMBERS_EVERY == 0:
                await self._look_for_members()

    async def _tend_orphans(self) -> None:
        while True:
            await asyncio.sleep(REAP_SECONDS)
            if _child_has_ended():
                await asyncio.to_thread(self._reap_orphans)
            else:
                self._zombies = {}

    def close(self) -> None:
        """Stop watching; all processes are left as they are."""
        for process in self._running.values():
            process.close()
        self._running.clear()
        self._logs.close()

    # --- starting and recognising

    def _start(self, spec: ProcessSpec, output: int) -> int:
        env = {name: value for name, value in spec.env.items() if name not in _SYSTEMD}
        # setproctitle, with which vLLM names its workers, would otherwise overwrite the environment (SPT_NOENV).
        env |= {INSTANCE: self._instance, BACKEND: spec.name, "SPT_NOENV": "1"}
        try:
            process = subprocess.Popen(
                spec.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                close_fds=True,
                pass_fds=spec.pass_fds,
                start_new_session=True,
                cwd=spec.cwd,
                env=env,
            )
        except OSError as error:
            raise LaunchError(
                f"cannot run {spec.argv[0]}: {error.strerror or error}",
                transient=error.errno in _TRANSIENT,
                missing=error.errno in {errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR},
            ) from error
        # It is reaped by its pidfd: Popen is to believe that it is done, and not to wait for it as well.
        process.returncode = 0
        return process.pid

    def _watch(self, process: LocalProcess) -> LocalProcess:
        # Leaders that have ended are kept out here and not earlier: until then their group may have to be swept.
        self._running = {pid: other for pid, other in self._running.items() if other.running}
        self._running[process.identity.pid] = process
        return process

    def _own(self, handle: Handle) -> LocalProcess:
        if not isinstance(handle, LocalProcess):
            raise TypeError(f"a handle of another launcher: {handle!r}")
        return handle

    def _recognise(self, identity: Identity) -> str:
        """The backend of an identity's process. Raises NotAdopted unless everything that is known of it agrees."""
        found = proctable.read(identity.pid)
        if identity.boot_id != boot_id() or found is None or found.zombie or found.start_ticks != identity.start_ticks:
            raise NotAdopted(f"process {identity.pid} is gone")
        mark = proctable.cookie(identity.pid)
        if found.pgid != identity.pgid or mark is None or mark.instance != self._instance:
            raise NotAdopted(f"process {identity.pid} is not one of this aigw: it is left alone")
        return mark.backend

    # --- sweeping

    async def _sweep(self, name: str, leader: LocalProcess | None, members: Iterable[Member]) -> Stopped:
        known = {*members, *(leader.members if leader else ())}
        deadline = time.monotonic() + self._kill_seconds
        killed: set[Member] = set()
        while found := await asyncio.to_thread(self._survivors, name, leader, known):
            if time.monotonic() > deadline:
                return Stopped(swept=len(killed - found), unkillable=tuple(sorted(member.pid for member in found)))
            killed |= found
            # Their children are found while the parents that lead to them are there.
            known |= found
            await _kill(found, leaders=self._running)
        await asyncio.to_thread(self._reap_orphans)
        return Stopped(swept=len(killed))

    def _survivors(self, name: str, leader: LocalProcess | None, known: set[Member]) -> set[Member]:
        processes, leaders = self._look(but=leader)
        spared = kin.accounted_for(processes, leaders) | _our_own_line(processes)
        cookie = proctable.Cookie(self._instance, name)
        marked = {pid for pid in processes if pid not in spared and proctable.cookie(pid) == cookie}
        group = kin.group(processes, leader.identity) if leader else set()
        return kin.survivors(processes, known, marked | group, spared)

    def _look(self, but: LocalProcess | None = None) -> tuple[dict[int, proctable.Process], list[kin.Leader]]:
        """The process table, and the leaders in it: whatever we have started is in both or in neither."""
        with self._starting:
            return proctable.table(), self._leaders(but=but)

    def _leaders(self, but: LocalProcess | None = None) -> list[kin.Leader]:
        running = [process for process in list(self._running.values()) if process.running and process is not but]
        return [kin.Leader(process.identity, process.members) for process in running]

    def _stray_names(self) -> set[str]:
        processes, leaders = self._look()
        spared = kin.accounted_for(processes, leaders) | _our_own_line(processes)
        marks = (proctable.cookie(pid) for pid, entry in processes.items() if pid not in spared and not entry.zombie)
        return {mark.backend for mark in marks if mark is not None and mark.instance == self._instance}

    # --- tending

    async def _look_for_members(self) -> None:
        leaders = [process for process in self._running.values() if process.running]
        if leaders:
            await asyncio.to_thread(self._note_members, leaders)

    def _note_members(self, leaders: list[LocalProcess]) -> None:
        processes = proctable.table()
        for leader in leaders:
            leader.members = kin.members(processes, kin.Leader(leader.identity, leader.members))

    def _reap_orphans(self) -> None:
        """Reap zombies that were reparented to us, and no child that some other part of this program waits for."""
        processes = proctable.table()
        zombies = kin.zombies(processes, parent=os.getpid(), but=self._running)
        now = time.monotonic()
        self._zombies = {member: self._zombies.get(member, now) for member in zombies}
        sure = kin.orphans(processes, zombies, os.getpid(), self._leaders())
        for member, first_seen in self._zombies.items():
            if member in sure or now - first_seen >= REAP_SECONDS:
                with suppress(ChildProcessError):
                    os.waitpid(member.pid, os.WNOHANG)


def _our_own_line(processes: dict[int, proctable.Process]) -> set[int]:
    """Ourselves and whoever started us: a shell carries our cookie if somebody copied an engine's environment."""
    return proctable.line_of(processes, os.getpid())


def _child_has_ended() -> bool:
    """Whether any child waits to be reaped: one system call, where the process table would be hundreds."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


async def _kill(members: Iterable[Member], leaders: Container[int]) -> None:
    """Kill these, wait a moment, and reap our children among them; leaders are reaped by their watch."""
    opened = {member.pid: descriptor for member in members if (descriptor := open_member(member)) is not None}
    descriptors = list(opened.values())
    try:
        for descriptor in descriptors:
            with suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        await all_ended(descriptors, KILL_ROUND_SECONDS)
        for pid, descriptor in opened.items():
            if pid not in leaders:
                reap_ended(descriptor)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _ticks(pid: int) -> int:
    found = proctable.read(pid)
    if found is None:
        raise LaunchError(f"process {pid} vanished before it was reaped: somebody else reaps our children")
    return found.start_ticks


def _open_log(spec: ProcessSpec) -> int:
    try:
        return logs.open_append(spec.log)
    except OSError as error:
        text = f"cannot open the log {spec.log}: {error.strerror or error}"
        raise LaunchError(text, transient=error.errno in _TRANSIENT) from error
