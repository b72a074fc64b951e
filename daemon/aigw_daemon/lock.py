"""One daemon per home: a lock on a file that is kept open (rule A17).

A flock ends with its holder, however it died, and survives an exec in place; a PID file does neither.
"""

import contextlib
import fcntl
import os
import time
from pathlib import Path

from aigw_daemon.home import PRIVATE_FILE

STEP_SECONDS = 0.05


class AlreadyLocked(Exception):
    """Another daemon holds the lock; ``pid`` is what it wrote there, for the message only."""

    def __init__(self, pid: int | None) -> None:
        super().__init__(f"another aigwd (PID {pid}) is running" if pid else "another aigwd is running")
        self.pid = pid


def acquire(path: Path, *, patience: float = 0.0) -> int:
    """Take the lock and return its descriptor (close-on-exec, so that no child holds it).

    ``patience``: seconds to wait for a holder that may be about to end. Raises AlreadyLocked, and OSError when the
    file can't be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
    deadline = time.monotonic() + patience
    while not _locked(descriptor):
        if time.monotonic() >= deadline:
            pid = _written_pid(descriptor)
            os.close(descriptor)
            raise AlreadyLocked(pid)
        time.sleep(STEP_SECONDS)
    with contextlib.suppress(OSError):  # the number is for a message only, and the disk may be full
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _written_pid(descriptor: int) -> int | None:
    with contextlib.suppress(ValueError):
        return int(os.pread(descriptor, 32, 0))
    return None
