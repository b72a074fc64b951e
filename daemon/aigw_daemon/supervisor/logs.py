"""Engines' logs: files that they append to themselves, cut back when they grow, read at their end (rule A19).

There is no pipe: a reader that dies or lags would stall the engine or kill it. The price is that the cap holds by
interval: a log has at most the cap plus what is written between two checks.
"""

import os
from pathlib import Path
from typing import Final

from aigw_daemon.home import PRIVATE_FILE

CAP: Final = 16 * 1024 * 1024
"""Bytes after which a log is rotated: with the rotated one it takes at most twice as much."""
TAIL_BYTES: Final = 64 * 1024
"""How much of a log's end is looked at to find its last lines."""
_LONGEST_LINE: Final = 2000
_BLOCK: Final = 1024 * 1024


def open_append(path: Path) -> int:
    """A descriptor for an engine's output; each write lands at the end, even after a truncation. Raises OSError."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE_FILE)


def size(path: Path) -> int:
    """Bytes; 0 when there is no log yet."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def rotated(path: Path) -> Path:
    """Where the earlier part of a log is kept."""
    return path.with_name(path.name + ".1")


def rotate(path: Path, cap: int = CAP) -> bool:
    """Move the last ``cap`` bytes of a log that has grown past it to `rotated`, and empty it.

    The engine's descriptor stays good: the file is truncated, not replaced. What it writes between copy and
    truncation is lost. A full disk costs the copy, not the truncation: that makes room. Returns whether it was done.
    """
    if size(path) <= cap:
        return False
    try:
        _copy_end(path, rotated(path), cap)
    except OSError:
        rotated(path).unlink(missing_ok=True)
    os.truncate(path, 0)
    return True


def tail(path: Path, lines: int, since: int = 0) -> list[str]:
    """The last lines of what was written after ``since`` bytes, control characters made visible (rule S12)."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            # A log that is shorter than it was has been rotated since.
            start = since if since <= end else 0
            begin = max(start, end - TAIL_BYTES)
            file.seek(begin)
            content = file.read(end - begin)
    except OSError:
        return []
    # Not splitlines(): it also splits where a progress bar goes back to the line's beginning.
    found = content.decode(errors="replace").split("\n")
    if begin > start and len(found) > 1:
        found = found[1:]  # its beginning is cut off
    return [_printable(line) for line in found if line.strip()][-lines:]


def _printable(line: str) -> str:
    # A carriage return means that a progress bar was drawn over: only what stood there last is of use.
    visible = line.rstrip("\r").rpartition("\r")[2][:_LONGEST_LINE]
    return "".join(char if char.isprintable() or char == "\t" else f"\\x{ord(char):02x}" for char in visible)


def _copy_end(path: Path, target: Path, count: int) -> None:
    fresh = target.with_name(target.name + ".part")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, PRIVATE_FILE)
    with path.open("rb") as source, os.fdopen(descriptor, "wb") as copy:
        source.seek(max(0, os.fstat(source.fileno()).st_size - count))
        left = count
        while left > 0 and (block := source.read(min(left, _BLOCK))):
            copy.write(block)
            left -= len(block)
    fresh.replace(target)
