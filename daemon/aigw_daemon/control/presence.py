"""Which process is the daemon of a home, whether it can act, and how to end it by force.

A daemon that can't be reached is still there: it holds the lock, and its engines run. By its PID an operator can deal
with it. Only the standard library and small modules are imported: every command begins here.
"""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from aigw_daemon import place
from aigw_daemon.home import Home
from aigw_daemon.identity import start_ticks

STEP_SECONDS: Final = 0.05
END_SECONDS: Final = 10.0
"""How long a killed daemon may take to be gone."""


class Unkillable(Exception):
    """The daemon survives SIGKILL, or belongs to somebody else; the text says why."""


def holder(home: Home) -> int | None:
    """The PID of the daemon of this home; None when none runs."""
    written = place.read(home.place_file)
    if written is not None and written.alive:
        return written.pid
    pid = _written_pid(home.lock)
    return pid if pid is not None and pid != os.getpid() and _has_open(pid, home.lock) else None


def kill(home: Home) -> int | None:
    """Kill the daemon and wait until it is gone; returns its PID, None when none runs. Raises Unkillable.

    What it started is left running: ``aigwd --stop-all`` ends that.
    """
    pid = holder(home)
    if pid is None:
        return None
    ticks = start_ticks(pid)
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        # Looked at again after the pidfd was opened: from here on the number can't come to mean another process.
        if holder(home) == pid:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except OSError as error:
        raise Unkillable(f"aigwd (PID {pid}) can't be killed: {error.strerror}") from error
    finally:
        os.close(descriptor)
    deadline = time.monotonic() + END_SECONDS
    while ticks is not None and start_ticks(pid) == ticks:
        if time.monotonic() > deadline:
            raise Unkillable(f"aigwd (PID {pid}) survives SIGKILL: 'ps -o stat,wchan {pid}' shows what it waits for")
        time.sleep(STEP_SECONDS)
    return pid


def _written_pid(lock: Path) -> int | None:
    try:
        return int(lock.read_bytes())
    except (OSError, ValueError):
        return None


def _has_open(pid: int, path: Path) -> bool:
    """Whether the process has this file open: the lock's holder keeps it so, for as long as it lives."""
    with suppress(OSError):
        wanted = path.stat()
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if os.path.samestat(descriptor.stat(), wanted):
                    return True
    return False
