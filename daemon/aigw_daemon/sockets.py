"""Unix sockets of the daemon, and the look whether their files are still there.

A runtime folder is swept at a logout or by a cleaner of temporary folders. The socket then listens on and can't be
reached by anybody: it has to be made anew.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from aigw_daemon.home import PRIVATE_FILE, HomeError, private_folder

LOOK_SECONDS: Final = 1.0
"""Between two looks at a socket's file."""

log = logging.getLogger(__name__)


def bind(path: Path) -> socket.socket:
    """A listening socket at ``path``, 0600 in a folder of its own; whatever was there is replaced.

    The caller holds the lock of the home, so a socket left behind is stale. Raises HomeError and OSError.
    """
    private_folder(path.parent)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.bind(str(path))
        path.chmod(PRIVATE_FILE)
        listener.listen()
    except BaseException:
        listener.close()
        raise
    return listener


async def bound(path: Path) -> AsyncIterator[socket.socket]:
    """A listening socket at ``path``, and another one whenever the file there is no longer the last one's.

    The caller closes them. Raises HomeError and OSError for the first one; later ones are tried again every second.
    """
    listener = bind(path)
    while True:
        mark = _mark(path)
        yield listener
        await _until_changed(path, mark)
        log.warning("%s has vanished or was replaced: it is made anew", path)
        listener = await _bind_again(path)


async def _until_changed(path: Path, mark: tuple[int, int, int] | None) -> None:
    while mark is not None and _mark(path) == mark:  # noqa: ASYNC110  # nobody tells when a file is removed
        await asyncio.sleep(LOOK_SECONDS)


async def _bind_again(path: Path) -> socket.socket:
    told: str | None = None
    while True:
        try:
            return bind(path)
        except (HomeError, OSError) as error:
            trouble = str(error)
        if trouble != told:
            log.error("cannot listen on %s: %s; trying again every second", path, trouble)
            told = trouble
        await asyncio.sleep(LOOK_SECONDS)


def _mark(path: Path) -> tuple[int, int, int] | None:
    """What tells this file from one that took its place; an inode's number is used again."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns
