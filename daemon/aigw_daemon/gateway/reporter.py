"""What the worker tells the daemon: records in batches, what backends have to do, starts while somebody tails.

Nothing here is waited for by a request, and a request costs it a few additions: while anything goes on, a task looks
ten times a second at what has changed. Records above 1,000 a second are counted, not kept (the design's *Records*).
"""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Protocol

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


class Finished(Protocol):
    """A request that is over."""

    def record(self) -> RequestRecord:
        """What is kept of it; only called for those that are kept."""
        ...


class Reporter:
    """Counts on the hot path, sends from a task of its own. ``send`` never blocks."""

    def __init__(self, send: Callable[[Up], None], clock: Callable[[], float] = monotonic) -> None:
        self._send = send
        self._clock = clock
        self._records: list[RequestRecord] = []
        self._dropped = 0
        self._window_began = clock()
        self._kept_in_window = 0
        self._flows: dict[str, Flow] = {}
        self._told: tuple[dict[str, int], dict[str, int]] = ({}, {})
        self._stirred = asyncio.Event()
        self.asleep = True
        """Whether nothing goes on that the task knows of: then whoever begins or ends something must `stir` it."""
        self.tailing = False
        """Whether `Started` messages are wanted."""

    @property
    def in_flight(self) -> int:
        """Requests that some backend is answering."""
        return sum(flow.in_flight for flow in self._flows.values())

    def flow(self, backend: str) -> Flow:
        """The one account of this backend."""
        flow = self._flows.get(backend)
        if flow is None:
            flow = self._flows[backend] = Flow(backend)
        return flow

    def stir(self) -> None:
        """Something has changed while the reporter was asleep."""
        self.asleep = False
        self._stirred.set()

    def finish(self, call: Finished) -> None:
        """A request is over."""
        now = self._clock()
        if now - self._window_began >= 1.0:
            self._window_began = now
            self._kept_in_window = 0
        if self._kept_in_window >= RECORDS_PER_SECOND:
            self._dropped += 1
        else:
            self._kept_in_window += 1
            self._records.append(call.record())
        if self.asleep:
            self.stir()

    def started(self, message: Started) -> None:
        """A request began; call only while `tailing`."""
        self._send(message)

    async def run(self) -> None:
        """Send what there is, until cancelled; sleeps while there is nothing."""
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            await self._report_until_idle()

    async def _report_until_idle(self) -> None:
        batch_at = progress_at = 0.0
        while not self.asleep:
            await asyncio.sleep(LOAD_SECONDS)
            now = self._clock()
            load, relayed = self._load()
            if load != self._told[0] or (now >= progress_at and (relayed != self._told[1] or any(load.values()))):
                self._flush_load()
                progress_at = now + PROGRESS_SECONDS - LOAD_SECONDS
            if now >= batch_at and (self._records or self._dropped):
                self._flush_records()
                batch_at = now + BATCH_SECONDS - LOAD_SECONDS
            self.asleep = self._load() == self._told and not (self.in_flight or self._records or self._dropped)

    def flush(self) -> None:
        """Send everything now: the worker is about to end."""
        if self._load() != self._told:
            self._flush_load()
        self._flush_records()

    def _load(self) -> tuple[dict[str, int], dict[str, int]]:
        flows = self._flows.values()
        return {flow.backend: flow.in_flight for flow in flows}, {flow.backend: flow.relayed for flow in flows}

    def _flush_load(self) -> None:
        for flow in self._flows.values():
            flow.relayed += flow.held
        self._told = self._load()
        self._send(Load(*self._told))

    def _flush_records(self) -> None:
        if self._records or self._dropped:
            records, self._records = tuple(self._records), []
            dropped, self._dropped = self._dropped, 0
            self._send(Records(records, dropped))
