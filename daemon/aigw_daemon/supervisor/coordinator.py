"""The one who decides what concerns several backends: who has been idle for too long, and who makes way for whom.

It looks at all that serve, twice a second, asks `residency` and passes the answer on. Backends never call each other.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NoReturn

from aigw_daemon.supervisor.backend import Backend, Edges
from aigw_daemon.supervisor.bringup import process_section
from aigw_daemon.supervisor.managed import ManagedBackend
from aigw_daemon.supervisor.progress import STALE_SECONDS
from aigw_daemon.supervisor.residency import Tenant, departures
from aigw_daemon.supervisor.traffic import Traffic
from aigw_daemon.words import SERVING

LOOK_SECONDS: Final = 0.5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Sign:
    """The last that was seen of a backend's requests; ``at`` in monotonic seconds."""

    ready_at: float
    relayed: int
    at: float


class Coordinator:
    """Watches what serves. ``backends`` gives all of the active profile."""

    def __init__(self, edges: Edges, backends: Callable[[], Iterable[Backend]]) -> None:
        self._edges = edges
        self._backends = backends
        self._signs: dict[str, _Sign] = {}
        self._used: Counter[str] = Counter()

    async def run(self) -> NoReturn:
        """Look again and again, until cancelled."""
        while True:
            await self._edges.clock.sleep(LOOK_SECONDS)
            try:
                self._look()
            except Exception:  # a bug of ours here must not take the backends along
                log.exception("cannot decide who is to leave")

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Meanwhile the backend is busy, though the gateway has no request on it."""
        self._used[name] += 1
        try:
            yield
        finally:
            self._used[name] -= 1

    def _look(self) -> None:
        serving = {
            backend.name: backend
            for backend in self._backends()
            if isinstance(backend, ManagedBackend) and backend.state in SERVING
        }
        tenants = [self._tenant(backend) for backend in serving.values()]
        self._signs = {name: sign for name, sign in self._signs.items() if name in serving}
        for departure in departures(tenants, self._edges.groups.awaited):
            serving[departure.name].leave(departure.event, departure.why)

    def _tenant(self, backend: ManagedBackend) -> Tenant:
        now, section = self._edges.clock.monotonic(), process_section(backend.plan)
        ready_at = backend.ready_at if backend.ready_at is not None else now
        traffic = self._edges.traffic(backend.name)
        in_flight = self._in_flight(backend.name, traffic, now)
        return Tenant(
            backend.name,
            ready_for=now - ready_at,
            start_took=backend.start_took,
            in_flight=in_flight,
            quiet_for=now - self._last_sign(backend.name, ready_at, traffic.relayed, now, busy=in_flight > 0),
            idle_stop=section.idle_stop,
            group=section.group,
        )

    def _in_flight(self, name: str, traffic: Traffic, now: float) -> int:
        # What the gateway said long ago counts no more: its worker may be gone, and its requests with it.
        told = traffic.in_flight if now - traffic.told_at < STALE_SECONDS else 0
        return told + self._used[name]

    def _last_sign(self, name: str, ready_at: float, relayed: int, now: float, *, busy: bool) -> float:
        """When it was last used. A request that came and went between two looks shows by what was relayed."""
        before = self._signs.get(name)
        if before is None or before.ready_at != ready_at:
            before = _Sign(ready_at, relayed, ready_at)
        at = now if busy or relayed != before.relayed else before.at
        self._signs[name] = _Sign(ready_at, relayed, at)
        return at
