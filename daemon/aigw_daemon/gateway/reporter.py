"""What the worker tells the daemon: records in batches, what backends have to do, starts while somebody tails.

No request waits for it, and reporting costs a request a few additions: while anything is in flight, a task looks at
the lanes ten times a second. The lanes themselves wake it (`activity.py`). Records above 1,000 a second are counted,
not kept (the design's *Records*).
"""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from aigw_daemon.gateway.standing import Standings
from aigw_daemon.link.messages import Load, Records, RequestRecord, Started, Up

BATCH_SECONDS = 0.2
LOAD_SECONDS = 0.1
PROGRESS_SECONDS = 1.0
"""How often it is said what is in flight while that doesn't change: silence would look like a worker that is stuck."""
RECORDS_PER_SECOND = 1_000


class Finished(Protocol):
    """A request that is over."""

    def record(self) -> RequestRecord:
        """What is kept of it; only called for those that are kept."""
        ...


class Reporter:
    """Counts on the hot path, sends from a task of its own. ``send`` never blocks."""

    def __init__(
        self, standings: Standings, send: Callable[[Up], None], clock: Callable[[], float] = monotonic
    ) -> None:
        self._standings = standings
        self._send = send
        self._clock = clock
        self._records: list[RequestRecord] = []
        self._dropped = 0
        self._room = RECORDS_PER_SECOND
        """For records, until the second is over: the task looks at the clock, not each request."""
        self._second_began = clock()
        self._told = Load({})
        self._activity = standings.activity
        self.tailing = False
        """Whether `Started` messages are wanted."""

    def tell_again(self) -> None:
        """Report everything anew: what was sent before went to another daemon, which may not have read it."""
        self._told = Load({})
        self._activity.wake()

    def finish(self, call: Finished) -> None:
        """A request is over."""
        if self._room:
            self._room -= 1
            self._records.append(call.record())
        else:
            self._dropped += 1
        if self._activity.asleep:
            self._activity.wake()

    def started(self, message: Started) -> None:
        """A request began; call only while `tailing`."""
        self._send(message)

    async def run(self) -> None:
        """Send what there is, until cancelled; sleeps while there is nothing."""
        while True:
            await self._activity.wait()
            await self._report_until_idle()

    async def _report_until_idle(self) -> None:
        batch_at = progress_at = 0.0
        while not self._activity.asleep:
            await asyncio.sleep(LOAD_SECONDS)
            now = self._clock()
            if now - self._second_began >= 1.0:
                self._second_began = now
                self._room = RECORDS_PER_SECOND
            load = self._load()
            if _places(load) != _places(self._told) or (now >= progress_at and self._goes_on(load)):
                self._tell(load)
                progress_at = now + PROGRESS_SECONDS - LOAD_SECONDS
            if now >= batch_at and (self._records or self._dropped):
                self._flush_records()
                batch_at = now + BATCH_SECONDS - LOAD_SECONDS
            rested = self._room == RECORDS_PER_SECOND
            self._activity.asleep = rested and not (self._goes_on(self._load()) or self._records or self._dropped)

    def flush(self) -> None:
        """Send everything now: the worker is about to end."""
        if (load := self._load()) != self._told:
            self._tell(load)
        self._flush_records()

    def _goes_on(self, load: Load) -> bool:
        # While a circuit is open its time runs, and nobody may ask meanwhile: the daemon must hear of its end as well.
        busy = any(load.in_flight.values()) or any(load.waiting.values())
        return busy or bool(load.broken) or load != self._told

    def _load(self) -> Load:
        lanes = tuple(self._standings)
        return Load(
            {lane.backend: lane.in_flight for lane in lanes},
            {lane.backend: lane.relayed for lane in lanes},
            {lane.backend: lane.waiting for lane in lanes if lane.waiting},
            self._standings.broken(),
            self._standings.refused(),
        )

    def _tell(self, load: Load) -> None:
        self._send(load)
        for lane in self._standings:
            # Told as progress in a second's time: it is a client that holds these up, not the backend.
            lane.relayed += lane.held
        self._told = load

    def _flush_records(self) -> None:
        if self._records or self._dropped:
            records, self._records = tuple(self._records), []
            dropped, self._dropped = self._dropped, 0
            self._send(Records(records, dropped))


def _places(load: Load) -> tuple[dict[str, int], dict[str, int], frozenset[str]]:
    """What is told soon after it has changed; the rest can wait a second."""
    return load.in_flight, load.waiting, frozenset(load.broken)
