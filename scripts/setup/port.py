"""Asks, before any long work, whether the gateway's port is to be had: `python -m scripts.setup.port 4000`.

A port that this user's own aigw holds is fine: `aigw up` finds it there.
"""

import contextlib
import errno
import os
import pwd
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scripts.setup.steps import SetupError, told

LISTENING = "0A"
"""The state of a listening socket in /proc/net/tcp."""
AIGW = re.compile(r"\baigw(d|_daemon)\b")
"""The daemon and its gateway worker, by their command lines."""
LAST_PORT = 65_535
LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


@dataclass(frozen=True)
class Holder:
    """Who listens on a port: the user, and the process where this user may see it."""

    uid: int
    pid: int | None = None
    command: str = ""

    @property
    def is_our_aigw(self) -> bool:
        return self.uid == os.getuid() and AIGW.search(self.command) is not None

    def __str__(self) -> str:
        if self.pid is not None:
            return f"PID {self.pid} ({self.command})"
        return f"a program of the user {user_name(self.uid)}"


def check(port: int) -> None:
    """Raises SetupError when `port` is none, or, with who holds it, is taken by anything but this user's own aigw."""
    if not 1 <= port <= LAST_PORT:
        raise SetupError(f"cannot use port {port}: a port is a number from 1 to {LAST_PORT}, like 4100")
    if all(is_free(family, address, port) for family, address in LOOPBACKS):
        return
    holder = next(holders(port), None)
    if holder is not None and holder.is_our_aigw:
        return
    raise SetupError(
        f"cannot use port {port}: {holder or 'a program that cannot be seen from here'} listens there;"
        f" stop it, or take another port: scripts/quickstart --port {port + 1}"
    )


def is_free(family: socket.AddressFamily, address: str, port: int) -> bool:
    """Whether nobody listens there. A loopback that this machine lacks is free: nobody can hold it."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As the daemon does: connections of a listener that is gone don't hold its port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except PermissionError as error:
        raise SetupError(f"cannot use port {port}: ports below 1024 are for root; take a higher one") from error
    except OSError as error:
        return error.errno != errno.EADDRINUSE
    return True


def holders(port: int) -> Iterator[Holder]:
    """The listeners on `port`, as /proc shows them. An address means its whole machine: any of them is in the way."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                # sl, local address:port, remote, state, queues, timer, retransmits, uid, timeout, inode
                fields = line.split()
                if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    yield find_process(uid=int(fields[7]), inode=fields[9])


def find_process(uid: int, inode: str) -> Holder:
    """The process that has the socket open. Without root only one's own processes can be seen."""
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and any(str(fd.readlink()) == f"socket:[{inode}]" for fd in process.glob("fd/*")):
                words = (process / "cmdline").read_bytes().split(b"\0")
                return Holder(uid, int(process.name), " ".join(word.decode(errors="replace") for word in words).strip())
    return Holder(uid)


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"with the number {uid}"


def main() -> int:
    check(int(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(told(main))
