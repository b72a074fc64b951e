"""Where engines run, as the supervisor sees it: what a launcher takes, gives and promises.

Nothing here says that it is this machine: an identity can carry a node, and every effect goes through the launcher.
`process.py` has the one for this machine.
"""

import signal
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from aigw_daemon.identity import Identity
from aigw_daemon.state_file import Member
from aigw_daemon.supervisor.failures import Exit
from aigw_daemon.supervisor.logs import FileId
from aigw_daemon.supervisor.ports import PortOwner

STOP_GRACE: Final = 15.0
"""Seconds between SIGTERM and SIGKILL (rule A7)."""


@dataclass(frozen=True)
class ProcessSpec:
    """What to start. ``env`` is the whole environment; the cookie is added to it."""

    name: str
    """The backend, or ``gateway``: the second half of the cookie."""
    argv: tuple[str, ...]
    env: Mapping[str, str]
    log: Path
    cwd: Path | None = None
    pass_fds: tuple[int, ...] = ()
    """Only the gateway worker gets any: no engine inherits a listener (rule A20)."""


@dataclass(frozen=True)
class LogStart:
    """Where in which file the output of a process begins."""

    file: FileId
    offset: int
    """In bytes."""


@dataclass(frozen=True)
class Stopped:
    """What a stop or a sweep did. ``unkillable`` is left in spite of SIGKILL: never call that stopped."""

    exit: Exit | None = None
    killed: bool = False
    """The leader did not heed SIGTERM."""
    swept: int = 0
    """How many processes the leader had left behind."""
    unkillable: tuple[int, ...] = ()


@dataclass(frozen=True)
class Usage:
    """What an engine's whole tree takes: resident bytes (shared pages counted for each), seconds of CPU so far."""

    memory_bytes: int
    cpu_seconds: float


class LaunchError(Exception):
    """A process could not be started. ``transient``: the system lacks something that may come back (rule A23)."""

    def __init__(self, message: str, *, transient: bool = False, missing: bool = False) -> None:
        super().__init__(message)
        self.transient = transient
        self.missing = missing
        """The program isn't there, or isn't executable (rule A6)."""


class NotAdopted(Exception):
    """The process of an identity is gone, or is somebody else's; it was not signalled (rule A12)."""


class Handle(Protocol):
    """A running engine, or one that has ended and may have left something behind."""

    @property
    def identity(self) -> Identity:
        """Of the leader."""

    @property
    def log_start(self) -> LogStart | None:
        """Of its log; None of an adopted one."""

    async def wait(self) -> Exit:
        """How the leader ended; may be called by several, at any time, and cancelled without harm."""


class Launcher(Protocol):
    """Where engines run. Everything that touches a process goes through it."""

    async def spawn(self, spec: ProcessSpec) -> Handle:
        """Start a process as the leader of its own session. Cancelled, it leaves nothing running.

        Raises LaunchError.
        """

    async def adopt(
        self, identity: Identity, *, log_path: Path | None = None, log_file: FileId | None = None
    ) -> Handle:
        """Take up a process that an earlier daemon has started, and whose log is there. Raises NotAdopted.

        ``log_file``: which file it was started with, where that is known; its name may have gone since.
        """

    def signal(self, handle: Handle, number: signal.Signals) -> None:
        """Send a signal to the leader's process group, if it still runs."""

    async def stop(
        self, handle: Handle, *, grace: float = STOP_GRACE, members: Iterable[Member] = (), insist: bool = False
    ) -> Stopped:
        """End it: TERM, CONT, ``grace`` seconds, KILL, sweep (rules A7, A8). One that has ended is only swept.

        ``members`` are known descendants, beside those that were seen while it ran. ``insist``: send TERM again each
        second, to one that has nothing to finish yet. vLLM swallows the first one while it waits for its engine.
        """

    async def sweep(self, name: str, members: Iterable[Member] = ()) -> Stopped:
        """Kill all that carries the cookie and this name, or is among ``members``, and belongs to no running leader."""

    def members(self, handle: Handle) -> tuple[Member, ...]:
        """The leader's descendants as last seen, those included that have left its tree since."""

    def usage(self, handle: Handle) -> Usage:
        """What its whole tree takes now."""

    async def tail(self, path: Path, lines: int, since: int = 0) -> list[str]:
        """The last lines of a log after ``since`` bytes."""

    def log_size(self, path: Path) -> int:
        """Bytes in a log."""

    def log_reader(self, path: Path) -> int | None:
        """A descriptor to read a log, which the caller closes; None when there is no log.

        It leads to the file that the process of that log writes to, even when ``path`` leads elsewhere by now.
        """

    def log_moved(self, path: Path) -> str | None:
        """``removed`` or ``renamed to …`` if a running process writes to a log that ``path`` no longer leads to."""

    def port_owner(self, port: int) -> PortOwner | None:
        """Who listens on a loopback port; None when it is free (rule A15)."""

    def listens(self, handle: Handle, port: int) -> bool:
        """Whether the port is listened on by processes of this engine alone (rule A16)."""

    def free_port(self, avoid: Collection[int] = ()) -> int:
        """A loopback port that nobody listens on. Raises OSError when there is none."""

    def oom_kills(self) -> int:
        """How many processes the kernel's out-of-memory killer has killed since the boot; 0 where it doesn't say."""

    def memory(self) -> int:
        """Bytes of memory that the machine has; 0 where it doesn't say."""

    async def strays(self) -> set[str]:
        """The names that processes with our cookie carry and that no running leader accounts for."""

    async def tend(self) -> None:
        """Keep logs below their cap, notice descendants, reap orphans; until cancelled."""
