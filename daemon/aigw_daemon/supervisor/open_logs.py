"""The logs that processes of ours write to: held open, so that no removed or renamed name hides one (rule A19)."""

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aigw_daemon.supervisor import logs

LINGER_ROUNDS: Final = 30
"""Rounds of `OpenLogs.tend` for which a log stays open after its process has ended: its last words may be asked for."""

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Log:
    """One of them."""

    descriptor: int
    written: Callable[[], bool]
    """Whether its process still runs."""
    idle_rounds: int = 0
    moved: str | None = None
    """What has become of its name, as last seen."""


class OpenLogs:
    """By the path that each was opened under. Used by the event loop; `reader` by any thread."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._logs: dict[Path, _Log] = {}
        self._closing = threading.Lock()
        """Held while a descriptor is closed: its number may mean another file right after."""

    def hold(self, path: Path, descriptor: int, written: Callable[[], bool]) -> None:
        """Take over the descriptor of a log; an earlier one of that path is closed."""
        self._drop(path)
        self._logs[path] = _Log(descriptor, written)

    def reader(self, path: Path) -> int | None:
        """A descriptor of the caller's own for the log of that path; None when there is none."""
        with self._closing, suppress(OSError):
            if (held := self._logs.get(path)) is not None:
                return os.dup(held.descriptor)
        return logs.open_to_read(path)

    async def tail(self, path: Path, lines: int, since: int) -> list[str]:
        """The last lines of the log of that path, after ``since`` bytes."""
        return await asyncio.to_thread(self._tail, path, lines, since)

    def size(self, path: Path) -> int:
        """Bytes in the log of that path; 0 when there is none."""
        held = self._logs.get(path)
        return logs.size(path) if held is None else os.fstat(held.descriptor).st_size

    def moved(self, path: Path) -> str | None:
        """``removed`` or ``renamed to …`` if the name of a log went away while its process writes to it."""
        held = self._logs.get(path)
        return held.moved if held is not None and held.written() else None

    async def tend(self) -> None:
        """Keep each below the cap, notice lost names, close those whose processes have ended; one round."""
        for path, held in list(self._logs.items()):
            await self._look(path, held)
            held.idle_rounds = 0 if held.written() else held.idle_rounds + 1
            if held.idle_rounds > LINGER_ROUNDS and self._logs.get(path) is held:
                self._drop(path)

    def close(self) -> None:
        """Close all."""
        for path in list(self._logs):
            self._drop(path)

    async def _look(self, path: Path, held: _Log) -> None:
        # A descriptor of the thread's own: the log may be closed, and its number be given to another file, meanwhile.
        try:
            moved = await asyncio.to_thread(_inspect, os.dup(held.descriptor), path, self._cap)
        except OSError as error:
            log.warning("cannot rotate %s: %s", path, error)
            return
        if moved is not None and moved != held.moved:
            log.warning("the log %s was %s while it is written to: it is kept below its cap there", path, moved)
        held.moved = moved

    def _tail(self, path: Path, lines: int, since: int) -> list[str]:
        # Opened by whoever closes it: a call that is cancelled before its thread runs would leave it open.
        reader = self.reader(path)
        if reader is None:
            return []
        try:
            return logs.tail(reader, lines, since)
        finally:
            os.close(reader)

    def _drop(self, path: Path) -> None:
        with self._closing:
            if (held := self._logs.pop(path, None)) is not None:
                os.close(held.descriptor)


def _inspect(descriptor: int, path: Path, cap: int) -> str | None:
    try:
        logs.rotate(descriptor, path, cap)
        return logs.misplaced(descriptor, path)
    finally:
        os.close(descriptor)
