"""The daemon's own log: appended line by line, kept below a cap, and never a reason to fail (rule A19)."""

import logging
import os
from pathlib import Path

from aigw_daemon.home import PRIVATE_FILE
from aigw_daemon.supervisor import logs

LINES_BETWEEN_CHECKS = 500


class DaemonLog(logging.Handler):
    """Writes each record at once; one that the disk has no room for is lost."""

    def __init__(self, path: Path, *, cap: int = logs.CAP) -> None:
        """Raises OSError when the file can't be opened. ``cap`` is in bytes."""
        super().__init__()
        self._path = path
        self._cap = cap
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, PRIVATE_FILE)
        self._lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        line = self.format(record) + "\n"
        try:
            if self._lines % LINES_BETWEEN_CHECKS == 0:
                logs.rotate(self._path, self._cap)
            self._lines += 1
            os.write(self._descriptor, line.encode(errors="backslashreplace"))
        except OSError:
            # Of a full disk the status tells; a log about the log would be lost as well.
            return

    def close(self) -> None:
        """See logging.Handler."""
        os.close(self._descriptor)
        super().close()
