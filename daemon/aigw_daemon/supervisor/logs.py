"""Engines' logs: files that they append to themselves, cut back when they grow, read at their end (rule A19).

There is no pipe: a reader that dies or lags would stall the engine or kill it. The price is that the cap holds by
interval: a log has at most the cap plus what is written between two checks.

A log is measured, cut and read through a descriptor. Its name may be removed or renamed at any time, by logrotate for
one, while the engine goes on writing to the same file.
"""

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from aigw_daemon.home import PRIVATE_FILE, PRIVATE_FOLDER

CAP: Final = 16 * 1024 * 1024
"""Bytes after which a log is rotated: with the rotated one it takes at most twice as much."""
TAIL_BYTES: Final = 64 * 1024
"""How much of a log's end is looked at to find its last lines, at least."""
_LINE_BYTES: Final = 320
"""What a line takes, generously: for many lines that much more is looked at."""
_LONGEST_LINE: Final = 2000
_BLOCK: Final = 1024 * 1024
_DELETED: Final = " (deleted)"
"""What the kernel adds to the name of an open file that has lost its last one."""

FileId = tuple[int, int]
"""Device and inode: one file, whatever it is called."""


def open_append(path: Path) -> int:
    """A descriptor for an engine's output; each write lands at the end, even after a truncation.

    It can be read too. The folder is made if it is gone. Raises OSError.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with suppress(FileNotFoundError):
        return os.open(path, flags, PRIVATE_FILE)
    path.parent.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
    return os.open(path, flags, PRIVATE_FILE)


def open_to_read(path: Path) -> int | None:
    """A descriptor; None when there is no log of that name, or it can't be read."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None


def open_of_process(pid: int, path: Path, known: FileId | None) -> int | None:
    """The log that a running process writes to, whatever has become of its name; None when it can't be found.

    ``known``: which file the process was started with. Without that, its output counts as the log only where it lies
    in the folder of logs, or did until it was removed: a program may write to a file of somebody else's instead.
    """
    folder = os.path.realpath(path.parent)
    for number in (1, 2):
        output = f"/proc/{pid}/fd/{number}"
        try:
            found = os.stat(output)  # noqa: PTH116  # of what is open, not of a link
            mine = os.path.dirname(os.readlink(output).removesuffix(_DELETED)) == folder  # noqa: PTH115, PTH120
            if stat.S_ISREG(found.st_mode) and (mine if known is None else _id(found) == known):
                return os.open(output, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except OSError:
            continue
    return None


def file_id(descriptor: int) -> FileId:
    """Which file it is. Raises OSError."""
    return _id(os.fstat(descriptor))


def misplaced(descriptor: int, path: Path) -> str | None:
    """What has become of a log that ``path`` no longer leads to: ``removed`` or ``renamed to …``; None if it does."""
    with suppress(OSError):
        if _id(path.lstat()) == file_id(descriptor):
            return None
    name = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115  # no file's: the kernel's word for it
    return "removed" if name.endswith(_DELETED) else f"renamed to {name}"


def size(path: Path) -> int:
    """Bytes; 0 when there is no log yet."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def rotated(path: Path) -> Path:
    """Where the earlier part of a log is kept."""
    return path.with_name(path.name + ".1")


def rotate(descriptor: int, path: Path, cap: int = CAP) -> bool:
    """Move the last ``cap`` bytes of a log that has grown past it to `rotated`, and empty it.

    The engine's descriptor stays good: the file is truncated, not replaced. What it writes between copy and
    truncation is lost. A full disk, or a folder that is gone, costs the copy, not the truncation: that makes room.
    Returns whether it was done. Raises OSError.
    """
    end = os.fstat(descriptor).st_size
    if end <= cap:
        return False
    try:
        _copy_end(descriptor, end, rotated(path), cap)
    except OSError:
        with suppress(OSError):
            rotated(path).unlink(missing_ok=True)
    os.ftruncate(descriptor, 0)
    return True


def tail(descriptor: int, lines: int, since: int = 0) -> list[str]:
    """The last lines of what was written after ``since`` bytes, control characters made visible (rule S12)."""
    try:
        end = os.fstat(descriptor).st_size
        # A log that is shorter than it was has been rotated since.
        start = since if since <= end else 0
        begin = max(start, end - max(TAIL_BYTES, lines * _LINE_BYTES))
        content = os.pread(descriptor, end - begin, begin)
    except OSError:
        return []
    # Not splitlines(): it also splits where a progress bar goes back to the line's beginning.
    found = content.decode(errors="replace").split("\n")
    if begin > start and len(found) > 1:
        found = found[1:]  # its beginning is cut off
    return [_printable(line) for line in found if line.strip()][-lines:]


def _id(found: os.stat_result) -> FileId:
    return found.st_dev, found.st_ino


def _printable(line: str) -> str:
    # A carriage return means that a progress bar was drawn over: only what stood there last is of use.
    visible = line.rstrip("\r").rpartition("\r")[2][:_LONGEST_LINE]
    return "".join(char if char.isprintable() or char == "\t" else f"\\x{ord(char):02x}" for char in visible)


def _copy_end(descriptor: int, end: int, target: Path, count: int) -> None:
    fresh = target.with_name(target.name + ".part")
    copy = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, PRIVATE_FILE)
    with os.fdopen(copy, "wb") as file:
        file.writelines(_blocks(descriptor, max(0, end - count), end))
    fresh.replace(target)


def _blocks(descriptor: int, begin: int, end: int) -> Iterable[bytes]:
    while begin < end and (block := os.pread(descriptor, min(end - begin, _BLOCK), begin)):
        yield block
        begin += len(block)
