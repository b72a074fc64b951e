"""Why a target is kept or skipped: what its engine and model can do, and how its backend stands. Pure."""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from aigw_daemon.gateway.decision import NOBODY, Ask, Candidate, Conditions, Readiness
from aigw_daemon.gateway.matching import DEFAULT_TAG, Match, Names, served_name
from aigw_daemon.link.messages import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    RERANK,
    BackendView,
    ModelView,
    TargetView,
)
from aigw_daemon.words import SERVING, State

_ABILITY_OF: Final[Mapping[str, str]] = {
    CHAT: "chat",
    COMPLETIONS: "completions",
    EMBEDDINGS: "embeddings",
    RERANK: "rerank",
}
"""What a model that is good for an endpoint says it can do."""
ONE_MODEL: Final = frozenset({EMBEDDINGS, RERANK})
"""Endpoints whose answers of two models don't mix: a vector store would be corrupted by a fallback."""
_RANKS: Final[Mapping[Readiness, int]] = {Readiness.READY: 0, Readiness.COLD: 1, Readiness.SKIPPED: 2}
_NAMES_SHOWN: Final = 8
WAITED_FOR: Final = "; if no other target answers, requests wait until it is back"
"""What is said of a backend whose process aigw is replacing."""


class _Considered(msgspec.Struct, frozen=True):
    """A candidate, and why it could never answer this endpoint, if so."""

    candidate: Candidate
    unspoken: str | None
    digest: str | None


def candidates(names: Names, match: Match, ask: Ask, conditions: Conditions) -> tuple[Candidate, ...]:
    """Each target once, the route's own before the fallback; one without a model takes the name asked for."""
    own = {(target.backend, names.model_of(target, ask.model)): target.weight for target in match.targets}
    later = ((target.backend, names.model_of(target, ask.model)) for target in match.fallback)
    considered = [_consider(names, TargetView(*key, weight), ask, conditions, False) for key, weight in own.items()]
    considered += [
        _consider(names, TargetView(*key), ask, conditions, True) for key in dict.fromkeys(later) if key not in own
    ]
    found = _of_one_model(considered, ask) if ask.endpoint in ONE_MODEL else [each.candidate for each in considered]
    if conditions.broken:
        found = _unbroken(found, conditions.broken)
    if match.word == "capability":
        found.sort(key=_best_first)
    if match.route is not None and match.route.cold == "reject":
        found = [_not_waited_for(candidate) for candidate in found]
    return tuple(found)


def unspoken(backend: BackendView, view: ModelView | None, endpoint: str) -> str | None:
    """Why this endpoint can't be had here, if so. A model that says nothing about endpoints is believed."""
    if endpoint not in backend.endpoints:
        return f"{backend.engine} does not speak {endpoint} here, only {', '.join(backend.endpoints)}"
    if view is None or _ABILITY_OF.get(endpoint) in view.capabilities:
        return None
    said = [word for word in view.capabilities if word in _ABILITY_OF.values()]
    return f"{view.id!r} does not do {endpoint}, only {', '.join(said)}" if said else None


def _consider(names: Names, target: TargetView, ask: Ask, conditions: Conditions, fallback: bool) -> _Considered:
    backend = names.backends.get(target.backend)
    if backend is None:
        gone = "no backend lists it" if target.backend == NOBODY else "no such backend"
        skipped = Candidate(target.backend, target.model, Readiness.SKIPPED, gone, fallback, target.weight)
        return _Considered(skipped, gone, None)
    served = names.served[backend.name]
    model = served_name(backend, served, target.model)
    view = served.get(model) if model is not None else None
    silent = unspoken(backend, view, ask.endpoint)
    unfit = silent or _unfit(view, ask)
    reason = _not_served(target.model, served) if model is None and silent is None else unfit
    readiness, returning = Readiness.SKIPPED, False
    if reason is None:
        readiness, reason = _standing(backend, conditions)
        returning = _comes_back(backend, conditions)
    fit, name = unfit is None, model or target.model
    candidate = Candidate(backend.name, name, readiness, reason, fallback, target.weight, fit, returning)
    return _Considered(candidate, silent, view.digest if view is not None else None)


def _not_served(model: str, served: Mapping[str, ModelView]) -> str:
    more = f" and {len(served) - _NAMES_SHOWN} more" if len(served) > _NAMES_SHOWN else ""
    return f"does not serve {model!r}, it serves {', '.join(list(served)[:_NAMES_SHOWN])}{more}"


