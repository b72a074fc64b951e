"""The models folder: a file appears in it whole and verified, or not at all.

A download goes into ``NAME.part`` beside its place, is flushed to the disk, compared with its checksum, and only then
renamed. What was verified is noted beside the file, so that asking again doesn't read 90 MB again.
"""

import asyncio
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn, Self, cast

from aigw_daemon.home import PRIVATE_FILE, PRIVATE_FOLDER
from aigw_daemon.models.request import PullError

MARGIN = 64 * 1024 * 1024
"""Bytes that a pull leaves free on the disk: logs and the state file need room too."""
BLOCK = 1024 * 1024
"""Bytes per step of reading, hashing and writing: a cancel waits for one at most."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class Verified:
    """What is known of a file that was verified: the same size and time mean the same checksum."""

    size: int
    mtime_ns: int
    sha256: str
    source: str


def _open(path: Path, mode: str) -> BinaryIO:
    # Unbuffered: a full disk shows at the write that fills it, not at a later close.
    return cast("BinaryIO", open(path, mode, buffering=0, opener=_private))  # Path.open has no opener


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, PRIVATE_FILE)


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


@dataclass(frozen=True, slots=True)
class Disk:
    """The edges of the store: a test gives others, to show faults that a healthy disk doesn't have."""

    open: Callable[[Path, str], BinaryIO] = _open
    free: Callable[[Path], int] = _free


def place(models: Path, path: str) -> Path:
    """The absolute place of a model, its folder made. Raises PullError when it would lie outside (rule S9)."""
    target = models / path
    try:
        target.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        inside = target.parent.resolve().is_relative_to(models.resolve())
    except OSError as error:
        raise PullError("unreadable", f"cannot use the folder {target.parent}: {error.strerror}") from error
    if not inside:
        raise PullError("invalid", f"{target.parent} leads out of the models folder {models}: remove that link")
    return target


def remove_empty(models: Path, target: Path) -> None:
    """Remove the folders of a file that did not come to be, as far as nothing is in them."""
    for folder in target.parents:
        if folder == models or not folder.is_relative_to(models):
            return
        try:
            folder.rmdir()
        except OSError:
            return  # somebody else's file, or a part that a later pull goes on with


def require_space(folder: Path, needed: int, disk: Disk) -> None:
    """Raise PullError when the disk can't take this many bytes and the margin."""
    free = disk.free(folder)
    missing = needed + MARGIN - free
    if missing > 0:
        raise PullError(
            "no_space",
            f"not enough disk space in {folder}: {megabytes(needed)} needed and {megabytes(MARGIN)} to spare, "
            f"{megabytes(free)} free; free {megabytes(missing)} more, or set AIGW_HOME to another disk",
        )


