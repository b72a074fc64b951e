"""From a model's name to the ordered candidates that may answer it, each with the reason why it was kept or skipped.

Pure: a `Snapshot` is compiled once into a `RoutingTable`; `resolve` serves requests and ``aigw test-routing`` alike.
A name is looked up in this order: an exact route or alias, ``backend/model``, a model that some backend lists, a
pattern. So a pulled ``gpt-oss:20b`` is never swallowed by a ``gpt-*`` pattern. The fallback comes after a route's own
targets, never for a name that nothing matches.
"""

import difflib
import fnmatch
import re
from collections.abc import Iterable
from enum import StrEnum

import msgspec

from aigw_daemon.link.messages import BackendView, RouteView, Snapshot, TargetView
from aigw_daemon.words import SERVING, EngineKind, State

NEAREST_NAMES = 3
REGEX_MARK = "~"
"""A pattern that starts with it is a regular expression for the whole name, else a glob."""
DEFAULT_TAG = ":latest"


class Readiness(StrEnum):
    """Whether a candidate can answer now, can be waited for, or neither."""

    READY = "ready"
    COLD = "cold"
    SKIPPED = "skipped"


class Candidate(msgspec.Struct, frozen=True):
    """A target that was considered. ``reason`` says why it was kept or skipped, in a few words."""

    backend: str
    model: str
    readiness: Readiness
    reason: str
    fallback: bool = False
    """Whether it comes from the profile's fallback rather than the route."""

    @property
    def kept(self) -> bool:
        """Whether it may be tried."""
        return self.readiness is not Readiness.SKIPPED


class Decision(msgspec.Struct, frozen=True):
    """What a name resolves to. ``matched``: route, alias, direct, listed, pattern; None for an unknown name."""

    model: str
    matched: str | None
    route: str | None
    """The route's name, where a route matched."""
    candidates: tuple[Candidate, ...]
    cold: str = "wait"
    """While a candidate starts: wait for it, bridge with the next, or reject."""
    nearest: tuple[str, ...] = ()
    """Names that are near an unknown one."""

    @property
    def kept(self) -> tuple[Candidate, ...]:
        """The candidates that may be tried, in order."""
        return tuple(candidate for candidate in self.candidates if candidate.kept)


