"""Reading a log from its end while it grows; never on the writer's path (rule A19)."""

import asyncio
import codecs
import os
import threading
from collections.abc import AsyncGenerator, Callable

FOLLOW_SECONDS = 0.2
BLOCK = 64 * 1024

Opened = Callable[[], int | None]
"""Gives a descriptor of the log as it is now, which the caller closes; None while there is none."""


async def lines_of(opened: Opened, count: int, *, follow: bool) -> AsyncGenerator[str, None]:
    """The last ``count`` lines, then, with ``follow``, whatever is written, across truncation and rotation.

    A log is followed by its file, not by its name: one that was removed or renamed is read on until another is there.
    """
    # What is read may end in the middle of a character.
    decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
    reader = _Reader(opened)
    try:
        if text := decode(await asyncio.to_thread(reader.begin, count)):
            yield text
        while follow:
            data = await asyncio.to_thread(reader.more)
            if text := decode(data):
                yield text
            if len(data) < BLOCK:
                await asyncio.sleep(FOLLOW_SECONDS)
    finally:
        # In a thread too: whoever left may have left a read under way, and it may hang in a disk. Not awaited: whoever
        # was cancelled may not wait for anything any more.
        asyncio.get_running_loop().run_in_executor(None, reader.close)


class _Reader:
    """One reader of one log, and where it is in which file. Each call is made in some thread."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._turn = threading.Lock()
        self._descriptor: int | None = None
        self._position = 0
        self._closed = False

    def begin(self, count: int) -> bytes:
        """The last ``count`` lines."""
        with self._turn:
            self._descriptor = self._opened()
            if self._descriptor is None:
                return b""
            data, self._position = _tail(self._descriptor, count)
            return data

    def more(self) -> bytes:
        """What was written since, a block at most."""
        with self._turn:
            if self._closed:
                return b""
            return self._read() or (self._read() if self._moved_on() else b"")

    def close(self) -> None:
        """End it."""
        with self._turn:
            self._closed = True
            self._let_go()

    def _read(self) -> bytes:
        if self._descriptor is None:
            return b""
        # A log that got shorter was rotated: what it holds now is new.
        if os.fstat(self._descriptor).st_size < self._position:
            self._position = 0
        data = os.pread(self._descriptor, BLOCK, self._position)
        self._position += len(data)
        return data

    def _moved_on(self) -> bool:
        """Whether the log is another file by now; from here on that one is read."""
        current = self._opened()
        if current is None:
            return False
        if self._descriptor is not None and os.path.sameopenfile(current, self._descriptor):
            os.close(current)
            return False
        self._let_go()
        self._descriptor, self._position = current, 0
        return True

    def _let_go(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _tail(descriptor: int, count: int) -> tuple[bytes, int]:
    end = position = os.fstat(descriptor).st_size
    data = b""
    while position > 0 and data.count(b"\n") <= count:
        position = max(0, position - BLOCK)
        data = os.pread(descriptor, end - position, position)
    # A line ends at \n alone; behind the last one there may be a piece of the next.
    lines = data.split(b"\n")
    kept = lines[-(count if lines[-1] else count + 1) :] if count else []
    return b"\n".join(kept), end
