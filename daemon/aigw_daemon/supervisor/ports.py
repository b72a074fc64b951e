"""Who listens on a TCP port of this machine, read from /proc (rules A15, A16)."""

import pwd
import socket
import sys
from collections.abc import Container, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from typing import Final, NamedTuple

from aigw_daemon.supervisor import proctable

LISTEN: Final = "0A"
"""The state in /proc/net/tcp."""
LOOPBACK: Final = "127.0.0.1"
_ANY = {"0" * 8, "0" * 32}
_MAPPED = "0000000000000000FFFF0000"
"""What stands before an IPv4 address in an IPv6 socket's."""
_TRIES: Final = 100


@dataclass(frozen=True)
class PortOwner:
    """Who listens. ``pid`` and ``program`` are None when it is another user's, whose processes can't be looked into."""

    pid: int | None
    program: str | None
    user: str
    ours: bool = False
    """Whether it carries the cookie of this aigw."""
    backend: str | None = None
    """Of ours: which."""

    def __str__(self) -> str:
        if self.pid is None:
            return f"a program of user {self.user}"
        return f"{self.program} (PID {self.pid}, user {self.user})"


class Listener(NamedTuple):
    """One listening socket."""

    inode: int
    uid: int


def listeners(port: int) -> list[Listener]:
    """The sockets that a connection to the IPv4 loopback may reach on this port."""
    return [found for name in ("tcp", "tcp6") for found in _listeners(Path("/proc/net") / name, port)]


def owner(port: int, instance: str) -> PortOwner | None:
    """Who listens on the port; ours only if nobody else does too (SO_REUSEPORT lets several). None: nobody."""
    found = listeners(port)
    if not found:
        return None
    owners = [_describe(listener, instance) for listener in found]
    return next((other for other in owners if not other.ours), owners[0])


def held_by(port: int, pids: Iterable[int]) -> bool:
    """Whether somebody listens on the port, and all who do are among these processes (rule A16)."""
    wanted = {listener.inode for listener in listeners(port)}
    if not wanted:
        return False
    for pid in pids:
        wanted -= _sockets(pid, wanted)
        if not wanted:
            return True
    return False


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether an engine could listen on it now. Connections that linger from an earlier one don't count."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return not listeners(port)


def choose(avoid: Container[int] = (), host: str = LOOPBACK) -> int:
    """A port that is free now and not among ``avoid``. Raises OSError when there is none."""
    for _ in range(_TRIES):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
            port = int(probe.getsockname()[1])
        if port not in avoid:
            return port
    raise OSError(f"no free port on {host} after {_TRIES} tries")


def _listeners(path: Path, port: int) -> Iterable[Listener]:
    with suppress(OSError):
        suffix = f":{port:04X}"
        for line in path.read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTEN and fields[1].endswith(suffix) and _reachable(fields[1].partition(":")[0]):
                yield Listener(inode=int(fields[9]), uid=int(fields[7]))


def _reachable(address: str) -> bool:
    if address in _ANY:
        return True
    ipv4 = address.removeprefix(_MAPPED)
    # The kernel prints an address as a host-order number: on little-endian machines its bytes come reversed.
    return ipv4 == f"{int.from_bytes(socket.inet_aton(LOOPBACK), sys.byteorder):08X}"


def _describe(listener: Listener, instance: str) -> PortOwner:
    user = _user(listener.uid)
    for pid in _processes_of(listener.uid):
        if _sockets(pid, {listener.inode}):
            process = proctable.read(pid)
            mark = proctable.cookie(pid)
            ours = mark is not None and mark.instance == instance
            program = _program(process) if process else "a program that has just ended"
            return PortOwner(pid, program, user, ours, mark.backend if ours and mark else None)
    return PortOwner(None, None, user)


def _program(process: proctable.Process) -> str:
    """Its name; of an interpreter's module that too, for ``python`` alone says nothing."""
    # An interpreter's own flags stand before the module: python -P -m …
    match list(dropwhile(_is_flag, proctable.argv(process.pid)[1:])):
        case ["-m", module, *_] if module.replace(".", "").isidentifier():
            return f"{process.name} -m {module}"
    return process.name


def _is_flag(word: str) -> bool:
    return word.startswith("-") and word != "-m"


def _processes_of(uid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                # Root may hold another user's socket, and the other way round: the likely owners come first.
                found.append((entry.stat().st_uid != uid, int(entry.name)))
    return [pid for _, pid in sorted(found)]


def _sockets(pid: int, wanted: Container[int]) -> set[int]:
    found = set()
    with suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                target = str(descriptor.readlink())
                if target.startswith("socket:[") and int(target[8:-1]) in wanted:
                    found.add(int(target[8:-1]))
    return found


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
