"""Who may ask a backend now, who waits, and who is told to come back: slots and a bounded line per backend (rule B11).

A slot that comes free goes straight to the first in the line: nobody else wakes up, and nobody who comes later gets it
first. Waiting ends in a slot, in `NotAdmitted`, in `LookAgain`, or with the waiter itself; each way gives back what was
taken (rule B12). Only a request that has to wait costs an await.
"""

import asyncio
import math
import sys
from bisect import bisect_left, insort
from collections.abc import Callable
from enum import Enum, auto
from time import monotonic
from typing import Final

from aigw_daemon.gateway.activity import Activity

LONGEST_RETRY_AFTER: Final = 60
"""Seconds. An estimate from how the last slots came free says nothing about later."""
PACE_WEIGHT: Final = 0.2
"""How much the latest slot counts in the moving average."""

RAMP_SECONDS: Final = 10.0
RAMP_FROM: Final = 0.25
RAMP_ABOVE: Final = 8


class NotAdmitted(Exception):
    """There was no slot. ``retry_after``: whole seconds, from how long slots have taken lately."""

    def __init__(self, detail: str, retry_after: int) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after


class QueueFull(NotAdmitted):
    """As many wait as may: answered at once, 429 when no other candidate has room."""


class QueueTimeout(NotAdmitted):
    """No slot came free in time: 503 when no other candidate has room."""


class LookAgain(Exception):
    """What the wait was for may have changed: route the request anew.

    ``place`` keeps its rank in the line of this lane when it waits here again.
    """

    def __init__(self, place: int) -> None:
        super().__init__("what was waited for has changed")
        self.place = place


class _Told(Enum):
    ADMITTED = auto()
    TOO_LATE = auto()
    LOOK_AGAIN = auto()


_Waiter = tuple[int, int, asyncio.Future[_Told]]
"""Priority negated, place, and what it waits for: the line is sorted by the first two."""


def _rank(waiter: _Waiter) -> tuple[int, int]:
    return waiter[:2]


def _cap(limit: int | None) -> int:
    return sys.maxsize if limit is None else limit


