"""What the worker tells the daemon: records in batches, what backends have to do, starts while somebody tails.

Nothing here is waited for by a request. Records above 1,000 a second are counted, not kept (the design's *Records*).
"""

import asyncio
from collections.abc import Callable
from time import monotonic

from aigw_daemon.link.messages import Load, Records, RequestRecord, Started, Up

BATCH_SECONDS = 0.2
LOAD_SECONDS = 0.1
PROGRESS_SECONDS = 1.0
"""How often it is said what is in flight while that doesn't change: silence would look like a worker that is stuck."""
RECORDS_PER_SECOND = 1_000


class Flow:
    """What one backend has to do now. All its requests share it, so that counting a piece is one addition."""

    __slots__ = ("backend", "held", "in_flight", "relayed")

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.in_flight = 0
        self.relayed = 0
        """Pieces of answers, since the worker began."""
        self.held = 0
        """Requests whose client doesn't take what is there: then it is not the backend that holds them up."""


class Reporter:
    """Collects on the hot path, sends from a task of its own. ``send`` never blocks."""

    def __init__(self, send: Callable[[Up], None], clock: Callable[[], float] = monotonic) -> None:
        self._send = send
        self._clock = clock
        self._records: list[RequestRecord] = []
        self._dropped = 0
        self._window_began = clock()
        self._kept_in_window = 0
        self._flows: dict[str, Flow] = {}
        self._load_changed = False
        self._wake = asyncio.Event()
        self._ringing = False
        self.tailing = False
        """Whether `Started` messages are wanted."""

    @property
    def in_flight(self) -> int:
        """Requests that some backend is answering."""
        return sum(flow.in_flight for flow in self._flows.values())

    def enter(self, backend: str) -> Flow:
        """A request went to this backend."""
        flow = self._flows.get(backend)
        if flow is None:
            flow = self._flows[backend] = Flow(backend)
        flow.in_flight += 1
        self._load_changed = True
        self._ring()
        return flow

    def leave(self, flow: Flow) -> None:
        """It is over, in whatever way."""
        flow.in_flight -= 1
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
            await self._until_there_is_news()
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

    async def _until_there_is_news(self) -> None:
        if not self.in_flight:
            await self._wake.wait()
            return
        try:
            async with asyncio.timeout(PROGRESS_SECONDS - LOAD_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            self._load_changed = True

    def _flush_load(self) -> None:
        if self._load_changed:
            self._load_changed = False
            flows = self._flows.values()
            for flow in flows:
                flow.relayed += flow.held
            self._send(
                Load({flow.backend: flow.in_flight for flow in flows}, {flow.backend: flow.relayed for flow in flows})
            )

    def _flush_records(self) -> None:
        if self._records or self._dropped:
            records, self._records = tuple(self._records), []
            dropped, self._dropped = self._dropped, 0
            self._send(Records(records, dropped))