def _unfit(view: ModelView | None, ask: Ask) -> str | None:
    """What the request needs and the model is known to lack."""
    if view is None:
        return None
    if view.capabilities and (missing := ask.needs.difference(view.capabilities)):
        return f"{view.id!r} lacks {', '.join(sorted(missing))}, it has {', '.join(view.capabilities)}"
    if view.context is not None and view.context < ask.tokens:
        return f"its context of {view.context} tokens is less than the prompt's {ask.tokens} or more"
    return None


def _standing(backend: BackendView, conditions: Conditions) -> tuple[Readiness, str]:
    if backend.name in conditions.assume_down:
        return Readiness.SKIPPED, "assumed down"
    state, why = backend.state, f": {backend.why}" if backend.why else ""
    if state in SERVING:
        return _room(backend, conditions, f"{state}{why}")
    match state:
        case State.STARTING | State.SLEEPING:
            return Readiness.COLD, f"{state}: a request waits for it"
        case State.STOPPED if backend.wanted:
            return Readiness.COLD, "stopped: a request starts it"
        case State.STOPPED:
            return Readiness.SKIPPED, f"stopped by the operator{why}"
        case _:
            return Readiness.SKIPPED, f"{state}{why}{WAITED_FOR if backend.returning else ''}"


def _comes_back(backend: BackendView, conditions: Conditions) -> bool:
    """Whether it is between two processes, and on its way to the next."""
    return backend.returning and backend.state not in SERVING and backend.name not in conditions.assume_down


def _room(backend: BackendView, conditions: Conditions, said: str) -> tuple[Readiness, str]:
    """Taken places mean a queue, and a full queue the next candidate (the design's *Fallback*)."""
    places, busy = backend.max_concurrency, conditions.in_flight.get(backend.name, 0)
    if places is None or busy < places:
        return Readiness.READY, said
    waiting = conditions.waiting.get(backend.name, 0)
    if waiting >= backend.max_queue:
        return Readiness.SKIPPED, f"full: {busy} of {places} slots in use, {waiting} of {backend.max_queue} waiting"
    return Readiness.READY, f"{said}; {busy} of {places} slots in use, {waiting} waiting"


def _of_one_model(considered: Iterable[_Considered], ask: Ask) -> list[Candidate]:
    """Only the first model that does the endpoint, wherever it is served; whether it can answer now or not.

    The operator who wants another must say so by another name: what was stored under this one is of this model.
    """
    found: list[Candidate] = []
    first: _Considered | None = None
    for each in considered:
        if each.unspoken is None:
            first = first or each
        if first is None or each.unspoken is not None or _same_model(first, each):
            found.append(each.candidate)
        else:
            reason = f"another model than {first.candidate.model!r}, and {ask.endpoint} of two models don't mix"
            found.append(_skipped(each.candidate, reason))
    return found


def _same_model(one: _Considered, other: _Considered) -> bool:
    if one.digest is not None and one.digest == other.digest:
        return True
    return one.candidate.model.removesuffix(DEFAULT_TAG) == other.candidate.model.removesuffix(DEFAULT_TAG)


def _unbroken(found: list[Candidate], broken: Mapping[str, str]) -> list[Candidate]:
    """Without those whose circuit is open, but never without the last one (rule B7)."""
    kept = [candidate for candidate in found if candidate.kept]
    spared = kept[0] if kept and all(candidate.backend in broken for candidate in kept) else None
    return [_judged(candidate, broken, candidate is spared) for candidate in found]


def _judged(candidate: Candidate, broken: Mapping[str, str], spared: bool) -> Candidate:
    why = broken.get(candidate.backend)
    if why is None or not candidate.kept:
        return candidate
    if spared:
        reason = f"{candidate.reason}; its circuit is open ({why}), but nobody else is left"
        return msgspec.structs.replace(candidate, reason=reason)
    reason = f"its circuit is open: {why}"
    if candidate.readiness is Readiness.READY:
        return _skipped(candidate, reason)
    # The process to come has not failed: who wants no other candidate waits for it.
    reason += WAITED_FOR
    return msgspec.structs.replace(candidate, readiness=Readiness.SKIPPED, reason=reason, returning=True)


def _skipped(candidate: Candidate, reason: str) -> Candidate:
    if not (candidate.kept or candidate.returning):
        return candidate
    return msgspec.structs.replace(candidate, readiness=Readiness.SKIPPED, reason=reason, returning=False)


def _not_waited_for(candidate: Candidate) -> Candidate:
    """As it is told on a route that waits for nobody."""
    if not candidate.returning:
        return candidate
    return msgspec.structs.replace(candidate, reason=candidate.reason.removesuffix(WAITED_FOR))


def _best_first(candidate: Candidate) -> tuple[bool, int]:
    """Of a capability's models, what is ready comes before what must start, and what can't answer comes last."""
    return candidate.fallback, _RANKS[candidate.readiness]
