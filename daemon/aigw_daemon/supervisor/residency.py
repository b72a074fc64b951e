"""Who may stay and who has to leave: idle backends and exclusive groups. Pure: from what runs to what is to stop.

Of a group one backend runs at a time. One that is asked for while another runs there waits for its turn, and the one
that runs makes way: at once when nobody uses it, else after its time of residency, however many requests it still
gets. Two models that are asked for in turn therefore each get to answer, and neither is starved.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from aigw_daemon.supervisor.lifecycle import Event

SHORTEST_RESIDENCY: Final = 10.0
"""Seconds that a backend in use keeps its place from when it is ready, though another one waits for it."""
LONGEST_RESIDENCY: Final = 120.0
"""The same for one whose start took long: it stays for as long as its start took, up to this."""
QUIET: Final = 2.0
"""Seconds without a request after which nobody uses it: those that waited for its start need a moment to arrive."""

_UNITS: Final = (("h", 3600), ("min", 60))


@dataclass(frozen=True)
class Tenant:
    """A backend that serves. Times in seconds."""

    name: str
    ready_for: float
    start_took: float
    in_flight: int
    quiet_for: float
    """Since the last sign of a request, or since it became ready."""
    idle_stop: float | None = None
    group: str | None = None


@dataclass(frozen=True)
class Departure:
    """A backend that is to drain and stop; a request starts it again."""

    name: str
    event: Event
    why: str


@dataclass(frozen=True)
class Applicant:
    """A backend that is to start although nobody asks for it just now."""

    name: str
    group: str | None
    runs: bool
    """Its process is there: left by an earlier daemon."""


def departures(tenants: Iterable[Tenant], awaited: Mapping[str, str]) -> list[Departure]:
    """Who is to leave now. ``awaited``: by the name of who has a place, who waits longest for it."""
    found = []
    for tenant in tenants:
        successor = awaited.get(tenant.name)
        if successor is not None and _may_be_put_out(tenant):
            why = f"evicted for {successor}, of the same group {tenant.group}; a request starts it again"
            found.append(Departure(tenant.name, Event.EVICTED, why))
        elif tenant.idle_stop is not None and _is_idle(tenant, tenant.idle_stop):
            why = f"stopped after {span(tenant.idle_stop)} without a request; a request starts it"
            found.append(Departure(tenant.name, Event.IDLE, why))
    return found


def admitted(applicants: Iterable[Applicant], occupied: Collection[str]) -> set[str]:
    """Of each group one, and sooner the one that runs; none of a group that is ``occupied`` by another.

    For starts that no request and no operator asked for: such a start puts nobody out.
    """
    taken, found = set(occupied), set()
    for applicant in sorted(applicants, key=lambda one: not one.runs):
        if applicant.group is None or applicant.group not in taken:
            found.add(applicant.name)
        if applicant.group is not None:
            taken.add(applicant.group)
    return found


def residency(start_took: float) -> float:
    """How long a backend in use keeps its place, in seconds from when it is ready."""
    return min(max(start_took, SHORTEST_RESIDENCY), LONGEST_RESIDENCY)


def span(seconds: float) -> str:
    """A setting in words: ``30 min``, ``90 s``."""
    for unit, size in _UNITS:
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def _may_be_put_out(tenant: Tenant) -> bool:
    return _is_idle(tenant, QUIET) or tenant.ready_for >= residency(tenant.start_took)


def _is_idle(tenant: Tenant, seconds: float) -> bool:
    # However short the setting: requests that waited for the start must find it.
    return tenant.in_flight == 0 and tenant.quiet_for >= max(seconds, QUIET)