class Lane:
    """What one backend has to do now, and who waits for it. All its requests share it.

    Not for threads: everything happens on the event loop. Whoever entered leaves exactly once. The lane itself wakes
    the reporter through ``activity``, whichever way a request comes in.
    """

    __slots__ = (
        "_activity",
        "_cap",
        "_clock",
        "_full_since",
        "_limit",
        "_line",
        "_next_front",
        "_next_place",
        "_pace",
        "backend",
        "held",
        "in_flight",
        "max_queue",
        "relayed",
    )

    def __init__(
        self,
        backend: str,
        limit: int | None = None,
        max_queue: int = 0,
        clock: Callable[[], float] = monotonic,
        activity: Activity | None = None,
    ) -> None:
        self.backend = backend
        self._activity = activity or Activity()
        self.in_flight = 0
        self.relayed = 0
        """Pieces of answers, since the worker began."""
        self.held = 0
        """Requests whose client doesn't take what is there: then it is not the backend that holds them up."""
        self.max_queue = max_queue
        """How many may wait. Shrinking it sends nobody away."""
        self._clock = clock
        self._line: list[_Waiter] = []
        self._next_place = 0
        self._next_front = -sys.maxsize
        self._pace = 0.0
        """Seconds between two slots that came free while all were taken: a moving average."""
        self._limit = limit
        self._cap = _cap(limit)
        self._full_since = clock()

    @property
    def limit(self) -> int | None:
        """How many requests it gets at once; None for any number. Growing it lets waiters in at once."""
        return self._limit

    @limit.setter
    def limit(self, limit: int | None) -> None:
        if limit == self._limit:
            return
        self._limit = limit
        self._cap = _cap(limit)
        self._full_since = self._clock()
        self._let_in()

    @property
    def waiting(self) -> int:
        """How many stand in the line."""
        return len(self._line)

    def try_enter(self) -> bool:
        """Take a slot if one is free. Somebody who waits would have it already, so this never overtakes."""
        taken = self.in_flight
        if taken >= self._cap:
            return False
        self.in_flight = taken = taken + 1
        if self._activity.asleep:
            self._activity.wake()
        if taken == self._cap:
            self._full_since = self._clock()
        return True

    async def enter(self, priority: int, timeout: float, place: int | None = None) -> None:
        """Take a slot, waiting up to ``timeout`` seconds: higher ``priority`` first, within one in order of arrival.

        ``place`` comes from `LookAgain` or `front_place`; with it the line is never full. A full line refuses whatever
        the priority.
        Raises QueueFull at once, QueueTimeout, and LookAgain. When it raises, nothing is taken.
        """
        if self.try_enter():
            return
        if place is None:
            place = self._new_place()
        loop = asyncio.get_running_loop()
        waiter: _Waiter = (-priority, place, loop.create_future())
        insort(self._line, waiter, key=_rank)
        if self._activity.asleep:
            # With a limit of 0 somebody can wait though nobody is inside.
            self._activity.wake()
        timer = loop.call_later(timeout, self._expire, waiter)
        try:
            told = await waiter[2]
        except BaseException:
            self._give_up(waiter)
            raise
        finally:
            timer.cancel()
        if told is _Told.TOO_LATE:
            raise QueueTimeout(f"no slot came free within {timeout:g} s: {self._busy()}", self._retry_after())
        if told is _Told.LOOK_AGAIN:
            raise LookAgain(place)

    def front_place(self) -> int:
        """A place before everybody who has only waited: for a request that lost its slot with the backend's process."""
        self._next_front += 1
        return self._next_front

    def leave(self) -> None:
        """Give the slot back; the first who waits gets it here and now."""
        if self.in_flight >= self._cap:
            self._note_pace()
        self.in_flight -= 1
        if self._line:
            self._let_in()

    def wake_all(self) -> None:
        """Tell everybody who waits to look again: another snapshot came, or the backend takes nothing new.

        Tell the lanes of a changed backend only: each waiter that is woken routes anew.
        """
        line, self._line = self._line, []
        for _, _, told in line:
            if not told.done():
                told.set_result(_Told.LOOK_AGAIN)

    def _new_place(self) -> int:
        if len(self._line) >= self.max_queue:
            retry_after = self._retry_after()
            raise QueueFull(f"its line is full: {self._busy()}; try again in {retry_after} s", retry_after)
        self._next_place += 1
        return self._next_place

    def _let_in(self) -> None:
        while self._line and self.in_flight < self._cap:
            _, _, told = self._line.pop(0)
            # One that was cancelled stands here until its task runs again.
            if not told.done():
                self.in_flight += 1
                told.set_result(_Told.ADMITTED)

    def _give_up(self, waiter: _Waiter) -> None:
        """It was cancelled: in the line, or in the very moment in which it was given a slot."""
        told = waiter[2]
        if not told.done() or told.cancelled():
            self._step_out(waiter)
        elif told.result() is _Told.ADMITTED:
            self.in_flight -= 1
            self._let_in()

    def _expire(self, waiter: _Waiter) -> None:
        self._step_out(waiter)
        if not waiter[2].done():
            waiter[2].set_result(_Told.TOO_LATE)

    def _step_out(self, waiter: _Waiter) -> None:
        index = bisect_left(self._line, _rank(waiter), key=_rank)
        if index < len(self._line) and self._line[index] is waiter:
            del self._line[index]

    def _note_pace(self) -> None:
        now = self._clock()
        took = now - self._full_since
        self._pace += (took - self._pace) * (PACE_WEIGHT if self._pace else 1.0)
        self._full_since = now

    def _retry_after(self) -> int:
        """Whole seconds until all who wait now have a slot, as it went lately; from 1 to `LONGEST_RETRY_AFTER`."""
        # All slots taken for longer than they usually are: then this is what they take.
        pace = max(self._pace, self._clock() - self._full_since)
        return max(1, min(LONGEST_RETRY_AFTER, math.ceil(pace * (len(self._line) + 1))))

    def _busy(self) -> str:
        return f"it answers {self.in_flight} (limit {self._limit}), {len(self._line)} wait (at most {self.max_queue})"


def ramped(limit: int | None, ready_for: float) -> int | None:
    """The limit of a backend that became ready so many (monotonic) seconds ago (rule B10).

    Whatever waited for a cold start arrives in the same moment, and a fresh vLLM still compiles kernels for the shapes
    that it meets first; a burst may be what killed it before. So a limit above `RAMP_ABOVE` starts at a quarter and is
    whole after `RAMP_SECONDS`. Smaller ones, and no limit, stay as they are: there queueing would be all cost. Let the
    line be longer by what is held back, so that the ramp delays requests and refuses none.
    """
    if limit is None or limit <= RAMP_ABOVE or ready_for >= RAMP_SECONDS:
        return limit
    share = RAMP_FROM + (1 - RAMP_FROM) * max(0.0, ready_for) / RAMP_SECONDS
    return max(RAMP_ABOVE, int(limit * share))
