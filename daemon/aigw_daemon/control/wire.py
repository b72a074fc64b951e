"""Requests over the control socket.

A daemon that is suspended accepts connections, for the kernel does that, and never answers. So whoever waits for an
answer looks at the daemon's process meanwhile: a slow one is waited for, a suspended one is told.
"""

import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from aigw_daemon.control.presence import holder
from aigw_daemon.control.transport import Answer, Broken, asking
from aigw_daemon.home import Home, HomeError
from aigw_daemon.identity import is_suspended
from aigw_daemon.place import located, read

LOOK_SECONDS: Final = 1.0
"""Between two looks at a daemon that says nothing."""
SUSPENDED_LOOKS: Final = 2
"""Looks in a row that must find it suspended: a debugger or a profiler stops a process for a moment."""
REACH_SECONDS: Final = 5.0
"""How long a running daemon may be out of reach: it ends, or makes its socket anew."""
START_SECONDS: Final = 15.0
"""The same for one that has never written where it is: it starts, or stops what another one left."""
_UCRED: Final = struct.Struct("3i")


class ControlError(Exception):
    """The daemon could not be asked, or said no."""


class DaemonNotRunning(ControlError):
    """No daemon of this home runs."""


class ConnectionLost(ControlError):
    """The daemon went away, or did not answer in time, while we were talking."""


class DaemonSuspended(ControlError):
    """The daemon's process is stopped, and answers nobody until it is continued."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"aigwd (PID {pid}) is suspended: it answers nothing until it is continued")
        self.pid = pid


class DaemonUnreachable(ControlError):
    """A daemon runs, and nobody listens on its control socket."""

    def __init__(self, pid: int, where: str) -> None:
        super().__init__(f"aigwd (PID {pid}) is running, but can't be reached on its control socket {where}")
        self.pid = pid


class Failed(Exception):
    """The daemon's answer is an error: its status and body."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"the daemon answered {status}")
        self.status = status
        self.body = body


def ask(home: Home, method: str, path: str, body: Any = None, *, seconds: float | None) -> bytes:
    """The whole answer. ``seconds`` may pass without a byte of it; None: any time.

    Raises ControlError and Failed.
    """
    with _answered(home, method, path, body, seconds=seconds) as answer:
        return answer.read()


def lines(
    home: Home, method: str, path: str, body: Any = None, *, params: dict[str, Any] | None = None
) -> Iterator[bytes]:
    r"""The answer line by line as it comes. A line ends at ``\n`` alone. Raises ControlError and Failed."""
    with _answered(home, method, path, body, params=params) as answer:
        yield from answer.lines()


def dial(home: Home) -> "WatchedSocket":
    """Connect to the daemon.

    Raises DaemonNotRunning, DaemonSuspended and DaemonUnreachable, and HomeError where nobody can tell.
    """
    began = time.monotonic()
    while True:
        where = str(located(home).control_socket)
        sock = WatchedSocket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.settimeout(LOOK_SECONDS)
            sock.connect(where)
        except OSError:
            sock.close()
        else:
            sock.settimeout(None)
            sock.refuse_suspended()
            return sock
        pid = holder(home)
        if pid is None:
            _look_into(home)
            raise DaemonNotRunning("aigwd is not running: start it with 'aigw up'")
        if is_suspended(pid):
            raise DaemonSuspended(pid)
        patience = START_SECONDS if read(home.place_file) is None else REACH_SECONDS
        if time.monotonic() - began > patience:
            raise DaemonUnreachable(pid, where)
        time.sleep(LOOK_SECONDS / 10)


def _look_into(home: Home) -> None:
    """Raise HomeError for a home that can't be read: whether a daemon runs in it is unknown then."""
    try:
        home.place_file.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise HomeError(f"cannot look into {home.state}: {error.strerror}; set AIGW_HOME to one you own") from error


class WatchedSocket(socket.socket):
    """A connection to the daemon that is not waited on for ever."""

    limit: float | None = None
    """Seconds without a byte that are allowed; None: any number, as long as the daemon is not suspended."""

    def refuse_suspended(self) -> None:
        """Raise DaemonSuspended before anything is asked: once continued, it would do what was told to have failed."""
        pid = self._peer()
        for _ in range(SUSPENDED_LOOKS):
            if not is_suspended(pid):
                return
            time.sleep(LOOK_SECONDS)
        self.close()
        raise DaemonSuspended(pid)

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """See socket. Raises DaemonSuspended and TimeoutError."""
        self._wait()
        return super().recv_into(buffer, nbytes, flags)

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self, select.POLLIN)
        began, suspended = time.monotonic(), 0
        while not poll.poll(LOOK_SECONDS * 1000):
            pid = self._peer()
            suspended = suspended + 1 if is_suspended(pid) else 0
            if suspended >= SUSPENDED_LOOKS:
                raise DaemonSuspended(pid)
            if self.limit is not None and time.monotonic() - began > self.limit:
                raise TimeoutError

    def _peer(self) -> int:
        """The PID of whoever listens there, as the kernel has it: SO_PEERCRED, unix(7)."""
        pid, _uid, _gid = _UCRED.unpack(self.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return int(pid)


@contextmanager
def _answered(
    home: Home, method: str, path: str, body: Any, *, params: dict[str, Any] | None = None, seconds: float | None = None
) -> Iterator[Answer]:
    """One request and its answer. Raises ControlError and Failed."""
    connection = dial(home)
    connection.limit = seconds
    try:
        with asking(connection, method, f"/v1{path}", body=body, query=params, timeout=None) as answer:
            if answer.is_error:
                raise Failed(answer.status, answer.read())
            yield answer
    except TimeoutError as error:
        raise ConnectionLost("aigwd did not answer in time: see 'aigw status'") from error
    except Broken as error:
        raise ConnectionLost("aigwd went away in the middle of its answer: see 'aigw status'") from error
