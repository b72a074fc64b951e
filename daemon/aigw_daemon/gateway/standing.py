"""How each backend stands with this worker, beside what the snapshot says: its lane and its circuit.

Kept across snapshots, so that a new one neither forgets who waits nor heals what is broken.
"""

import asyncio
from collections.abc import Callable, Iterator
from time import monotonic

from aigw_daemon.gateway.activity import Activity
from aigw_daemon.gateway.admission import RAMP_SECONDS, Lane, ramped
from aigw_daemon.gateway.breaker import Breaker, Breakers
from aigw_daemon.gateway.decision import CALM, Conditions
from aigw_daemon.gateway.usage_support import UsageSupport
from aigw_daemon.link.messages import BackendView, Snapshot
from aigw_daemon.words import SERVING, State

RAMP_STEP_SECONDS = 1.0
_BEFORE_A_START = frozenset(
    {State.STOPPED, State.STARTING, State.BACKOFF, State.FAILED, State.STOPPING, State.SLEEPING}
)
"""What comes ready out of these is another process, and its circuit a new one. An attached URL that was unreachable is
not among them: a probe's success must not close what requests have opened (rule B9)."""


def _is_another(old: BackendView, new: BackendView) -> bool:
    """Whether another process serves. The snapshots in between may have been missed, so the PIDs count as well."""
    return old.state in _BEFORE_A_START or old.pid != new.pid


class Standings:
    """All lanes and circuits. ``on_change`` is called when a circuit moved: what was decided before is out of date."""

    def __init__(self, on_change: Callable[[], None], clock: Callable[[], float] = monotonic) -> None:
        self.activity = Activity()
        """Of all these lanes."""
        self._on_change = on_change
        self._clock = clock
        self._lanes: dict[str, Lane] = {}
        self._breakers = Breakers(self._moved)
        self._usage: dict[str, UsageSupport] = {}
        self._views: dict[str, BackendView] = {}
        self._ready_at: dict[str, float] = {}
        self._circuit_timer: asyncio.TimerHandle | None = None
        self._ramp_timer: asyncio.TimerHandle | None = None

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def lane(self, backend: str) -> Lane:
        """The backend's own, made when it is first asked for."""
        lane = self._lanes.get(backend)
        if lane is None:
            lane = self._lanes[backend] = Lane(backend, activity=self.activity)
        return lane

    def breaker(self, backend: str) -> Breaker:
        """The backend's own."""
        return self._breakers.of(backend)

    def usage(self, backend: str) -> UsageSupport:
        """Whether the backend lets the gateway ask for usage."""
        return self._usage.setdefault(backend, UsageSupport())

    @property
    def in_flight(self) -> int:
        """Requests that some backend is answering."""
        return sum(lane.in_flight for lane in self)

    def counts(self) -> dict[str, int]:
        """Requests in flight by backend."""
        return {lane.backend: lane.in_flight for lane in self}

    def broken(self) -> dict[str, str]:
        """Why backends are not asked, where their circuit says no."""
        now = self._clock()
        return {breaker.backend: why for breaker in self._breakers if (why := breaker.reason(now)) is not None}

    def refused(self) -> tuple[str, ...]:
        """Backends where nobody listens."""
        return tuple(breaker.backend for breaker in self._breakers if breaker.refused)

    def conditions(self) -> Conditions:
        """For the router: `CALM` itself while every circuit is closed."""
        broken = self.broken()
        return Conditions(broken=broken) if broken else CALM

    def update(self, snapshot: Snapshot) -> None:
        """Take over what the snapshot says of each backend, and wake those who wait for one that changed."""
        before, self._views = self._views, {view.name: view for view in snapshot.backends}
        self._breakers.keep(self._views)
        for name, view in self._views.items():
            old = before.get(name)
            if old is not None and view.state in SERVING and _is_another(old, view):
                self._breakers.of(name).replaced()
                self._ready_at[name] = self._clock()
            if old is not None and _may_be_another(old, view):
                self.usage(name).reset()
            self._open_lane(view)
            if old is not None and old.state is not view.state:
                self.lane(name).wake_all()
        for gone in before.keys() - self._views.keys():
            self.lane(gone).wake_all()
            self._usage.pop(gone, None)
        # A removed backend's lane stays while somebody is in it: the daemon must hear that it empties.
        self._lanes = {
            name: lane for name, lane in self._lanes.items() if name in self._views or lane.in_flight or lane.waiting
        }

    def _open_lane(self, view: BackendView) -> None:
        lane = self.lane(view.name)
        ready_for = self._clock() - self._ready_at.get(view.name, float("-inf"))
        limit = ramped(view.max_concurrency, ready_for)
        held_back = (view.max_concurrency or 0) - (limit or 0)
        lane.max_queue = view.max_queue + held_back
        lane.limit = limit
        if ready_for < RAMP_SECONDS and held_back and self._ramp_timer is None:
            self._ramp_timer = asyncio.get_running_loop().call_later(RAMP_STEP_SECONDS, self._ramp)

    def _ramp(self) -> None:
        self._ramp_timer = None
        for view in self._views.values():
            self._open_lane(view)

    def _moved(self, _breaker: Breaker) -> None:
        self._on_change()
        if self.activity.asleep:
            self.activity.wake()
        self._set_circuit_timer()

    def _set_circuit_timer(self) -> None:
        if self._circuit_timer is not None:
            self._circuit_timer.cancel()
            self._circuit_timer = None
        if (due := self._breakers.next_change()) is not None:
            delay = max(0.0, due - self._clock())
            self._circuit_timer = asyncio.get_running_loop().call_later(delay, self._refresh)

    def _refresh(self) -> None:
        self._breakers.refresh(self._clock())
        # Anew even if nothing moved: loops count in milliseconds, so a timer can ring a little before its time.
        self._set_circuit_timer()


def _may_be_another(old: BackendView, new: BackendView) -> bool:
    """Whether what answers by this name may not be what answered before."""
    places = [(view.host, view.port, view.tls, view.base_path, view.revision) for view in (old, new)]
    return places[0] != places[1] or (old.state not in SERVING and new.state in SERVING)
