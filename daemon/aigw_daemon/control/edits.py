"""Whether a profile's file has been edited since the daemon loaded it."""

from dataclasses import dataclass, field
from pathlib import Path

from aigw_daemon.profile.yaml import MAX_BYTES

Stamp = tuple[int, int, int]
"""What tells that a file may have changed: inode, size, time of the last change in nanoseconds."""


@dataclass
class LoadedFile:
    """A file as it was loaded. Its content is only read again when its stamp has changed."""

    path: Path
    content: bytes = field(repr=False)
    _stamp: Stamp | None = None
    _edited: bool | None = None

    @property
    def edited(self) -> bool:
        """Whether its content differs from what was loaded; a file that is gone does."""
        stamp = _stamp(self.path)
        if self._edited is None or stamp != self._stamp:
            self._stamp, self._edited = stamp, _content(self.path) != self.content
        return self._edited


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _content(path: Path) -> bytes | None:
    """None for what isn't a regular file: opening a pipe could block."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError:
        return None
