"""What the worker tells the daemon: records in batches, counts in flight, starts while somebody tails.

Nothing here is waited for by a request. Records above 1,000 a second are counted, not kept (the design's *Records*).
"""

import asyncio
from collections.abc import Callable
from time import monotonic

from aigw_daemon.link.messages import Load, Records, RequestRecord, Started, Up

BATCH_SECONDS = 0.2
LOAD_SECONDS = 0.1
RECORDS_PER_SECOND = 1_000


class Reporter:
    """Collects on the hot path, sends from a task of its own. ``send`` never blocks."""

    def __init__(self, send: Callable[[Up], None], clock: Callable[[], float] = monotonic) -> None:
        self._send = send
        self._clock = clock
        self._records: list[RequestRecord] = []
        self._dropped = 0
        self._window_began = clock()
        self._kept_in_window = 0
        self._in_flight: dict[str, int] = {}
        self._load_changed = False
        self._wake = asyncio.Event()
        self._ringing = False
        self.tailing = False
        """Whether `Started` messages are wanted."""

    @property
    def in_flight(self) -> int:
        """Requests that some backend is answering."""
        return sum(self._in_flight.values())

    def enter(self, backend: str) -> None:
        """A request went to this backend."""
        self._in_flight[backend] = self._in_flight.get(backend, 0) + 1
        self._load_changed = True
        self._ring()

    def leave(self, backend: str) -> None:
        """It is over, in whatever way."""
        self._in_flight[backend] -= 1
        self._load_changed = True
        self._ring()

    def record(self, record: RequestRecord) -> None:
        """A request is finished."""
        now = self._clock()
        if now - self._window_began >= 1.0:
            self._window_began = now
            self._kept_in_window = 0
        if self._kept_in_window >= RECORDS_PER_SECOND:
            self._dropped += 1
        else:
            self._kept_in_window += 1
            self._records.append(record)
        self._ring()

    def started(self, message: Started) -> None:
        """A request began; call only while `tailing`."""
        self._send(message)

    async def run(self) -> None:
        """Send what there is, until cancelled; sleeps while there is nothing."""
        batch_at = 0.0
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._ringing = False
            await asyncio.sleep(LOAD_SECONDS)
            self._flush_load()
            if self._clock() >= batch_at:
                self._flush_records()
                batch_at = self._clock() + BATCH_SECONDS - LOAD_SECONDS
            elif self._records or self._dropped:
                self._ring()

    def flush(self) -> None:
        """Send everything now: the worker is about to end."""
        self._flush_load()
        self._flush_records()

    def _ring(self) -> None:
        # Nearly always it rings already, and asking a bool costs less than telling an event.
        if not self._ringing:
            self._ringing = True
            self._wake.set()

    def _flush_load(self) -> None:
        if self._load_changed:
            self._load_changed = False
            self._send(Load(dict(self._in_flight)))

    def _flush_records(self) -> None:
        if self._records or self._dropped:
            records, self._records = tuple(self._records), []
            dropped, self._dropped = self._dropped, 0
            self._send(Records(records, dropped))
