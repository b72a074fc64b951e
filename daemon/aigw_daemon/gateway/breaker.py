"""A circuit breaker per backend: whether to ask one that failed lately, and when to try again (rules B7 to B9). Pure.

Every `Permit` is a number that goes stale when the circuit moves. So an answer to a question from before the opening
neither closes nor opens anything, and neither does the late answer of a probe that was given up.

Times are monotonic seconds and come from the caller. Whether the last backend of a route is skipped, too, is the
router's decision: the breaker only says its state and its reason.
"""

import math
import random
from collections.abc import Callable, Collection, Iterator
from enum import StrEnum
from typing import Final, NewType

Permit = NewType("Permit", int)
"""The number under which a backend was asked."""

FAILURES_TO_OPEN: Final = 5
OPEN_SECONDS: Final = 30.0
REFUSED_OPEN_SECONDS: Final = 5.0
"""A refused connection costs a request nothing, so it is tried again sooner: engines come back within seconds."""
LONGEST_OPEN_SECONDS: Final = 300.0
LONGEST_COOLING_SECONDS: Final = 300.0
JITTER: Final = 0.2
"""Of the open time, to either side: circuits that opened together don't try together."""
FORGOTTEN_SECONDS: Final = 300.0
"""One that was closed for so long opens next for the shortest time again."""
PROBE_SECONDS: Final = 300.0
"""How long a probe may go without a word before another one is sent; doubled each time, so that slow ones can win."""
TRYING_SECONDS: Final = 1
"""What a client is told to wait while a probe is out: it is over at any moment."""


class Failure(StrEnum):
    """What counts against a backend. A 4xx, a 429 and a client that left don't."""

    REFUSED = "connection refused"
    UNREACHABLE = "no connection"
    RESET = "connection reset"
    TRUNCATED = "answer cut short"
    BAD_ANSWER = "no valid answer"
    TIMEOUT = "no answer in time"
    SERVER_ERROR = "answered 5xx"