def recorded(target: Path) -> Verified | None:
    """What was noted when the file was verified; None when there is no file, no note, or the file has changed."""
    try:
        found = target.stat()
        verified = Verified(**json.loads(_note(target).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    return verified if (found.st_size, found.st_mtime_ns) == (verified.size, verified.mtime_ns) else None


def record(target: Path, sha256: str, source: str) -> None:
    """Note that a file is what it should be. Losing the note costs only another reading."""
    found = target.stat()
    note = _note(target)
    fresh = note.with_name(note.name + ".new")
    fresh.write_text(json.dumps(asdict(Verified(found.st_size, found.st_mtime_ns, sha256, source))))
    fresh.replace(note)


async def has_digest(target: Path, sha256: str) -> bool:
    """Whether a file has this checksum; a cancel is heard between blocks."""
    digest = hashlib.sha256()
    with target.open("rb") as file:
        while block := await asyncio.to_thread(file.read, BLOCK):
            await asyncio.to_thread(digest.update, block)
    return digest.hexdigest() == sha256


class Part:
    """The file that a pull writes to, until it is verified and takes its place."""

    def __init__(self, target: Path, limit: int | None, disk: Disk) -> None:
        self.target = target
        self.path = target.with_name(target.name + ".part")
        self.size = 0
        self.resumable = False
        """Whether what has arrived is of use to another pull; said by the source."""
        self._limit = limit
        self._disk = disk
        self._digest = hashlib.sha256()
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    async def begin(self) -> None:
        """Start with an empty file."""
        self._close()
        self.size, self._digest = 0, hashlib.sha256()
        with self._translated():
            self._file = self._disk.open(self.path, "wb")

    async def resume(self) -> int:
        """Go on with what an earlier pull left. Returns how many bytes that is."""
        await self.begin() if not self.path.is_file() else await self._read_back()
        return self.size

    def expect(self, total: int | None) -> None:
        """Take the size that the source announces as the limit, if it keeps to the declared one. Raises PullError."""
        if total is not None and self._limit is not None and total > self._limit:
            self._refuse_size(total)
        self._limit = self._limit if total is None else total

    async def append(self, block: bytes) -> None:
        """Write a block. Raises PullError when the disk is full, or the file grows past its declared size."""
        if self._file is None:
            raise RuntimeError("append comes after begin or resume")
        if self._limit is not None and self.size + len(block) > self._limit:
            self._refuse_size(self.size + len(block))
        with self._translated():
            await asyncio.to_thread(_write_all, self._file, block)
        await asyncio.to_thread(self._digest.update, block)
        self.size += len(block)

    async def commit(self, sha256: str | None, source: str) -> str:
        """Verify, flush and rename. Returns the checksum.

        Raises PullError, and removes the file, when its checksum or size is another.
        """
        if self._file is None:
            raise RuntimeError("commit comes after begin or resume")
        found = self._digest.hexdigest()
        if sha256 not in {None, found}:
            self.discard()
            raise PullError(
                "checksum",
                f"{self.target.name} has the wrong checksum: expected {sha256}, got {found}; "
                "the file is removed. Pull again, and if it stays so, check the source and its sha256",
            )
        with self._translated():
            self._file.flush()
            await asyncio.to_thread(os.fsync, self._file.fileno())
            self._close()
            self.path.replace(self.target)
            _sync_folder(self.target.parent)
            record(self.target, found, source)
        return found

    def discard(self) -> None:
        """Remove what was written."""
        self._close()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _refuse_size(self, size: int) -> NoReturn:
        self.discard()
        raise PullError(
            "too_large",
            f"the source of {self.target.name} has {size} bytes or more, but {self._limit} were declared: "
            "check size and source; what was downloaded is removed",
        )

    async def _read_back(self) -> None:
        self._close()
        self.size, self._digest = 0, hashlib.sha256()
        with self._translated():
            self._file = self._disk.open(self.path, "r+b")
            while block := await asyncio.to_thread(self._file.read, BLOCK):
                await asyncio.to_thread(self._digest.update, block)
                self.size += len(block)

    def _close(self) -> None:
        if self._file is not None:
            # What can't be flushed any more is what append has already failed on.
            with suppress(OSError):
                self._file.close()
            self._file = None

    def _translated(self) -> "_Translated":
        return _Translated(self)


class _Translated:
    """Turns the disk's errors into PullError; a full disk gets back what this pull took."""

    def __init__(self, part: Part) -> None:
        self._part = part

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError):
            return
        self._part.discard()
        folder = self._part.target.parent
        if error.errno in _FULL:
            raise PullError(
                "no_space",
                f"the disk of {folder} is full after {megabytes(self._part.size)}; what was downloaded is removed. "
                "Free some space and pull again, or set AIGW_HOME to another disk",
            ) from error
        raise PullError("unreadable", f"cannot write {self._part.path}: {error.strerror}") from error


def _write_all(file: BinaryIO, block: bytes) -> None:
    view = memoryview(block)
    while view:
        # The kernel may take less than it is given, at the edge of a full disk above all.
        view = view[file.write(view) :]


def megabytes(size: int) -> str:
    """A size for people."""
    return f"{size / 1_000_000:.1f} MB"


def _note(target: Path) -> Path:
    return target.with_name(f".{target.name}.verified.json")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