class RoutingTable:
    """A compiled snapshot: dictionaries, so that the common case is one look-up."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.backends = {backend.name: backend for backend in snapshot.backends}
        self.routes = {route.name: route for route in snapshot.routes if not route.pattern}
        self.patterns = tuple((_compiled(route), route) for route in snapshot.routes if route.pattern)
        self.listed = _listed(snapshot.backends)
        self._fallback = snapshot.fallback
        self._exact = {name: self._decide_route(route, frozenset(), name) for name, route in self.routes.items()}

    def names(self) -> list[str]:
        """Every name that can be asked for, patterns aside: routes first, then models that backends list."""
        return list(dict.fromkeys([*self.routes, *self.listed]))

    def exact(self, model: str) -> Decision | None:
        """The decision made in advance for a route or alias of this very name."""
        return self._exact.get(model)

    def decide(self, model: str, assume_down: frozenset[str]) -> Decision:
        """See `resolve`."""
        if route := self.routes.get(model):
            return self._decide_route(route, assume_down, model)
        if direct := self._direct(model):
            return self._decide_listed(model, "direct", [direct], assume_down)
        if targets := self.listed.get(model) or self.listed.get(model + DEFAULT_TAG):
            return self._decide_listed(model, "listed", targets, assume_down)
        for pattern, route in self.patterns:
            if pattern.fullmatch(model):
                return self._decide_route(route, assume_down, model)
        return Decision(model, None, None, (), nearest=nearest(model, self.names()))

    def _decide_route(self, route: RouteView, assume_down: frozenset[str], model: str) -> Decision:
        matched = "pattern" if route.pattern else "alias" if route.alias_of else "route"
        candidates = self._candidates(model, route.targets, route.fallback, assume_down)
        return Decision(model, matched, route.name, candidates, route.cold)

    def _decide_listed(
        self, model: str, matched: str, targets: Iterable[TargetView], assume_down: frozenset[str]
    ) -> Decision:
        return Decision(model, matched, None, self._candidates(model, targets, self._fallback, assume_down))

    def _direct(self, model: str) -> TargetView | None:
        name, slash, rest = model.partition("/")
        return TargetView(name, rest) if slash and rest and name in self.backends else None

    def _candidates(
        self, model: str, targets: Iterable[TargetView], fallback: Iterable[TargetView], assume_down: frozenset[str]
    ) -> tuple[Candidate, ...]:
        """Each target once, the route's own before the fallback; one without a model takes the name asked for."""
        own = dict.fromkeys((target.backend, target.model or model) for target in targets)
        later = dict.fromkeys((target.backend, target.model or model) for target in fallback)
        considered = [(key, False) for key in own] + [(key, True) for key in later if key not in own]
        return tuple(self._candidate(TargetView(*key), assume_down, fallback) for key, fallback in considered)

    def _candidate(self, target: TargetView, assume_down: frozenset[str], fallback: bool) -> Candidate:
        backend = self.backends.get(target.backend)
        if backend is None:
            return Candidate(target.backend, target.model, Readiness.SKIPPED, "no such backend", fallback)
        if target.backend in assume_down:
            return Candidate(target.backend, target.model, Readiness.SKIPPED, "assumed down", fallback)
        model = _served_name(backend, target.model)
        if model is None:
            served = ", ".join(view.id for view in backend.models)
            reason = f"does not serve {target.model!r}, it serves {served}"
            return Candidate(target.backend, target.model, Readiness.SKIPPED, reason, fallback)
        readiness, reason = _readiness(backend)
        return Candidate(target.backend, model, readiness, reason, fallback)


def resolve(table: RoutingTable, model: str, assume_down: frozenset[str] = frozenset()) -> Decision:
    """Which candidates answer ``model``, in order, with reasons; names near it when nothing matches.

    ``assume_down`` names backends to treat as down. Never raises.
    """
    if not assume_down and (decision := table.exact(model)):
        return decision
    return table.decide(model, assume_down)


def nearest(name: str, names: Iterable[str]) -> tuple[str, ...]:
    """The few names that are most like this one."""
    return tuple(difflib.get_close_matches(name[:200], list(names), NEAREST_NAMES))


def _readiness(backend: BackendView) -> tuple[Readiness, str]:
    state, why = backend.state, f": {backend.why}" if backend.why else ""
    if state in SERVING:
        return Readiness.READY, f"{state}{why}"
    match state:
        case State.STARTING | State.SLEEPING:
            return Readiness.COLD, f"{state}: a request waits for it"
        case State.STOPPED if backend.wanted:
            return Readiness.COLD, "stopped: a request starts it"
        case State.STOPPED:
            return Readiness.SKIPPED, f"stopped by the operator{why}"
        case _:
            return Readiness.SKIPPED, f"{state}{why}"


def _served_name(backend: BackendView, model: str) -> str | None:
    """The name as the backend lists it; None when it lists others only. One that lists nothing yet is believed."""
    served = {view.id for view in backend.models}
    if not served or model in served:
        return model
    tagged = model + DEFAULT_TAG
    return tagged if backend.engine is EngineKind.OLLAMA and tagged in served else None


def _listed(backends: Iterable[BackendView]) -> dict[str, list[TargetView]]:
    found: dict[str, list[TargetView]] = {}
    for backend in backends:
        for view in backend.models:
            found.setdefault(view.id, []).append(TargetView(backend.name, view.id))
    return found


def _compiled(route: RouteView) -> re.Pattern[str]:
    if route.name.startswith(REGEX_MARK):
        return re.compile(route.name[len(REGEX_MARK) :])
    return re.compile(fnmatch.translate(route.name))