class Circuit(StrEnum):
    """Closed lets everything through, half-open one request; the others none until their time is over."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"
    COOLING = "cooling"


class Breaker:
    """One backend's. Reports each thing that befell a permit exactly once; stale ones are ignored.

    The hot path asks ``breaker.permit if breaker.closed else breaker.admit(now)``, and after an answer
    ``if breaker.failures: breaker.succeeded(permit, now)``: while all is well that is one attribute each.
    """

    __slots__ = (
        "_closed_at",
        "_last",
        "_on_change",
        "_openings",
        "_patience",
        "_random",
        "_tripped",
        "_until",
        "backend",
        "closed",
        "failures",
        "permit",
        "state",
    )

    def __init__(
        self,
        backend: str,
        on_change: Callable[["Breaker"], None],
        random: Callable[[], float] = random.random,
    ) -> None:
        self.backend = backend
        self.state = Circuit.CLOSED
        self.closed = True
        """Whether `state` is closed: then `permit` is valid for everybody."""
        self.permit = Permit(1)
        """The one that counts now. Opening and giving a probe up make a new one, which nobody but a probe then gets."""
        self.failures = 0
        """In a row; above 0 whenever it isn't closed because of them."""
        self._on_change = on_change
        self._random = random
        self._last: Failure | None = None
        self._openings = 0
        """In a row, without `FORGOTTEN_SECONDS` of being closed between two."""
        self._closed_at = -math.inf
        self._tripped = False
        """Whether only a probe can close it."""
        self._until = math.inf
        """When the state ends by itself. Infinite while somebody may ask: closed, or half-open with no probe out."""
        self._patience = PROBE_SECONDS

    @property
    def refused(self) -> bool:
        """Whether nobody listened when it was asked last."""
        return not self.closed and self._last is Failure.REFUSED

    def admit(self, now: float) -> Permit | None:
        """Leave to ask the backend; None for no. In half-open one gets it, and is the probe."""
        self.refresh(now)
        if self.closed:
            return self.permit
        if self.state is Circuit.HALF_OPEN and self._until == math.inf:
            self._move(Circuit.HALF_OPEN, now + self._patience)
            return self.permit
        return None

    def succeeded(self, permit: Permit, now: float) -> None:
        """It answered: forget the failures; the probe's success closes the circuit."""
        if permit != self.permit:
            return
        self.failures = 0
        if self.state is Circuit.HALF_OPEN:
            self._close(now)

    def failed(self, permit: Permit, failure: Failure, now: float) -> None:
        """It failed: the fifth in a row opens the circuit; the probe's failure and a refused connection do at once."""
        if permit != self.permit:
            return
        self.failures += 1
        self._last = failure
        if self._tripped or failure is Failure.REFUSED or self.failures >= FAILURES_TO_OPEN:
            self._open(failure, now)

    def abandoned(self, permit: Permit) -> None:
        """Nothing was learnt (the client left, a 4xx, a 429 that names no time): another request may be the probe."""
        if permit == self.permit and self.state is Circuit.HALF_OPEN:
            self._void_permits()
            self._move(Circuit.HALF_OPEN, math.inf)

    def limited(self, permit: Permit, retry_after: float, now: float) -> None:
        """It answered 429 with Retry-After, in seconds: leave it alone so long, at most `LONGEST_COOLING_SECONDS`."""
        if permit != self.permit:
            return
        if retry_after <= 0:
            self.abandoned(permit)
            return
        if self._tripped:
            self._void_permits()
        until = now + min(retry_after, LONGEST_COOLING_SECONDS)
        if self.state is not Circuit.COOLING or until > self._until:
            self._move(Circuit.COOLING, until)

    def replaced(self) -> None:
        """Another process took the backend's place: the past of the old one says nothing about it (see rule B9).

        An active probe's success alone is no reason to call this.
        """
        self._openings = 0
        self._closed_at = -math.inf
        self._reset()

    def refresh(self, now: float) -> None:
        """Do what is due by time alone: `admit` does it for itself, a timer at `next_change` for the router."""
        if now < self._until:
            return
        if self.state is Circuit.COOLING and not self._tripped:
            self._move(Circuit.CLOSED, math.inf)
            return
        if self.state is Circuit.HALF_OPEN:
            self._void_permits()
            self._patience *= 2
        self._move(Circuit.HALF_OPEN, math.inf)

    def next_change(self) -> float | None:
        """When `refresh` has something to do; None while only an answer or a request can change it."""
        return None if self._until == math.inf else self._until

    def reason(self, now: float) -> str | None:
        """Why it isn't asked now; None when it may be."""
        if self._until == math.inf or now >= self._until:
            return None
        wait = f"next try in {_whole(self._until - now)} s"
        match self.state:
            case Circuit.COOLING:
                return f"cooling down after a 429; {wait}"
            case Circuit.OPEN:
                failures = f"{self.failures} failure{'s' if self.failures > 1 else ''}"
                return f"circuit open after {failures} ({self._last}); {wait}"
            case _:
                return "circuit half-open: one request is trying it"

    def retry_after(self, now: float) -> int | None:
        """Whole seconds, at least 1, after which to ask again; None when it may be asked now."""
        if self.reason(now) is None:
            return None
        return TRYING_SECONDS if self.state is Circuit.HALF_OPEN else _whole(self._until - now)

    def _open(self, failure: Failure, now: float) -> None:
        if not self._tripped and now - self._closed_at >= FORGOTTEN_SECONDS:
            self._openings = 0
        self._openings += 1
        self._tripped = True
        self._void_permits()
        until = now + open_seconds(failure, self._openings, self._random())
        # A 429 may have asked for more.
        self._move(Circuit.OPEN, max(until, self._until) if self.state is Circuit.COOLING else until)

    def _close(self, now: float) -> None:
        self._closed_at = now
        self._reset()

    def _reset(self) -> None:
        self.failures = 0
        self._tripped = False
        self._patience = PROBE_SECONDS
        self._void_permits()
        if not self.closed:
            self._move(Circuit.CLOSED, math.inf)

    def _void_permits(self) -> None:
        self.permit = Permit(self.permit + 1)

    def _move(self, state: Circuit, until: float) -> None:
        """The one place that writes the state."""
        self.state = state
        self._until = until
        self.closed = state is Circuit.CLOSED
        self._on_change(self)


def open_seconds(failure: Failure, openings: int, random: float) -> float:
    """How long a circuit stays open that opened so often in a row (rule B7); ``random`` is from 0 to 1."""
    first = REFUSED_OPEN_SECONDS if failure is Failure.REFUSED else OPEN_SECONDS
    jitter = 1 + JITTER * (2 * random - 1)
    return min(LONGEST_OPEN_SECONDS, first * openings * jitter)


def _whole(seconds: float) -> int:
    """Rounded up, at least 1; a millisecond is forgiven, for 300.0000000001 s are 300."""
    return max(1, math.ceil(seconds - 0.001))


class Breakers:
    """All of them. ``on_change`` is called with each that moved: what the router remembers is then out of date.

    The owner sets one timer to `next_change`, again after each `on_change`, and calls `refresh` when it rings.
    """

    def __init__(
        self,
        on_change: Callable[[Breaker], None],
        random: Callable[[], float] = random.random,
    ) -> None:
        self._on_change = on_change
        self._random = random
        self._breakers: dict[str, Breaker] = {}

    def __iter__(self) -> Iterator[Breaker]:
        return iter(self._breakers.values())

    def of(self, backend: str) -> Breaker:
        """The backend's own, made when it is first asked for."""
        found = self._breakers.get(backend)
        if found is None:
            found = self._breakers[backend] = Breaker(backend, self._on_change, self._random)
        return found

    def keep(self, backends: Collection[str]) -> None:
        """Forget all others: the snapshot names them no more."""
        self._breakers = {name: breaker for name, breaker in self._breakers.items() if name in backends}

    def refresh(self, now: float) -> None:
        """Do what is due by time alone."""
        for breaker in list(self):
            breaker.refresh(now)

    def next_change(self) -> float | None:
        """The next time at which `refresh` has something to do; None when nothing will happen by itself."""
        times = [time for breaker in self if (time := breaker.next_change()) is not None]
        return min(times, default=None)
