"""The daemon's own log: appended line by line, kept below a cap, and never a reason to fail (rule A19)."""

import logging
import os
from pathlib import Path

from aigw_daemon.home import PRIVATE_FILE, PRIVATE_FOLDER
from aigw_daemon.supervisor import logs

LINES_BETWEEN_CHECKS = 500


class DaemonLog(logging.Handler):
    """Writes each record at once; one that the disk has no room for is lost."""

    def __init__(self, path: Path, *, cap: int = logs.CAP) -> None:
        """Raises OSError when the file can't be opened. ``cap`` is in bytes."""
        super().__init__()
        self._path = path
        self._cap = cap
        self._descriptor = _open(path)
        self._lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        line = self.format(record) + "\n"
        try:
            self._follow_the_name()
            if self._lines % LINES_BETWEEN_CHECKS == 0:
                logs.rotate(self._descriptor, self._path, self._cap)
            self._lines += 1
            os.write(self._descriptor, line.encode(errors="backslashreplace"))
        except OSError:
            # Of a full disk the status tells; a log about the log would be lost as well.
            return

    def close(self) -> None:
        """See logging.Handler."""
        os.close(self._descriptor)
        super().close()

    def _follow_the_name(self) -> None:
        """Begin a new file when this one was removed or renamed. Raises OSError."""
        if logs.misplaced(self._descriptor, self._path) is not None:
            fresh = _open(self._path)
            os.close(self._descriptor)
            self._descriptor = fresh


def _open(path: Path) -> int:
    path.parent.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, PRIVATE_FILE)
