"""Answers kept in this process: bounded by bytes, the longest unused leave first, each for its time."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Final

from aigw_daemon.gateway.cache.entry import Entry
from aigw_daemon.gateway.wire import header

DEFAULT_BYTES: Final = 128 * 1024 * 1024
_OVERHEAD: Final = 1024
"""What an entry takes beside its body, about."""
_LARGEST_PART: Final = 8
"""No answer takes more than this part of all the room."""


HINT: Final = b"a kept answer; send x-aigw-cache: bypass for a new one"
"""Whoever takes a kept answer for a fault reads the way out where it came."""


class Kept:
    """An answer in this process, in the forms in which it was wanted so far."""

    __slots__ = ("entry", "expires", "forms", "lines", "size")

    def __init__(self, entry: Entry, expires: float) -> None:
        self.entry = entry
        """As it came."""
        self.expires = expires
        self.forms: dict[bool, Entry] = {entry.stream: entry}
        """By whether it is a stream."""
        origin = entry.origin
        self.lines = b"%b%bx-aigw-cache: hit\r\nx-aigw-cache-hint: %b\r\nx-aigw-cache-key: %b\r\n" % (
            header("x-aigw-backend", origin.backend),
            header("x-aigw-model", origin.model),
            HINT,
            origin.key.hex().encode(),
        )
        """The header lines that are the same for every hit."""
        self.size = len(entry.body) + _OVERHEAD


class MemoryTier:
    """Looks are synchronous and take about a microsecond. The clock is monotonic, in seconds."""

    def __init__(self, limit: int = DEFAULT_BYTES, clock: Callable[[], float] = monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Kept]:
        """Everything that is kept, the longest unused first."""
        return iter(list(self._kept.values()))

    def purge(self) -> None:
        """Forget what is past its time; else that happens when somebody asks for it."""
        now = self._clock()
        for key in [key for key, kept in self._kept.items() if kept.expires <= now]:
            self.drop(key)

    def get(self, key: bytes) -> Kept | None:
        """What is kept under the key, if its time isn't over."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.expires <= self._clock():
            self.drop(key)
            return None
        self._kept.move_to_end(key)
        return kept

    def put(self, entry: Entry, ttl: float) -> Kept:
        """Keep an answer for ``ttl`` seconds in place of what was kept under its key. One too large is not kept."""
        key = entry.origin.key
        self.drop(key)
        kept = Kept(entry, self._clock() + ttl)
        if kept.size <= self._limit // _LARGEST_PART and ttl > 0:
            self._kept[key] = kept
            self._take(kept.size)
        return kept

    def add_form(self, kept: Kept, entry: Entry) -> None:
        """Keep the answer in its other form, too."""
        if entry.stream not in kept.forms:
            kept.forms[entry.stream] = entry
            kept.size += len(entry.body)
            if self._kept.get(entry.origin.key) is kept:
                self._take(len(entry.body))

    def drop(self, key: bytes) -> bool:
        """Forget an answer; whether there was one."""
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.bytes -= kept.size
        return kept is not None

    def _take(self, size: int) -> None:
        self.bytes += size
        while self.bytes > self._limit:
            self.drop(next(iter(self._kept)))
