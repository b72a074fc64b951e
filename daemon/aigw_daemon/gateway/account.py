"""What the chain of candidates knows of a request, and writes down about it: what was asked, who answered, how long.

It may be one client's request (a `Call`), or one that is made for everybody who asks the same (the cache's flights).
Times inside are of the monotonic clock, in seconds.
"""

from time import perf_counter
from typing import Protocol

from aigw_daemon.gateway.answers import Usage
from aigw_daemon.gateway.controls import NONE, Controls
from aigw_daemon.gateway.decision import Ask, Decision
from aigw_daemon.gateway.failures import Met
from aigw_daemon.gateway.plans import Hop, Plan
from aigw_daemon.gateway.requests import Facts, asks


class Clock(Protocol):
    """Who holds the request's deadline."""

    @property
    def remaining(self) -> float:
        """Seconds until the deadline; infinite while its clock stands."""
        ...

    def allow(self, seconds: float) -> None:
        """Set the deadline to so many seconds from now; infinite makes its clock stand."""
        ...


class Account:
    """Filled in as a request goes along."""

    facts: Facts
    """Of its body, once that was read."""
    # What most requests never change stands here, once: setting it in each of them would take longer than parsing it.
    model = ""
    stream = False
    shared = False
    """Whether its answer is for several: then the usage frame is kept, for those among them who asked for it."""
    controls: Controls = NONE
    wanted: Ask | None = None
    """Memo of `asks`."""
    attempts = 0
    plan: Plan | None = None
    """The one that was looked up a moment ago, without an await since."""
    decision: Decision | None = None
    hop: Hop | None = None
    """The candidate that is being asked, or that answers."""
    met: tuple[Met, ...] = ()
    ttft: float | None = None
    usage: Usage | None = None
    finish_reason: str | None = None
    upstream_lines = b""
    """What is kept of the headers of the engine that was asked last: see `kept_headers`."""
    allowed: float | None = None
    """Seconds that it may take in all, where that isn't what the gateway allows every request."""
    _asked = 0.0
    _waited = 0.0

    clock: Clock

    def __init__(self, request_id: bytes, endpoint: str, body: bytes, clock: Clock) -> None:
        self.id = request_id
        self.endpoint = endpoint
        self.body = body
        self.clock = clock
        self._began = perf_counter()

    def asks(self, room: int) -> Ask:
        """See `requests.asks`. The body is read only once."""
        if self.wanted is None:
            self.wanted = asks(self.endpoint, self.facts, self.body, room)
        return self.wanted

    @property
    def elapsed(self) -> float:
        """Seconds since it arrived."""
        return perf_counter() - self._began

    def allow(self, seconds: float | None) -> None:
        """Set a deadline of its own, counted from its arrival; None keeps the gateway's."""
        if seconds is not None:
            self.allowed = seconds
            self.clock.allow(seconds - self.elapsed)

    def ask(self, hop: Hop) -> None:
        """An attempt begins: the time until `first_byte` or `end_wait` is the upstream's."""
        self.hop = hop
        self.attempts += 1
        if self.upstream_lines:
            self.upstream_lines = b""
        self._asked = perf_counter()

    def first_byte(self) -> None:
        """The upstream's answer begins."""
        now = perf_counter()
        self.ttft = now - self._began
        self._waited += now - self._asked
        self._asked = now

    def begin_wait(self) -> None:
        """What follows is a wait for somebody else, until `end_wait`."""
        self._asked = perf_counter()

    def end_wait(self) -> None:
        """The time since `ask`, `first_byte`, `begin_wait` or the last `end_wait` was not the gateway's."""
        now = perf_counter()
        self._waited += now - self._asked
        self._asked = now

    @property
    def committed(self) -> bool:
        """Whether a client has been promised its stream already."""
        return False

    def promise(self, hop: Hop, what: str) -> None:
        """Nobody but this candidate can answer any more: clients may be told ``what`` their stream waits for."""

    def retract(self) -> None:
        """Somebody else can answer again: nothing more may be promised."""

    def settle(self) -> None:
        """The wait is over, in whatever way."""

    def ending(self) -> None:
        """The last events of its stream have been written: a client may hang up as soon as it has them."""
