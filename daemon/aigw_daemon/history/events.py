"""What happened to backends, kept in a file that survives a SIGKILL and a full disk, and for whoever watches.

One line of JSON per event, appended by a thread of its own, so that no disk holds up the event loop. The file is
bounded: grown past its cap it is moved aside, in place of the one before. A line that a crash or a full disk has torn
is skipped; what could not be written is still told by the daemon that saw it.
"""

import asyncio
import logging
import os
import queue
import threading
from collections import deque
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

import msgspec

from aigw_daemon.history.starts import StartTimes
from aigw_daemon.home import PRIVATE_FILE

CAP: Final = 1024 * 1024
"""Bytes of the file; with the one before it takes twice as much."""
KEPT: Final = 2_000
"""How many events are told."""

log = logging.getLogger(__name__)


class BackendEvent(msgspec.Struct, frozen=True):
    """One event. ``at`` in seconds since the epoch."""

    at: float
    backend: str
    event: str
    text: str | None = None
    """A sentence, where there is more to say."""


class EventLog:
    """The events of one home. Used by the event loop alone; the thread only writes."""

    def __init__(self, path: Path, *, cap: int = CAP) -> None:
        self._path = path
        self._cap = cap
        self._kept: deque[BackendEvent] = deque(kept_events(path), maxlen=KEPT)
        self.starts = StartTimes(self._kept)
        """How long starts took, as far back as events are kept."""
        self._watchers: set[asyncio.Queue[BackendEvent]] = set()
        self._ahead: queue.SimpleQueue[BackendEvent | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def add(self, event: BackendEvent) -> None:
        """Keep one; never waits."""
        self._kept.append(event)
        self.starts.take(event)
        for watcher in self._watchers:
            if watcher.full():
                watcher.get_nowait()
            watcher.put_nowait(event)
        self._ahead.put(event)
        if self._thread is None:
            # A daemon thread: a process that has to end at once must not wait for a disk.
            self._thread = threading.Thread(target=self._keep_writing, name="events", daemon=True)
            self._thread.start()

    def names(self) -> set[str]:
        """The backends of which events are kept."""
        return {event.backend for event in self._kept}

    async def told(self, backend: str | None, count: int, *, follow: bool) -> AsyncGenerator[BackendEvent, None]:
        """The last ``count`` events, of one backend or of all, then with ``follow`` whatever happens."""
        watcher: asyncio.Queue[BackendEvent] = asyncio.Queue(KEPT)
        last = [event for event in self._kept if backend in {None, event.backend}]
        self._watchers.add(watcher)
        try:
            for event in last[-count:] if count else []:
                yield event
            while follow:
                event = await watcher.get()
                if backend in {None, event.backend}:
                    yield event
        finally:
            self._watchers.discard(watcher)

    async def close(self) -> None:
        """Write what is left, and end the thread."""
        if self._thread is not None:
            self._ahead.put(None)
            await asyncio.to_thread(self._thread.join)

    def _keep_writing(self) -> None:
        complained = ""
        while (event := self._ahead.get()) is not None:
            try:
                self._write(event)
                complained = ""
            except OSError as error:
                # Said once per cause: a full disk stays full for a while, and the log may be on it.
                if complained != str(error):
                    log.warning("cannot write %s: %s; events are lost when the daemon ends", self._path, error)
                    complained = str(error)

    def _write(self, event: BackendEvent) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
        try:
            size = os.fstat(descriptor).st_size
            # A line that was torn ends here, so that it doesn't take this one with it.
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, (b"\n" if torn else b"") + msgspec.json.encode(event) + b"\n")
        finally:
            os.close(descriptor)
        if size > self._cap:
            self._path.replace(_before(self._path))


def kept_events(path: Path) -> list[BackendEvent]:
    """The events in a file and in the one before it, oldest first."""
    return [*_read(_before(path)), *_read(path)][-KEPT:]


def _before(path: Path) -> Path:
    return path.with_name(path.name + ".1")


def _read(path: Path) -> list[BackendEvent]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            found.append(msgspec.json.decode(line, type=BackendEvent))
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue  # torn, or of a later aigw
    return found
